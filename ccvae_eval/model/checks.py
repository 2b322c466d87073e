"""Calls of a model in evaluation mode, and checks of its return values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ccvae_eval.core.errors import LabelMismatchError, NonFiniteError, PluginError
from ccvae_eval.core.types import Gaussian, Images, Labels
from ccvae_eval.model.fixed_batches import fixed_batch, padded
from ccvae_eval.model.interface import (
    LabelledVAE,
    LabelSchema,
    LatentLayout,
    TakesShape,
    supports,
    type_name,
    unwrapped,
)
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.model.wrap import PixelRangeModel, WrappedVAE
from ccvae_eval.plugins.attribution import name_and_origin, plugin_call

MODEL_MEMBERS = {"layout": LatentLayout, "labels": LabelSchema, "encode": Callable, "decode": Callable}
PIXEL_TOLERANCE = 1e-3
"""Rounding error allowed in decoded pixels, which must lie in [0, 1]."""
MAX_OVERSHOOT, MAX_MEAN_OVERSHOOT = 0.5, 0.05
"""Distance of decoded pixels from the model's range above which the range is wrong, as a share of its width."""
COMMON_RANGES = ((0, 1, False), (0, 1, True), (-1, 1, False), (0, 255, False))
MUCH_BETTER, GOOD = 0.7, 0.5
"""Largest error of a suspected range: relative to that of the model's range, and to the variance of the pixels."""
BATCH_TOLERANCE = 1e-3
"""Allowed effect of the other images of a batch on a posterior mean, in standard deviations of all means."""


def networks_of(model: object) -> list[torch.nn.Module]:
    """Returns the model if it is a torch module, else the modules behind it: in a proxy or a wrapped function."""
    inner = model if isinstance(model, torch.nn.Module) else unwrapped(model)
    if isinstance(inner, torch.nn.Module):
        return [inner]
    own = getattr(inner, "modules", None)
    return list(own()) if callable(own) else []


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Evaluation mode without gradients; restores the model's mode and the global random state on return."""
    in_training = [part for module in networks_of(model) for part in module.modules() if part.training]
    uses_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    state, gpu_states = torch.get_rng_state(), torch.cuda.get_rng_state_all() if uses_gpu else []
    for part in in_training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_rng_state(state)
        if gpu_states:
            torch.cuda.set_rng_state_all(gpu_states)
        for part in in_training:
            part.training = True


@contextmanager
def model_call(model: object, call: str) -> Iterator[None]:
    """A call in :func:`evaluation_mode` whose exceptions become errors that name the model and the call."""
    with plugin_call(unwrapped(model), "model", call), evaluation_mode(model):
        yield


def _return_error(model: LabelledVAE, what: str, hint: str) -> PluginError:
    name, origin = name_and_origin(unwrapped(model))
    return PluginError(f"model {name}: {what}", where=origin, hint=hint)


def require_posterior(model: LabelledVAE, found: object) -> Gaussian:
    """Returns ``found`` if it is a posterior over the model's latent dimensions.

    Raises:
        PluginError: not a Gaussian, not of shape (N, ``model.layout.dim``), or negative deviations.
    """
    if not isinstance(found, Gaussian):
        raise _return_error(
            model,
            f"encode(images) returned {type(found).__name__}, expected a Gaussian",
            "Return Gaussian(mean, standard deviation). A log-variance v gives the deviation (v / 2).exp().",
        )
    shape, dim = tuple(found.loc.shape), model.layout.dim
    if len(shape) != 2 or shape[1] != dim or found.scale.shape != found.loc.shape:
        raise _return_error(
            model,
            f"encode(images) returned means of shape {shape} and deviations of shape {tuple(found.scale.shape)}",
            f"layout has {dim} latent dimensions, so both must be (N, {dim}). Flatten feature maps and concatenate "
            "the levels of a hierarchical model.",
        )
    if bool((found.scale < 0).any()):
        raise _return_error(
            model,
            f"encode(images) returned negative standard deviations, down to {float(found.scale.min()):.3g}",
            'Are they log-variances? Then: wrap(..., scale="logvar"). Logarithms of deviations: scale="logstd".'
            if isinstance(model, WrappedVAE)
            else "Are they log-variances? Then return (v / 2).exp(). Logarithms of deviations: v.exp().",
        )
    return found


def require_finite(model: LabelledVAE, images: Images) -> None:
    """Raises a NonFiniteError if a decoded image is not finite."""
    # a finite sum implies finite pixels; checking every pixel costs more
    if not math.isfinite(images.sum().item()) and not bool(torch.isfinite(images).all()):
        raise NonFiniteError("the decoder returned NaN or infinity", where=type_name(model))


def first_batch_warnings(
    model: LabelledVAE, images: Images, posterior: Gaussian, labels: Labels | None = None
) -> list[str]:
    """Warnings about settings of a model that seem to be wrong, from its first batch.

    A decoder that raises an exception, or returns something other than finite images of this shape, is left to the
    metrics that use it.

    Args:
        model: the model, on the device of the images.
        images: at most one fixed batch of images in [0, 1], or points.
        posterior: q(z|x) of these images.
        labels: their labels, for an encoder that takes labels.

    Raises:
        PluginError: the decoded pixels, before they are clipped, are far outside the model's range.
    """
    warnings = _batch_warnings(model, images, posterior, labels)
    converted = model if isinstance(model, WrappedVAE | PixelRangeModel) else None
    try:
        with model_call(model, "decode(codes)"):
            codes = padded(posterior.loc, fixed_batch(images.device, images.shape[1:])).to(images.device)
            raw = model.decode(codes) if converted is None else converted.decode_unclipped(codes)
    except Exception:
        return warnings
    shape = (len(codes), *images.shape[1:])
    if not isinstance(raw, Tensor) or tuple(raw.shape) != shape or raw.ndim == 2 or not bool(raw.isfinite().all()):
        return warnings
    warnings += _range_warnings(model, raw.float())
    return warnings if converted is None else warnings + _better_ranges(converted, images, raw, labels)


def _batch_warnings(model: LabelledVAE, images: Images, posterior: Gaussian, labels: Labels | None) -> list[str]:
    """A warning if the posterior of an image depends on its batch or on random numbers."""
    rows = torch.arange(len(images)).roll(1)[: len(images) // 2]  # other places, other neighbours
    if len(rows) == 0:
        return []
    size = fixed_batch(images.device, images.shape[1:])
    with model_call(model, f"encode(images), images of shape {tuple(images.shape[1:])}"):
        found = model.encode(padded(images[rows], size), None if labels is None else padded(labels[rows], size))
    change = float((found.loc[: len(rows)].cpu() - posterior.loc[rows]).abs().max())
    if not change > BATCH_TOLERANCE * float(posterior.loc.std()):
        return []
    return [
        f"The encoder of {type_name(model)} gives an image another posterior in another batch: is the network in "
        "training mode (dropout, batch normalisation)? Call its eval() first."
    ]


def _range_warnings(model: LabelledVAE, raw: Tensor) -> list[str]:
    """A warning about decoded pixels, before they are clipped, that are slightly outside the model's range."""
    pixels = model.pixels if isinstance(model, WrappedVAE | PixelRangeModel) else PixelRange()
    if pixels.logits:
        return []
    low, high = (float(pixel) for pixel in torch.aminmax(raw))
    limits = f"[{pixels.low:g}, {pixels.high:g}]"
    outside = (raw - raw.clamp(pixels.low, pixels.high)).abs() / (pixels.high - pixels.low)
    most = float(outside.max())
    if most > MAX_OVERSHOOT or float(outside.mean()) > MAX_MEAN_OVERSHOOT:
        raise _range_error(model, low, high, limits)
    if most <= PIXEL_TOLERANCE or not isinstance(model, WrappedVAE) or model.range_stated:
        return []
    what = (
        f"The decoder of {type_name(model)} returns pixels from {low:.3g} to {high:.3g}, which are clipped to {limits}"
    )
    return [f"{what}. {_range_hint(model, low, high)}"]


def _better_ranges(
    model: WrappedVAE | PixelRangeModel, images: Images, raw: Tensor, labels: Labels | None
) -> list[str]:
    """A warning if another pixel range reconstructs the images much better than the model's, which gave ``raw``."""
    own = float((model.pixels.from_model(raw)[: len(images)] - images).square().mean())
    errors = {model.pixels: own}
    for pixels in (PixelRange(*each) for each in COMMON_RANGES):
        if pixels == model.pixels:
            continue
        other = copy(model)
        other.pixels = pixels
        try:
            with model_call(model, "encode(images), decode(codes)"):
                codes = other.encode(padded(images, len(raw)), None if labels is None else padded(labels, len(raw))).loc
                errors[pixels] = float((other.decode(codes)[: len(images)] - images).square().mean())
        except Exception:
            continue
    best = min(errors, key=errors.__getitem__)
    if not errors[best] < min(MUCH_BETTER * own, GOOD * float(images.var())):
        return []
    if isinstance(model, WrappedVAE):
        settings = f"image_range=({best.low:g}, {best.high:g}), logits={best.logits}"
    else:
        settings = ", ".join(f"--set {key}={json.dumps(value)}" for key, value in best.as_settings().items())
    return [
        f"The first {len(images)} images are reconstructed better with {settings}: mean squared error "
        f"{errors[best]:.3g} instead of {own:.3g}. Is this the range of {type_name(model)}, of "
        "encoder and decoder alike?"
    ]


def _range_error(model: LabelledVAE, low: float, high: float, limits: str) -> PluginError:
    what = f"decode(codes) returned pixels from {low:.3g} to {high:.3g}, expected {limits}"
    return _return_error(model, what, _range_hint(model, low, high))


def _range_hint(model: LabelledVAE, low: float, high: float) -> str:
    """The settings that mend a wrong range of pixels, the most probable one first."""
    if isinstance(model, WrappedVAE):
        sigmoid, byte, signed, clip = "logits=True", "image_range=(0, 255)", "image_range=(-1, 1)", "image_range=(0, 1)"
    else:
        sigmoid, byte = "--set images.logits=true", "--set images.range=[0,255]"
        signed, clip = "--set images.range=[-1,1]", "--set images.range=[0,1]"
    logits = f"If the decoder returns logits: {sigmoid}."
    other = byte if high > 10 and low > -10 else signed
    scaled = f"If encoder and decoder share another range: {other} (if only one of them has it, rescale in its code)."
    likely = [scaled, logits] if (low >= -1.01 and high <= 1.01) or high > 20 else [logits, scaled]
    return " ".join([*likely, f"If it was trained on [0, 1] without a final sigmoid: {clip} clips."])


def require_images(model: LabelledVAE, found: object, count: int, input_shape: tuple[int, ...]) -> None:
    """Requires decoded images of the data's shape, in [0, 1].

    Raises:
        PluginError: not a tensor, of another shape than (``count``, ``input_shape``...), or pixels outside [0, 1].
    """
    if not isinstance(found, Tensor):
        raise _return_error(
            model,
            f"decode(codes) returned {type(found).__name__}, expected a tensor of images",
            "Return the mean image alone, in [0, 1].",
        )
    shape = (count, *input_shape)
    if tuple(found.shape) != shape:
        raise _return_error(
            model,
            f"decode(codes) returned images of shape {tuple(found.shape)}, the data have {shape}",
            "Was it trained on images of another size or number of channels? Many data sets can be resized: --data "
            "NAME:PATH,size=32.",
        )
    low, high = (float(pixel) for pixel in torch.aminmax(found.detach()))
    in_range = low >= -PIXEL_TOLERANCE and high <= 1 + PIXEL_TOLERANCE
    if found.ndim > 2 and not in_range and bool(torch.isfinite(found).all()):
        raise _range_error(model, low, high, "[0, 1]")


def require_model(network: Any, name: str) -> None:
    """Requires the members of ``LabelledVAE``.

    Raises:
        PluginError: a member is missing or of another type; lists all of them.
    """
    members: Mapping[str, Any] = MODEL_MEMBERS
    missing = [member for member, kind in members.items() if not isinstance(getattr(network, member, None), kind)]
    if missing:
        raise PluginError(
            f"model {name!r} cannot be evaluated",
            where=name_and_origin(unwrapped(network))[1],
            why=f"{type_name(network)} has no {', '.join(missing)}",
            hint="A model needs layout (LatentLayout), labels (LabelSchema), encode(images) -> Gaussian and "
            "decode(codes) -> images in [0, 1]. `ccvae-eval new model NAME` writes a template.",
        )


def require_module_class(kind: Any, name: str, where: str) -> type[torch.nn.Module]:
    """Requires a registered model to be a subclass of ``nn.Module``, which can be trained and loaded from weights.

    Raises:
        PluginError: it is not.
    """
    if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
        return kind
    if isinstance(kind, type):
        hint = f"Derive {kind.__name__} from torch.nn.Module, or evaluate an instance in Python: ccvae_eval.evaluate."
    else:
        hint = "Register the class itself, not an instance or a function."
    why = f"{getattr(kind, '__name__', kind)} is not a subclass of nn.Module"
    raise PluginError(f"model {name!r} cannot be built", where=where, why=why, hint=hint)


def require_shape(network: object, input_shape: tuple[int, ...], where: str) -> None:
    """Requires data of the model's ``input_shape``, if it has one; checked before the model is run.

    Raises:
        LabelMismatchError: the shapes differ; names both.
    """
    if supports(network, TakesShape) and tuple(network.input_shape) != tuple(input_shape):
        expected, got = (" x ".join(map(str, shape)) for shape in (network.input_shape, input_shape))
        kind = "images" if len(network.input_shape) == 3 else "inputs"
        hint = f"Many data sets can be resized: --data NAME:PATH,size={network.input_shape[-1]}."
        if len(network.input_shape) == len(input_shape) == 3 and network.input_shape[0] != input_shape[0]:
            hint = "The number of channels differs, which resizing does not change."
            if (channels := network.input_shape[0]) in (1, 3):
                hint += f" Image files can be read with other channels: --data folder:PATH,channels={channels}."
        raise LabelMismatchError(
            f"the model expects {expected} {kind}, got {got}",
            where=where,
            why=f"{type_name(network)} was built for this shape",
            hint=hint,
        )
