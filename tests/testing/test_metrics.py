"""Every registered metric conforms, and obeys the laws that it declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.evaluation.interventions import PosteriorMean
from ccvae_eval.evaluation.metric import LAWS, Metric, Needs, settings_of
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, metrics
from ccvae_eval.rendering.text import explanation
from ccvae_eval.testing import ContractBroken, MetricFixture, check_metric
from ccvae_eval.testing.metrics import CHECKS
from tests.support.fakes import Squares, SquaresJudge, SquaresVAE
from tests.support.metric_settings import FAST

KNOWN: Mapping[str, tuple[float, float]] = {
    "accuracy.balanced_accuracy": (0.99, 1.0),
    "density.auc@Glasses": (0.99, 1.0),
    "density.overlap@Smile": (0.0, 0.05),
    "disentanglement.infoe@Smile": (0.9, 1.0),
    "diversity.spread_outside": (0.0, 1e-9),
    "drift.spill": (0.0, 0.01),
    "generation.prdc_coverage": (0.8, 1.0),
    "intervention.identity": (0.0, 1e-6),
    "locality.focus@Glasses": (0.99, 1.0),
    "measurement.distance": (0, 0),
    "reconstruction.mse": (0.0, 1e-9),
}
"""Known values of ``SquaresVAE``, which encodes and decodes each square separately."""


@pytest.fixture(scope="module")
def metric_fixture():
    return MetricFixture(SquaresVAE(scale=0.3), Squares(240), np.arange(230), known=KNOWN, settings=FAST)


def test_every_built_in_metric_is_listed():
    builtin = {r.name for r in metrics.registrations() if r.distribution == BUILTIN_DISTRIBUTION}
    assert builtin == set(FAST)


def test_every_law_has_a_test():
    assert set(CHECKS) == LAWS


@pytest.mark.parametrize("name", list(metrics))
def test_every_value_names_its_chance_level_or_the_reason_for_having_none(name):
    for value, spec in metrics[name].values.items():
        assert bool(spec.chance) != bool(spec.no_chance), f"{name}.{value}"
        assert spec.reference, f"{name}.{value}"


class Counted(SquaresVAE):
    """Counts the images that it decodes, including the padding of the last batch."""

    decoded = 0

    def decode(self, codes):
        self.decoded += len(codes)
        return super().decode(codes)


@pytest.mark.parametrize("judge", [None, SquaresJudge()], ids=["no judge", "judge"])
@pytest.mark.parametrize("name", list(metrics))
def test_a_metric_decodes_what_it_states_as_its_cost(name, judge):
    assert "Cost: " in explanation(metrics[name])
    model, count = Counted(scale=0.3), 96
    subject = prepare(model, Squares(count), np.arange(count), judge=judge)
    metric = metrics[name](**FAST[name])
    assert measure(subject, [metric]).measurements[0].status == "ok"
    stated = metric.needs(subject).decodings() * count
    # one batch more for the metric's figures
    assert 0.7 * stated <= model.decoded <= stated + FIXED_BATCH


@pytest.mark.slow
@pytest.mark.parametrize("name", list(metrics))
def test_metric(name, metric_fixture):
    check_metric(metrics[name](), metric_fixture)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diversity", "generation", "intervention", "locality"])
def test_merged_blocks_with_a_judge(name, metric_fixture):
    metric, fixture = metrics[name](**FAST[name]), replace(metric_fixture, judge=SquaresJudge())
    subject = prepare(fixture.model, fixture.data, fixture.ids, judge=fixture.judge)
    CHECKS["merged blocks"](metric, fixture, measure(subject, [metric]).measurements[0])


SPEC = {"size": ValueSpec("mean of a latent dimension", "", None, (None, None), "zero")}


@dataclass(frozen=True)
class MeanOfFirstDimension:
    """Mean of the first latent dimension."""

    name: ClassVar[str] = "first_dimension"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "size"
    default_sample: ClassVar[int] = 100
    laws: ClassVar[frozenset[str]] = frozenset(
        {"image order", "batch size", "same seed same number", "nan is an error"}
    )
    values: ClassVar[Mapping[str, ValueSpec]] = SPEC

    def needs(self, subject):
        del subject
        return Needs(images=False)

    def start(self, subject):
        return FirstDimensionAccumulator(self, subject)


class FirstDimensionAccumulator:
    def __init__(self, metric: Any, subject: Any) -> None:
        self.metric, self.subject = metric, subject

    def update(self, batch):
        raise AssertionError

    def rows(self):
        codes = self.subject.codes[:, 0].double().numpy()
        return (Value("size", Estimate(float(codes.mean()), n=len(codes)), chance=0.0),)

    def compute(self, weights):
        del weights
        return Measurement("first_dimension", 1, settings_of(self.metric), "size", self.rows())


def defective(**changes: Any) -> Metric:
    """The conforming metric with one defect."""
    made: Any = type("Defective", (MeanOfFirstDimension,), {"__doc__": MeanOfFirstDimension.__doc__, **changes})
    return made()


def with_rows(rows: Any) -> Any:
    return lambda self, subject: type("Odd", (FirstDimensionAccumulator,), {"rows": rows})(self, subject)


def random_rows(finished):
    """A number that the seed does not determine."""
    estimate = Estimate(float(np.random.default_rng().normal()), n=9)
    return (Value("size", estimate, chance=0.0),)


DEFECTS = {
    "docstring must begin": {"__doc__": ""},
    "headline 'weight' must be": {"headline": "weight"},
    "laws must be among": {"laws": frozenset({"of nature"})},
    "must have a summary": {"values": {"size": ValueSpec("")}},
    "must be unique": {"start": with_rows(lambda f: FirstDimensionAccumulator.rows(f) * 2)},
    "must have a spec": {
        "start": with_rows(lambda f: (*FirstDimensionAccumulator.rows(f), Value("weight", Estimate(1.0, n=1))))
    },
    "undefined and must give the reason": {"start": with_rows(lambda _: (Value("size", Estimate(np.nan)),))},
    r"must be in \[7\.0, 8\.0\]": {"values": {"size": ValueSpec("size", "", None, (7.0, 8.0))}},
    "must have a chance level": {"start": with_rows(lambda _: (Value("size", Estimate(0.0, n=3)),))},
    "n of size of the mean must be in": {
        "start": with_rows(lambda _: (Value("size", Estimate(0.0, n=0), chance=0.0),))
    },
    "same seed same number": {"start": with_rows(random_rows), "laws": frozenset({"same seed same number"})},
    "must have a known value": {"laws": frozenset({"oracle"})},
    "must be in ascending order": {
        "start": with_rows(lambda _: (Value("size", Estimate(0.0, 1.0, -1.0, 3, "luck"), chance=0.0),))
    },
    "rescaled latent": {"laws": frozenset({"rescaled latent"})},
}


def test_a_conforming_metric_passes(metric_fixture):
    check_metric(MeanOfFirstDimension(), metric_fixture)


@pytest.mark.parametrize("what", DEFECTS)
def test_each_defect_is_named(what, metric_fixture):
    with pytest.raises(ContractBroken, match=what):
        check_metric(defective(**DEFECTS[what]), metric_fixture)


def test_a_metric_that_depends_on_the_label_order_is_refused(metric_fixture):
    def first(finished):
        name = finished.subject.characteristics[0]
        codes = finished.subject.codes[:, finished.subject.layout[name][0]].double().numpy()
        return (Value("size", Estimate(float(codes.mean()), n=len(codes)), chance=0.0),)

    odd = defective(start=with_rows(first), laws=frozenset({"order of characteristics"}))
    with pytest.raises(ContractBroken, match="order of characteristics"):
        check_metric(odd, metric_fixture)


class SumInOrder(FirstDimensionAccumulator):
    """Adds float32 sums of the chunks in the order of their arrival, which changes the last bits."""

    def __init__(self, metric: Any, subject: Any) -> None:
        super().__init__(metric, subject)
        self.total = np.float32(0)

    def update(self, batch):
        self.total += np.float32(batch.reconstruction.double().square().sum())

    def merge(self, other):
        self.total += other.total

    def rows(self):
        count = len(self.subject)
        return (Value("size", Estimate(float(self.total) / count, n=count), chance=0.0),)


class Lost(SumInOrder):
    """Ignores the images of other blocks."""

    def merge(self, other):
        pass


@pytest.mark.parametrize("kind", [SumInOrder, Lost])
def test_a_metric_that_depends_on_the_blocks_is_refused(kind, metric_fixture):
    def needs(self, subject):
        return Needs((PosteriorMean(),), reconstruction=True)

    odd = defective(needs=needs, start=lambda *given: kind(*given), laws=frozenset({"merged blocks"}))
    with pytest.raises(ContractBroken, match="merged blocks: .* must be that of one pass"):
        check_metric(odd, metric_fixture)


def test_the_law_of_merged_blocks_needs_merge(metric_fixture):
    with pytest.raises(ContractBroken, match="merged blocks: the accumulator must have a method merge"):
        check_metric(defective(laws=frozenset({"merged blocks"})), metric_fixture)


def test_the_law_of_merged_blocks_needs_three_batches(metric_fixture):
    few = replace(metric_fixture, ids=np.arange(64))
    odd = defective(start=lambda *given: SumInOrder(*given), laws=frozenset({"merged blocks"}))
    with pytest.raises(ContractBroken, match="more than 64 images"):
        check_metric(odd, few)


def test_every_built_in_metric_declares_that_blocks_merge():
    assert all("merged blocks" in metrics[name].laws for name in FAST)
