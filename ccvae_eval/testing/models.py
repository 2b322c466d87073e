"""The contract of models: shapes, ranges, independence of rows, capabilities that do what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UsageError, require
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Gaussian, Images, Labels, Points
from ccvae_eval.model.checks import undisturbed
from ccvae_eval.model.fixed_batches import CHUNK
from ccvae_eval.model.interface import (
    Batch,
    GivenLabels,
    HasConditionalPrior,
    Intervenes,
    LabelledVAE,
    Predicts,
    Rebuildable,
    Trainable,
)

SAME = 1e-5
"""Relative tolerance between two batches: float32 networks differ in the last bits with the batch's size."""


def check_model(model: LabelledVAE, images: Images | Points, labels: Labels) -> None:
    """Checks one model on some images; returns if it keeps the contract.

    Args:
        model: any model; its parameters are left as they are.
        images: at least two, of the shape that the model takes.
        labels: shape (N, L) in the order of ``model.labels``; NaN = missing. (N, 0) for a model without labels.

    Raises:
        ContractBroken: naming the model and what it does not keep.
    """
    who = type(model).__name__
    require(isinstance(model, LabelledVAE), who, "a model has layout, labels, encode and decode")
    require(len(images) > 1, who, "the check needs at least two images")
    modes = _modes(model)
    state = torch.get_rng_state()
    given = labels if isinstance(model, GivenLabels) else None
    with undisturbed(model):
        _check_names(model, who)
        posterior = _check_encoding(model, images, given, who)
        codes = posterior.at(torch.randn(posterior.loc.shape, generator=torch_stream(0, "contract")))
        _check_decoding(model, codes, images, who)
        if isinstance(model, Predicts):
            _check_prediction(model, model, images, codes, who)
        if isinstance(model, HasConditionalPrior):
            _check_prior(model, model, labels, who)
        if isinstance(model, Intervenes):
            _check_intervention(model, model, images, codes, who)
    if isinstance(model, Rebuildable):
        _check_rebuilding(model, images, given, who)
    if isinstance(model, Trainable):
        _check_objectives(model, images, labels, who)
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call draws from the global random generator")
    require(modes == _modes(model), who, "no call changes the mode (train, eval) that it found")


def _modes(model: object) -> list[bool]:
    return [part.training for part in model.modules()] if isinstance(model, torch.nn.Module) else []


def _check_names(model: LabelledVAE, who: str) -> None:
    layout, labels = model.layout, model.labels
    for name in layout.characteristics:
        require(name in labels, who, f"characteristic {name!r} is one of the labels {', '.join(labels.names)}")
    if isinstance(model, GivenLabels):
        for name in model.given:
            require(name in layout.characteristics, who, f"given names characteristics, {name!r} is none")


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=SAME, atol=SAME))


def _check_encoding(model: LabelledVAE, images: Images | Points, given: Labels | None, who: str) -> Gaussian:
    posterior = model.encode(images, given)
    require(isinstance(posterior, Gaussian), who, "encode returns a Gaussian")
    shape = (len(images), model.layout.dim)
    for part, tensor in (("loc", posterior.loc), ("scale", posterior.scale)):
        require(tuple(tensor.shape) == shape, who, f"encode's {part} has shape {shape}, not {tuple(tensor.shape)}")
        require(tensor.dtype == torch.float32, who, f"encode's {part} is float32, not {tensor.dtype}")
        require(bool(torch.isfinite(tensor).all()), who, f"encode's {part} is finite")
    require(bool((posterior.scale >= 0).all()), who, "encode's scale is not negative")
    again = model.encode(images, given)
    require(bool(torch.equal(posterior.loc, again.loc)), who, "encode gives the same for the same images (it draws)")
    back = model.encode(images.flip(0), None if given is None else given.flip(0))
    require(_close(posterior.loc, back.loc.flip(0)), who, "encode treats each image alone, whatever stands beside it")
    require(_close(posterior.scale, back.scale.flip(0)), who, "encode's scale belongs to one image alone")
    return posterior


def _check_decoding(model: LabelledVAE, codes: Tensor, images: Images | Points, who: str) -> None:
    decoded = model.decode(codes)
    require(decoded.shape == images.shape, who, f"decode gives {tuple(images.shape)}, not {tuple(decoded.shape)}")
    require(decoded.dtype == torch.float32, who, f"decode gives float32, not {decoded.dtype}")
    require(bool(torch.isfinite(decoded).all()), who, "decode is finite")
    if images.ndim > 2:
        inside = bool((decoded >= 0).all() and (decoded <= 1).all())
        require(inside, who, "decode gives images in [0, 1]")
    require(bool(torch.equal(decoded, model.decode(codes))), who, "decode gives the same for the same codes (it draws)")
    require(_close(decoded, model.decode(codes.flip(0)).flip(0)), who, "decode treats each code alone")


def _check_prediction(model: LabelledVAE, predicts: Predicts, images: Images, codes: Tensor, who: str) -> None:
    for name, told in predicts.predict(images, codes).items():
        require(name in model.labels, who, f"predict names labels, {name!r} is none")
        cardinality = model.labels[name].cardinality
        if not cardinality:
            require(isinstance(told, Gaussian), who, f"predict gives a Gaussian for the continuous label {name!r}")
            continue
        require(isinstance(told, Tensor), who, f"predict gives log-probabilities for {name!r}")
        assert isinstance(told, Tensor)
        shape = (len(codes), cardinality)
        require(tuple(told.shape) == shape, who, f"predict gives {shape} for {name!r}, not {tuple(told.shape)}")
        total = told.double().exp().sum(1)
        require(_close(total, torch.ones_like(total)), who, f"the probabilities of {name!r} add up to 1")


def _check_prior(model: LabelledVAE, owner: HasConditionalPrior, labels: Labels, who: str) -> None:
    columns = len(model.layout.characteristic_columns)
    known = torch.zeros_like(labels)
    prior = owner.conditional_prior(known)
    shape = (len(labels), columns)
    require(tuple(prior.loc.shape) == shape, who, f"conditional_prior gives {shape}, not {tuple(prior.loc.shape)}")
    finite = bool(torch.isfinite(prior.loc).all() and torch.isfinite(prior.scale).all())
    require(finite and bool((prior.scale >= 0).all()), who, "p(z_c|y) is finite and its scale is not negative")
    missing = owner.conditional_prior(torch.full_like(labels, torch.nan))
    require(bool(missing.loc.isnan().all()), who, "p(z_c|y) is NaN where the label is missing")


def _check_intervention(
    model: LabelledVAE, owner: Intervenes, images: Images | Points, codes: Tensor, who: str
) -> None:
    noise = torch.randn(codes.shape, generator=torch_stream(0, "contract/noise"))
    for label in model.labels:
        if not label.cardinality:
            continue
        moved = owner.intervene(images, codes, {label.name: 1.0}, noise)
        require(moved.shape == codes.shape, who, f"intervene gives {tuple(codes.shape)}, not {tuple(moved.shape)}")
        require(bool(torch.isfinite(moved).all()), who, "intervene gives finite codes")
        again = owner.intervene(images, codes, {label.name: 1.0}, noise)
        require(bool(torch.equal(moved, again)), who, "intervene gives the same for the same noise (it draws)")
        back = owner.intervene(images.flip(0), codes.flip(0), {label.name: 1.0}, noise.flip(0)).flip(0)
        require(_close(moved, back), who, "intervene treats each image alone")


def _check_rebuilding(model: Rebuildable, images: Images | Points, given: Labels | None, who: str) -> None:
    settings = dataclasses.asdict(model.settings)
    twin = type(model).from_settings(settings, model.context, seed=1)
    require(isinstance(twin, LabelledVAE), who, "from_settings gives a model")
    state: Mapping[str, Tensor] = model.state_dict()
    twin.load_state_dict(state)
    assert isinstance(twin, LabelledVAE)
    assert isinstance(model, LabelledVAE)
    with undisturbed(model), undisturbed(twin):
        same = torch.equal(model.encode(images, given).loc, twin.encode(images, given).loc)
    require(bool(same), who, "settings and state_dict rebuild the same model")
    with torch.device("meta"):
        empty = type(model).from_settings(settings, model.context)
    shapes = {name: tuple(t.shape) for name, t in empty.state_dict().items()}
    require(
        shapes == {name: tuple(t.shape) for name, t in state.items()}, who, "from_settings works on the meta device"
    )
    try:
        type(model).from_settings({**settings, "no_such_setting": 1}, model.context)
    except UsageError:
        return
    require(False, who, "an unknown setting is a UsageError")


def _check_objectives(model: Trainable, images: Images | Points, labels: Labels, who: str) -> None:
    rows = min(len(images), CHUNK)
    known = labels[:rows].clone()
    known[: rows // 2] = torch.nan
    batch = Batch(images[:rows], known, np.arange(rows))
    for objective in model.objectives(batch, torch_stream(0, "contract/objectives")):
        require(objective.loss.ndim == 0, who, f"the loss of objective {objective.name!r} is a scalar")
        require(bool(torch.isfinite(objective.loss)), who, f"the loss of objective {objective.name!r} is finite")
        require(bool(objective.parameters), who, f"objective {objective.name!r} moves some parameters")
        gradients = torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True)
        found = [g for g in gradients if g is not None]
        require(bool(found), who, f"objective {objective.name!r} has a gradient")
        finite = all(bool(torch.isfinite(g).all()) for g in found)
        require(finite, who, f"the gradient of objective {objective.name!r} is finite")
