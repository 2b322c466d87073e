"""How a model is asked, and whether what it answers can be computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ccvae_eval.core.errors import LabelMismatchError, PluginError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import LabelledVAE, LabelSchema, LatentLayout, TakesShape
from ccvae_eval.plugins.attribution import blamed, name_and_home

MODEL_MEMBERS = {"layout": LatentLayout, "labels": LabelSchema, "encode": Callable, "decode": Callable}
LEEWAY = 1e-3
"""How far a decoded pixel may lie outside [0, 1]: rounding, and not another range."""


@contextmanager
def undisturbed(model: object) -> Iterator[None]:
    """Evaluation mode and no gradients inside; the model's mode and the global random state as before on return."""
    parts: list[torch.nn.Module] = []
    if isinstance(model, torch.nn.Module):
        parts = list(model.modules())
    elif callable(own := getattr(model, "modules", None)):
        parts = [part for module in own() for part in module.modules()]
    in_training = [part for part in parts if part.training]
    state, cards = torch.get_rng_state(), _states_of_cards()
    for part in in_training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_rng_state(state)
        if cards:
            torch.cuda.set_rng_state_all(cards)
        for part in in_training:
            part.training = True


def _states_of_cards() -> list[Tensor]:
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if started else []


@contextmanager
def asked(model: object, call: str) -> Iterator[None]:
    """:func:`undisturbed`, and what the model raises names the model and this call."""
    with blamed(model, "model", call), undisturbed(model):
        yield


def _wrong(model: LabelledVAE, what: str, hint: str, why: str = "") -> PluginError:
    name, home = name_and_home(model)
    return PluginError(f"model {name}: {what}", where=home, why=why, hint=hint)


def require_posterior(model: LabelledVAE, found: object) -> Gaussian:
    """Refuses what is no posterior over the model's columns.

    Raises:
        PluginError: it is no Gaussian, or has another number of columns than ``model.layout``.
    """
    if not isinstance(found, Gaussian):
        raise _wrong(
            model,
            f"encode(images) returned {type(found).__name__}, a Gaussian is expected",
            "Return Gaussian(mean, standard deviation); of a log variance v the deviation is (v / 2).exp().",
        )
    shape, dim = tuple(found.loc.shape), model.layout.dim
    if len(shape) != 2 or shape[1] != dim or found.scale.shape != found.loc.shape:
        raise _wrong(
            model,
            f"encode(images) gave means of shape {shape} and deviations of shape {tuple(found.scale.shape)}",
            f"layout has {dim} columns: both must be (N, {dim}). Maps are flattened, levels stand side by side.",
        )
    return found


def require_images(model: LabelledVAE, found: object, count: int, input_shape: tuple[int, ...]) -> None:
    """Refuses what are no images like the data's.

    Raises:
        PluginError: no tensor, another shape than the data's, or pixels outside [0, 1].
    """
    if not isinstance(found, Tensor):
        raise _wrong(
            model,
            f"decode(codes) returned {type(found).__name__}, a tensor of images is expected",
            "Return the mean image alone, in [0, 1].",
        )
    shape = (count, *input_shape)
    if tuple(found.shape) != shape:
        raise _wrong(
            model,
            f"decode(codes) gave images of shape {tuple(found.shape)}, the data's are {shape}",
            "Data of another size or number of channels? Many data sets take another size: --data NAME:PATH,size=32.",
        )
    low, high = (float(pixel) for pixel in torch.aminmax(found.detach()))
    if found.ndim > 2 and not (low >= -LEEWAY and high <= 1 + LEEWAY) and bool(torch.isfinite(found).all()):
        raise _wrong(
            model,
            f"decode(codes) gave pixels from {low:.3g} to {high:.3g}, images are expected in [0, 1]",
            "Logits: --set images.logits=true. Trained on another range: --set images.range=[-1,1]. A decoder without "
            "bounds that was trained on [0, 1]: --set images.range=[0,1] cuts off what lies outside.",
        )


def require_model(network: Any, who: str) -> None:
    """Refuses what is no model, and says what it lacks.

    Raises:
        PluginError: a member of ``LabelledVAE`` is missing, or layout and labels are of other types.
    """
    members: Mapping[str, Any] = MODEL_MEMBERS
    lacking = [name for name, kind in members.items() if not isinstance(getattr(network, name, None), kind)]
    if lacking:
        raise PluginError(
            f"model {who!r} cannot be evaluated",
            where=name_and_home(network)[1],
            why=f"{type(network).__name__} has no {', '.join(lacking)}",
            hint="A model has layout (LatentLayout), labels (LabelSchema), encode(images) -> Gaussian and "
            "decode(codes) -> images in [0, 1]. `ccvae-eval new model NAME` writes one to start from.",
        )


def require_shape(network: object, input_shape: tuple[int, ...], where: str) -> None:
    """Refuses data of another shape than the model says it takes, before anything is run.

    Raises:
        LabelMismatchError: naming both shapes.
    """
    if isinstance(network, TakesShape) and tuple(network.input_shape) != tuple(input_shape):
        raise LabelMismatchError(
            f"{type(network).__name__} takes inputs of shape {tuple(network.input_shape)}, the data's are "
            f"{tuple(input_shape)}",
            where=where,
            hint="Several data sets take another size: --data NAME:PATH,size=64.",
        )
