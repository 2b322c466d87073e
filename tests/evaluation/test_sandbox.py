"""A stranger's metric that disturbs what it was lent fails alone, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresVAE


class Weighted(SquaresVAE):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))


@dataclass(frozen=True)
class Rude:
    """Does something that it should not."""

    name: ClassVar[str] = "rude"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "value"
    values: ClassVar[dict[str, ValueSpec]] = {"value": ValueSpec("nothing")}
    laws: ClassVar[frozenset[str]] = frozenset()
    default_sample: ClassVar[int] = 1000

    deed: Any = None

    def needs(self, subject: Subject) -> Needs:
        return Needs()

    def start(self, subject: Subject) -> Rude:
        self.deed(subject)
        return self

    def update(self, batch: Decoded) -> None: ...

    def compute(self, weights: ResampleWeights) -> Any:
        return Measurement("rude", 1, {}, "value") if self.deed is not number else 3.5


def number(subject: Subject) -> None: ...


def scaled(subject: Subject) -> None:
    with torch.no_grad():
        subject.model.weight.data.mul_(2)  # type: ignore[attr-defined]


DEEDS: dict[str, Callable[[Subject], Any]] = {
    "changed the model's weights": scaled,
    "changed the model's mode": lambda s: s.model.train(not s.model.training),  # type: ignore[attr-defined]
    "drew from a global random generator": lambda s: torch.rand(1),
    "drew from a global random": lambda s: np.random.rand(),
    "left gradients switched": lambda s: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "returned float from finish": number,
    "'rude' failed in needs(subject) or start(subject) (ZeroDivisionError": lambda s: 1 / 0,
}


@pytest.mark.parametrize("what", DEEDS)
def test_it_fails_alone_and_everything_is_as_before(what: str) -> None:
    data, model = Squares(600), Weighted()
    subject = prepare(model, data, data.split("test"))
    random, numpy_state, gradients = torch.get_rng_state(), np.random.get_state()[1], torch.is_grad_enabled()
    run = evaluate(subject, [Rude(deed=DEEDS[what]), Density()])
    failed = run.measurement("rude")
    assert failed.status == "failed"
    assert failed.reason is not None
    assert failed.reason.code == "plugin"
    assert what in failed.reason.text
    assert "test_sandbox" in failed.reason.text, "where it is written"
    assert run.measurement("density").status == "ok"
    assert model.training
    assert model.weight.tolist() == [1, 1, 1]
    assert torch.equal(random, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert torch.is_grad_enabled() == gradients


def test_one_that_behaves_is_measured() -> None:
    data = Squares(60)
    run = evaluate(prepare(Weighted(), data, data.split("test")), [Rude(deed=lambda s: None)])
    assert run.measurement("rude").status == "ok"
