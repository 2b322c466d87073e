"""Conformance tests of models: shapes, ranges, independence of the batch, and optional capabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UsageError, require
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Gaussian, Images, Labels, Points
from ccvae_eval.model.checks import evaluation_mode
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.model.interface import (
    Batch,
    GivenLabels,
    HasConditionalPrior,
    Intervenes,
    LabelledVAE,
    Predicts,
    Rebuildable,
    Trainable,
    supports,
    type_name,
)
from ccvae_eval.testing.data import require_images, require_numbers, require_shape

SAME = 1e-5
"""Relative tolerance between batches of different size or order, in which float32 networks round differently."""


def check_model(model: LabelledVAE, images: Images | Points, labels: Labels) -> None:
    """Tests one model on some images; does not change its parameters.

    Args:
        model: any model.
        images: at least two images of the model's input shape.
        labels: shape (N, L) in the order of ``model.labels``, NaN = missing; (N, 0) for a model without labels.

    Raises:
        ContractBroken: a test fails; the message names the model and the requirement.
    """
    who = type_name(model)
    require(supports(model, LabelledVAE), who, "a model must have layout, labels, encode and decode")
    require(len(images) > 1, who, "this test needs at least two images")
    modes = _modes(model)
    state = torch.get_rng_state()
    given = labels if supports(model, GivenLabels) else None
    with evaluation_mode(model):
        _check_names(model, who)
        posterior = _check_encoding(model, images, given, who)
        codes = posterior.at(torch.randn(posterior.loc.shape, generator=torch_stream(0, "contract")))
        _check_decoding(model, codes, images, who)
        if supports(model, Predicts):
            _check_prediction(model, images, codes, who)
        if supports(model, HasConditionalPrior):
            _check_prior(model, labels, who)
        if supports(model, Intervenes):
            _check_intervention(model, images, codes, who)
    if supports(model, Rebuildable):
        _check_rebuilding(model, images, given, who)
    if supports(model, Trainable):
        _check_objectives(model, images, labels, who)
    require(bool(torch.equal(state, torch.get_rng_state())), who, "no call may use the global random generator")
    require(modes == _modes(model), who, "no call may change the mode (train, eval)")


def _modes(model: object) -> list[bool]:
    return [part.training for part in model.modules()] if isinstance(model, torch.nn.Module) else []


def _check_names(model: LabelledVAE, who: str) -> None:
    layout, labels = model.layout, model.labels
    for name in layout.characteristics:
        require(name in labels, who, f"characteristic {name!r} must be one of the labels {', '.join(labels.names)}")
    if supports(model, GivenLabels):
        for name in model.given:
            require(name in layout.characteristics, who, f"given must contain only characteristics, got {name!r}")


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=SAME, atol=SAME))


def _check_encoding(model: LabelledVAE, images: Images | Points, given: Labels | None, who: str) -> Gaussian:
    posterior = model.encode(images, given)
    require(isinstance(posterior, Gaussian), who, "encode must return a Gaussian")
    shape = (len(images), model.layout.dim)
    require_numbers(posterior.loc, shape, who, "encode's loc")
    require_numbers(posterior.scale, shape, who, "encode's scale")
    require(bool((posterior.scale >= 0).all()), who, "encode's scale must not be negative")
    again = model.encode(images, given)
    require(bool(torch.equal(posterior.loc, again.loc)), who, "encode must be deterministic (no sampling)")
    back = model.encode(images.flip(0), None if given is None else given.flip(0))
    require(_close(posterior.loc, back.loc.flip(0)), who, "encode must not depend on the other images of the batch")
    require(_close(posterior.scale, back.scale.flip(0)), who, "encode's scale must not depend on the batch")
    return posterior


def _check_decoding(model: LabelledVAE, codes: Tensor, images: Images | Points, who: str) -> None:
    decoded = model.decode(codes)
    require_images(decoded, tuple(images.shape), who, "the result of decode")
    require(bool(torch.equal(decoded, model.decode(codes))), who, "decode must be deterministic (no sampling)")
    back = model.decode(codes.flip(0)).flip(0)
    require(_close(decoded, back), who, "decode must not depend on the other codes of the batch")


def _check_prediction(model: Any, images: Images, codes: Tensor, who: str) -> None:
    for name, predicted in model.predict(images, codes).items():
        require(name in model.labels, who, f"predict must return labels of the model, got {name!r}")
        cardinality = model.labels[name].cardinality
        if not cardinality:
            require(isinstance(predicted, Gaussian), who, f"predict must return a Gaussian for continuous {name!r}")
            continue
        require(isinstance(predicted, Tensor), who, f"predict must return log-probabilities for {name!r}")
        require_shape(predicted, (len(codes), cardinality), who, f"the prediction of {name!r}")
        total = predicted.double().exp().sum(1)
        require(_close(total, torch.ones_like(total)), who, f"the probabilities of {name!r} must sum to 1")


def _check_prior(model: Any, labels: Labels, who: str) -> None:
    shape = (len(labels), len(model.layout.characteristic_columns))
    prior = model.conditional_prior(torch.zeros_like(labels))
    require_shape(prior.loc, shape, who, "the result of conditional_prior")
    finite = bool(torch.isfinite(prior.loc).all() and torch.isfinite(prior.scale).all())
    require(finite and bool((prior.scale >= 0).all()), who, "p(z_c|y) must be finite and its scale not negative")
    missing = model.conditional_prior(torch.full_like(labels, torch.nan))
    require(bool(missing.loc.isnan().all()), who, "p(z_c|y) must be NaN where the label is missing")


def _check_intervention(model: Any, images: Images | Points, codes: Tensor, who: str) -> None:
    noise = torch.randn(codes.shape, generator=torch_stream(0, "contract/noise"))
    for label in model.labels:
        if not label.cardinality:
            continue
        moved = model.intervene(images, codes, {label.name: 1.0}, noise)
        require_shape(moved, tuple(codes.shape), who, "the result of intervene")
        require(bool(torch.isfinite(moved).all()), who, "intervene must return finite codes")
        again = model.intervene(images, codes, {label.name: 1.0}, noise)
        require(bool(torch.equal(moved, again)), who, "intervene must be deterministic given the noise (no sampling)")
        back = model.intervene(images.flip(0), codes.flip(0), {label.name: 1.0}, noise.flip(0)).flip(0)
        require(_close(moved, back), who, "intervene must not depend on the other images of the batch")


def _check_rebuilding(model: Any, images: Images | Points, given: Labels | None, who: str) -> None:
    settings = dataclasses.asdict(model.settings)
    twin = type(model).from_settings(settings, model.context, seed=1)
    require(supports(twin, LabelledVAE), who, "from_settings must return a model")
    state: Mapping[str, Tensor] = model.state_dict()
    twin.load_state_dict(state)
    with evaluation_mode(model), evaluation_mode(twin):
        same = torch.equal(model.encode(images, given).loc, twin.encode(images, given).loc)
    require(bool(same), who, "settings and state_dict must rebuild the same model")
    with torch.device("meta"):
        empty = type(model).from_settings(settings, model.context)
    shapes, meta = ({name: t.shape for name, t in part.items()} for part in (state, empty.state_dict()))
    require(shapes == meta, who, "from_settings must work on the meta device")
    try:
        type(model).from_settings({**settings, "no_such_setting": 1}, model.context)
    except UsageError:
        return
    require(False, who, "an unknown setting must raise a UsageError")


def _check_objectives(model: Trainable, images: Images | Points, labels: Labels, who: str) -> None:
    rows = min(len(images), FIXED_BATCH)
    known = labels[:rows].clone()
    known[: rows // 2] = torch.nan
    batch = Batch(images[:rows], known, np.arange(rows))
    for objective in model.objectives(batch, torch_stream(0, "contract/objectives")):
        require(objective.loss.ndim == 0, who, f"the loss of objective {objective.name!r} must be a scalar")
        require(bool(torch.isfinite(objective.loss)), who, f"the loss of objective {objective.name!r} must be finite")
        require(bool(objective.parameters), who, f"objective {objective.name!r} must have parameters")
        gradients = torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True)
        found = [g for g in gradients if g is not None]
        require(bool(found), who, f"objective {objective.name!r} must have a gradient")
        finite = all(bool(torch.isfinite(g).all()) for g in found)
        require(finite, who, f"the gradient of objective {objective.name!r} must be finite")
