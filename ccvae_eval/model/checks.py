"""Calls of a model in evaluation mode, and checks of its return values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ccvae_eval.core.errors import LabelMismatchError, PluginError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import (
    LabelledVAE,
    LabelSchema,
    LatentLayout,
    TakesShape,
    supports,
    type_name,
    unwrapped,
)
from ccvae_eval.plugins.attribution import name_and_origin, plugin_call

MODEL_MEMBERS = {"layout": LatentLayout, "labels": LabelSchema, "encode": Callable, "decode": Callable}
PIXEL_TOLERANCE = 1e-3
"""Rounding error allowed in decoded pixels, which must lie in [0, 1]."""


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
        PluginError: not a Gaussian, or not of shape (N, ``model.layout.dim``).
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
    return found


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
        raise _return_error(
            model,
            f"decode(codes) returned pixels from {low:.3g} to {high:.3g}, expected [0, 1]",
            "If the decoder returns logits: --set images.logits=true. If it was trained on another range: --set "
            "images.range=[-1,1]. If it was trained on [0, 1] without a final sigmoid: --set images.range=[0,1] clips.",
        )


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
        raise LabelMismatchError(
            f"{type_name(network)} takes inputs of shape {tuple(network.input_shape)}, the data have "
            f"{tuple(input_shape)}",
            where=where,
            hint=f"Many data sets can be resized: --data NAME:PATH,size={network.input_shape[-1]}.",
        )
