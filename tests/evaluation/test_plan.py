"""A plan asks each metric once for what it needs, and trains a judge only for a metric that uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ccvae_eval.api import evaluate, plan
from ccvae_eval.core.errors import UnsupportedError
from ccvae_eval.evaluation.metric import Needs, metric_class
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.runner import estimated_seconds
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.judge import JudgeSource
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.plugins import registry
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresJudge, SquaresVAE


@dataclass
class Training:
    """A source of a judge that counts how often one is trained."""

    trained: int = 0
    source: JudgeSource = field(init=False)

    def __post_init__(self) -> None:
        self.source = JudgeSource(None, self._train)

    def _train(self) -> Any:
        self.trained += 1
        return SquaresJudge()


def _planned(training: Training, *names: str, model: Any = None) -> Plan:
    subject = prepare(model or SquaresVAE(), Squares(64), np.arange(64), judge=training.source)
    return Plan.of(subject, [metric_class(name)() for name in names])


def _counted(method: Any, call: str, calls: list[tuple[str, str]]) -> Any:
    def counted(metric: Any, subject: Any) -> Any:
        calls.append((metric.name, call))
        return method(metric, subject)

    return counted


def test_every_metric_is_asked_and_started_once(monkeypatch) -> None:
    calls: list[tuple[str, str]] = []
    for name in registry.metrics:
        kind = metric_class(name)
        for call in ("needs", "start"):
            monkeypatch.setattr(kind, call, _counted(getattr(kind, call), call, calls))
    run = evaluate(SquaresVAE(), Squares(200), metrics=list(registry.metrics), sample=64, judge="none")
    assert {m.metric for m in run} == set(registry.metrics)
    assert sorted(calls) == sorted((name, call) for name in registry.metrics for call in ("needs", "start"))


def test_a_judge_is_trained_once_and_only_for_a_metric_that_uses_it() -> None:
    training = Training()
    assert _planned(training, "density", "accuracy").subject.judge is None
    assert training.trained == 0
    planned = _planned(training, "locality", "intervention", "density")
    assert isinstance(planned.subject.judge, SquaresJudge)
    assert training.trained == 1


def test_a_plan_that_is_only_shown_trains_no_judge() -> None:
    training = Training()
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=training.source)
    shown = Plan.of(subject, [metric_class("locality")()], train=False)
    assert shown.trains_judge
    assert training.trained == 0
    assert shown.decode == _planned(Training(), "locality").decode
    assert not Plan.of(subject, [metric_class("density")()], train=False).trains_judge


def test_the_time_is_estimated_from_two_batches(monkeypatch) -> None:
    decoded: list[int] = []

    class Model(SquaresVAE):
        def decode(self, codes: Any) -> Any:
            decoded.append(len(codes))
            return super().decode(codes)

    clock = iter(range(1000))
    monkeypatch.setattr("ccvae_eval.evaluation.runner.perf_counter", lambda: next(clock))
    shown = Plan.of(prepare(Model(), Squares(310), np.arange(310)), [metric_class("locality")()])
    decoded.clear()
    # ten batches of a second each; the last one is not full
    assert estimated_seconds(shown) == 10
    assert sum(decoded) == 2 * FIXED_BATCH * shown.decode // 310
    assert estimated_seconds(_planned(Training(), "density")) == 0


def test_no_judge_is_trained_for_a_metric_that_the_model_cannot_have(monkeypatch) -> None:
    def unsupported(self: Any, subject: Any) -> Needs:
        raise UnsupportedError("not for this model")

    monkeypatch.setattr(metric_class("locality"), "needs", unsupported)
    training = Training()
    planned = _planned(training, "locality")
    assert training.trained == 0
    assert planned.parts[0].measurement is not None
    assert planned.parts[0].measurement.status == "unsupported"


def test_the_number_of_decoded_images_counts_a_judge_that_is_still_to_be_trained() -> None:
    training = Training()
    without = prepare(SquaresVAE(), Squares(64), np.arange(64))
    locality = metric_class("locality")()
    assert _planned(training, "locality").decode == Plan.of(without, [locality]).decode + 64


def test_a_metric_that_uses_no_characteristics_gets_all_images_of_a_model_without_them() -> None:
    data = Squares(800)
    both = Plan.of(
        prepare(PlainSquaresVAE(), data, np.arange(800)), [metric_class(n)() for n in ("reconstruction", "density")]
    )
    sizes = {part.metric.name: len(part.subject) for part in both.parts}
    assert sizes["reconstruction"] == 800
    assert 0 < sizes["density"] < 800
    assert both.encode == sizes["density"]
    alone = Plan.of(prepare(PlainSquaresVAE(), data, np.arange(800)), [metric_class("reconstruction")()])
    assert alone.encode == 800
    assert not alone.subject.assigned


def test_the_plan_is_shown_before_it_is_run() -> None:
    shown: list[int] = []

    def on_plan(planned: Plan) -> None:
        assert all(part.active for part in planned.parts)
        shown.append(planned.decode)

    evaluate(SquaresVAE(), Squares(200), metrics=["locality"], sample=32, judge="none", on_plan=on_plan)
    assert shown == [plan(SquaresVAE(), Squares(200), ["locality"], sample=32, judge="none").decode]


@pytest.mark.parametrize("gallery", [True, False])
def test_single_images_are_decoded_only_for_a_report(gallery: bool) -> None:
    run = evaluate(
        SquaresVAE(), Squares(200), metrics=["accuracy"], sample=32, judge="none", references=False, gallery=gallery
    )
    assert bool(run.gallery) is gallery
