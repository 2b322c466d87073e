"""Degenerate cases for every registered metric: each gives a number, a reason for its absence, or a clear error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import NonFiniteError
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.model.interface import Batch
from ccvae_eval.plugins.registry import metrics
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresJudge, SquaresVAE
from tests.support.metric_settings import FAST

pytestmark = pytest.mark.oracle

COUNT = 72
ALL = np.arange(COUNT)
QUICK: Mapping[str, Mapping[str, Any]] = {
    "diversity": {"draws": 4, "redrawn": 32},
    "density": {"curve_draws": 50, "permutations": 2},
    "disentanglement": {"draws": 50, "shuffles": 2, "votes": 20, "fits": 1},
    "intervention": {"repeats": (1,), "axiom_images": 32, "draws": 2, "rendered": 32},
    "reconstruction": {"importance": 2, "draws": 2},
}


class ConstantImages(Squares):
    """Every image is grey; the labels are unchanged."""

    def batch(self, ids):
        found = super().batch(ids)
        return Batch(torch.full_like(found.images, 0.5), found.labels, found.ids)


class Relabelled(Squares):
    """One label is the same for every image."""

    def __init__(self, value: float) -> None:
        super().__init__(COUNT)
        self._classes[:, 0] = 0 if np.isnan(value) else value
        self._labels[:, 0] = value


class Twins(Squares):
    """Every image occurs twice."""

    def batch(self, ids):
        found = super().batch(np.asarray(ids) // 2 * 2)
        return Batch(found.images, found.labels, np.asarray(ids))

    def labels_of(self, ids):
        return super().labels_of(np.asarray(ids) // 2 * 2)


class Encoding(SquaresVAE):
    """Applies a function to the posterior of its encoder."""

    def __init__(self, rule: Callable[[Gaussian], Gaussian]) -> None:
        super().__init__()
        self.rule = rule

    def encode(self, images, labels=None):
        return self.rule(super().encode(images, labels))


def _prior(q):
    return Gaussian(torch.zeros_like(q.loc), torch.ones_like(q.scale))


def _point(q):
    return Gaussian(torch.zeros_like(q.loc), torch.zeros_like(q.scale))


def _noiseless(q):
    return Gaussian(q.loc, torch.zeros_like(q.scale))


CASES: Mapping[str, Callable[[], tuple[Any, Any, Any]]] = {
    "constant images": lambda: (SquaresVAE(), ConstantImages(COUNT), ALL),
    "label never positive": lambda: (SquaresVAE(), Relabelled(0.0), ALL),
    "label always positive": lambda: (SquaresVAE(), Relabelled(1.0), ALL),
    "label always missing": lambda: (SquaresVAE(), Relabelled(math.nan), ALL),
    "one image": lambda: (SquaresVAE(), Squares(COUNT), ALL[:1]),
    "two images": lambda: (SquaresVAE(), Squares(COUNT), ALL[:2]),
    "latents collapsed to the prior": lambda: (Encoding(_prior), Squares(COUNT), ALL),
    "latents collapsed to a point": lambda: (Encoding(_point), Squares(COUNT), ALL),
    "duplicate codes": lambda: (Encoding(_noiseless), Twins(COUNT), ALL),
    "a model without labels": lambda: (PlainSquaresVAE(), Squares(COUNT), ALL),
}

# known headlines: a number, or None for undefined
KNOWN: Mapping[tuple[str, str], float | None] = {
    ("density", "one image"): None,
    ("density", "latents collapsed to a point"): 0.5,
    ("locality", "latents collapsed to a point"): None,
    ("locality", "one image"): None,
    ("drift", "latents collapsed to a point"): None,
    ("drift", "one image"): None,
    ("intervention", "one image"): None,
    ("accuracy", "one image"): None,
    ("reconstruction", "constant images"): 0.25 * 6 / 16,  # six squares are never decoded
    ("reconstruction", "duplicate codes"): 0.0,
    ("disentanglement", "latents collapsed to the prior"): None,
    ("disentanglement", "latents collapsed to a point"): None,
    ("diversity", "a model without labels"): None,
}


def measured(name: str, case: str) -> Measurement:
    model, data, ids = CASES[case]()
    subject = prepare(model, data, ids, judge=SquaresJudge())  # type: ignore[arg-type]
    metric = metrics[name](**(FAST.get(name, {}) | QUICK.get(name, {})))
    return measure(subject, [metric]).measurement(name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", list(metrics))
def test_a_degenerate_case_gives_a_number_or_a_reason(name: str, case: str) -> None:
    found = measured(name, case)
    if found.status != "ok":
        assert found.status in ("undefined", "unsupported"), found.reason
        assert found.reason is not None
        assert found.reason.text
    specs = metrics[name].values
    for value in found.values:
        estimate, where = value.estimate, f"{value.key}"
        if not estimate.defined:
            assert value.note, f"{where} is undefined without a reason"
            assert value.chance is None, f"{where} is undefined and has a chance level"
            continue
        assert math.isfinite(estimate.value), where
        low, high = specs[value.name].range
        assert low is None or estimate.value >= low - 1e-9, where
        assert high is None or estimate.value <= high + 1e-9, where
        assert estimate.n >= 1, where
        if not math.isnan(estimate.low):
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, f"{where} {estimate}"
        assert value.chance is None or math.isfinite(value.chance), where
        assert value.reference is None or math.isfinite(value.reference), where
    if (name, case) in KNOWN and found.status == "ok":
        headline = [v for v in found.values if v.name == found.headline and v.characteristic is None and not v.at]
        known = KNOWN[name, case]
        if known is None:
            assert not any(v.estimate.defined for v in headline), headline
        else:
            assert headline[0].estimate.value == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize("name", list(metrics))
def test_nan_codes_raise_an_error_that_names_the_encoder(name: str) -> None:
    broken = Encoding(lambda q: Gaussian(torch.full_like(q.loc, torch.nan), q.scale))
    with pytest.raises(NonFiniteError, match="encoder returned NaN"):
        measure(prepare(broken, Squares(COUNT), ALL), [metrics[name]()])
