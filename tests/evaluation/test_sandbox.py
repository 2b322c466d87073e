"""A third-party metric with side effects fails alone, and its side effects are undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresVAE


class Weighted(SquaresVAE):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))


@dataclass(frozen=True)
class SideEffectMetric:
    """Has a side effect or fails."""

    name: ClassVar[str] = "intrusive"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "value"
    values: ClassVar[dict[str, ValueSpec]] = {"value": ValueSpec("no meaning")}
    laws: ClassVar[frozenset[str]] = frozenset()
    default_sample: ClassVar[int] = 1000

    effect: Any = None

    def needs(self, subject: Subject) -> Needs:
        return Needs()

    def start(self, subject: Subject) -> SideEffectMetric:
        self.effect(subject)
        return self

    def update(self, batch: Decoded) -> None: ...

    def compute(self, weights: ResampleWeights) -> Any:
        return Measurement("intrusive", 1, {}, "value") if self.effect is not number else 3.5


def number(subject: Subject) -> None: ...


def scaled(subject: Subject) -> None:
    with torch.no_grad():
        subject.model.weight.data.mul_(2)  # type: ignore[attr-defined]


EFFECTS: dict[str, Callable[[Subject], Any]] = {
    "changed the model's weights": scaled,
    "changed the model's mode": lambda s: s.model.train(not s.model.training),  # type: ignore[attr-defined]
    "drew from a global random generator": lambda s: torch.rand(1),
    "drew from a global random": lambda s: np.random.rand(),
    "left gradients switched": lambda s: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "returned float from compute(weights)": number,
    "'intrusive' failed in start(subject) (ZeroDivisionError": lambda s: 1 / 0,
}


@pytest.mark.parametrize("message", EFFECTS)
def test_a_side_effect_fails_alone_and_is_undone(message: str) -> None:
    data, model = Squares(600), Weighted()
    subject = prepare(model, data, data.split("test"))
    random, numpy_state, gradients = torch.get_rng_state(), np.random.get_state()[1], torch.is_grad_enabled()
    run = measure(subject, [SideEffectMetric(effect=EFFECTS[message]), Density()])
    failed = run.measurement("intrusive")
    assert failed.status == "failed"
    assert failed.reason is not None
    assert failed.reason.code == "plugin"
    assert message in failed.reason.text
    assert "test_sandbox" in failed.reason.text, "the file of the metric"
    assert run.measurement("density").status == "ok"
    assert model.training
    assert model.weight.tolist() == [1, 1, 1]
    assert torch.equal(random, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert torch.is_grad_enabled() == gradients


def test_a_metric_without_side_effects_succeeds() -> None:
    data = Squares(60)
    run = measure(prepare(Weighted(), data, data.split("test")), [SideEffectMetric(effect=lambda s: None)])
    assert run.measurement("intrusive").status == "ok"
