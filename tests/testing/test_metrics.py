"""Every registered metric keeps its form and the laws that it declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.evaluation.metric import LAWS, Metric, Needs, settings_of
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.model.fixed_batches import CHUNK
from ccvae_eval.plugins.registry import HOME, metrics
from ccvae_eval.report.text import explanation
from ccvae_eval.testing import ContractBroken, MetricFixture, check_metric
from ccvae_eval.testing.metrics import CHECKS
from tests.support.fakes import Squares, SquaresJudge, SquaresVAE

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {},
    "density": {"curve_draws": 50, "permutations": 2},
    "disentanglement": {"every": True, "draws": 50, "shuffles": 5, "votes": 200, "fits": 1, "leaves": 32},
    "diversity": {},
    "drift": {},
    "generation": {"neighbour_images": 200, "asked_images": 32},
    "intervention": {"repeats": (1, 2), "axiom_images": 32, "draws": 2, "rendered": 32, "assign": "Glasses=1,Smile=0"},
    "locality": {"steps": 5},
    "reconstruction": {"importance": 2, "draws": 4},
}
"""Every metric of ours, with what makes it quick. A metric that is registered and not here fails the suite."""

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
    "reconstruction.mse": (0.0, 1e-9),
}
"""What is known of the model that reads and paints each square by itself."""


@pytest.fixture(scope="module")
def specimen():
    return MetricFixture(SquaresVAE(scale=0.3), Squares(240), np.arange(230), known=KNOWN, settings=SETTINGS)


def test_every_metric_is_listed():
    ours = {r.name for r in metrics.registrations() if r.distribution == HOME}
    assert ours == set(SETTINGS)


def test_every_law_has_its_check():
    assert set(CHECKS) == LAWS


@pytest.mark.parametrize("name", list(metrics))
def test_every_value_names_its_chance_level_or_says_why_it_has_none(name):
    for value, spec in metrics[name].values.items():
        assert bool(spec.chance) != bool(spec.no_chance), f"{name}.{value}"
        assert spec.reference, f"{name}.{value}"


class Counted(SquaresVAE):
    """Counts the images that it decodes, those that fill a chunk up included."""

    decoded = 0

    def decode(self, codes):
        self.decoded += len(codes)
        return super().decode(codes)


@pytest.mark.parametrize("judge", [None, SquaresJudge()], ids=["no judge", "judge"])
@pytest.mark.parametrize("name", list(metrics))
def test_a_metric_states_its_cost_and_decodes_no_more(name, judge):
    assert "Cost: " in explanation(metrics[name])
    model, count = Counted(scale=0.3), 96
    subject = prepare(model, Squares(count), np.arange(count), judge=judge)
    metric = metrics[name](**SETTINGS[name])
    assert evaluate(subject, [metric]).measurements[0].status == "ok"
    stated = metric.needs(subject).decodings() * count
    # a chunk more for a metric's figure, which no number rests on
    assert 0.7 * stated <= model.decoded <= stated + CHUNK


@pytest.mark.slow
@pytest.mark.parametrize("name", list(metrics))
def test_metric(name, specimen):
    check_metric(metrics[name](), specimen)


SPEC = {"size": ValueSpec("mean of a column", "", None, (None, None), "zero")}


@dataclass(frozen=True)
class Honest:
    """Mean of the first column."""

    name: ClassVar[str] = "honest"
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
        return Finished(self, subject)


class Finished:
    def __init__(self, metric: Any, subject: Any) -> None:
        self.metric, self.subject = metric, subject

    def update(self, batch):
        raise AssertionError

    def rows(self):
        codes = self.subject.codes[:, 0].double().numpy()
        return (Value("size", Estimate(float(codes.mean()), n=len(codes)), chance=0.0),)

    def compute(self, weights):
        del weights
        return Measurement("honest", 1, settings_of(self.metric), "size", self.rows())


def broken(**changes: Any) -> Metric:
    """The honest metric with one fault."""
    made: Any = type("Broken", (Honest,), {"__doc__": Honest.__doc__, **changes})
    return made()


def finishing(rows: Any) -> Any:
    return lambda self, subject: type("Odd", (Finished,), {"rows": rows})(self, subject)


def unlucky(finished):
    """A number that no seed determines."""
    estimate = Estimate(float(np.random.default_rng().normal()), n=9)
    return (Value("size", estimate, chance=0.0),)


FAULTS = {
    "docstring": {"__doc__": ""},
    "headline": {"headline": "weight"},
    "laws are among": {"laws": frozenset({"of nature"})},
    "says what it is": {"values": {"size": ValueSpec("")}},
    "unique": {"start": finishing(lambda f: Finished.rows(f) * 2)},
    "has a spec": {"start": finishing(lambda f: (*Finished.rows(f), Value("weight", Estimate(1.0, n=1))))},
    "undefined and says why": {"start": finishing(lambda _: (Value("size", Estimate(np.nan)),))},
    "is in": {"values": {"size": ValueSpec("size", "", None, (7.0, 8.0))}},
    "chance level": {"start": finishing(lambda _: (Value("size", Estimate(0.0, n=3)),))},
    "counts its images": {"start": finishing(lambda _: (Value("size", Estimate(0.0, n=0), chance=0.0),))},
    "same seed same number": {"start": finishing(unlucky), "laws": frozenset({"same seed same number"})},
    "knows an answer": {"laws": frozenset({"oracle"})},
    "has its ends in order": {
        "start": finishing(lambda _: (Value("size", Estimate(0.0, 1.0, -1.0, 3, "luck"), chance=0.0),))
    },
    "rescaled latent": {"laws": frozenset({"rescaled latent"})},
}


def test_an_honest_metric_passes(specimen):
    check_metric(Honest(), specimen)


@pytest.mark.parametrize("what", FAULTS)
def test_a_broken_metric_is_told_what_it_broke(what, specimen):
    with pytest.raises(ContractBroken, match=what):
        check_metric(broken(**FAULTS[what]), specimen)


def test_a_metric_that_needs_a_label_order_breaks_the_law(specimen):
    def first(finished):
        name = finished.subject.characteristics[0]
        codes = finished.subject.codes[:, finished.subject.layout[name][0]].double().numpy()
        return (Value("size", Estimate(float(codes.mean()), n=len(codes)), chance=0.0),)

    odd = broken(start=finishing(first), laws=frozenset({"order of characteristics"}))
    with pytest.raises(ContractBroken, match="order of characteristics"):
        check_metric(odd, specimen)
