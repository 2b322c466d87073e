import json
import math
import os
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from ccvae_eval.api import DEFAULT_METRICS, metric_named
from ccvae_eval.cli.demo import DEMO_IMAGES, DEMO_OPTIONS
from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.splits import sample_ids
from ccvae_eval.evaluation.metric import Needs, metrics_with
from ccvae_eval.evaluation.result_table import Mean, ResultTable
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.judge import judge_source
from ccvae_eval.model.interface import Label, LabelSchema
from ccvae_eval.oracle import references
from ccvae_eval.oracle.model import MEAN, oracle
from ccvae_eval.oracle.references import oracle_reference, shipped_references, with_references
from tests.support.fakes import Squares, SquaresVAE


@dataclass(frozen=True)
class Reach:
    """Mean magnitude of the first latent dimension of each characteristic."""

    name: ClassVar = "reach"
    version: ClassVar = 1
    headline: ClassVar = "reach"
    default_sample: ClassVar = 100
    values: ClassVar = {"reach": ValueSpec("mean of |u|")}
    laws: ClassVar = frozenset()

    power: float = 1.0

    def needs(self, subject):
        return Needs()

    def start(self, subject):
        return ReachAccumulator(self, subject)


@dataclass
class ReachAccumulator:
    metric: Reach
    subject: Subject

    def update(self, batch):
        raise AssertionError("nothing is decoded")

    def compute(self, weights):
        table = ResultTable(self.metric, self.subject, weights)
        for name in self.subject.characteristics:
            column = self.subject.codes[:, self.subject.layout[name][0]].double()
            table.add("reach", name, Mean(column.abs().pow(self.metric.power).numpy()))
        return table.measurement((), {})


@dataclass(frozen=True)
class Again(Reach):
    """The same under another name."""

    name: ClassVar = "again"


@dataclass(frozen=True)
class More(Reach):
    """The same with a value that earlier versions of the package did not have."""

    values: ClassVar = {**Reach.values, "added": ValueSpec("a new value")}


METRICS = (Again(), Reach())


def run_of(*values, metric="m", version=1):
    return Run(Header(), (Measurement(metric, version, {}, "a", values),), {}, {metric: np.arange(3)})


def row(characteristic, value=0.5, *, at=None, note="", reference=None):
    return Value("a", Estimate(value), characteristic, at or {}, note=note, reference=reference)


def key(characteristic, at=()):
    return ("m", 1, "a", characteristic, at)


def found(run):
    return {(v.characteristic, tuple(v.at.items())): v.reference for v in run.measurements[0].values}


@pytest.fixture(scope="module")
def faces():
    return Faces(size=32)


@pytest.fixture(scope="module")
def subject(faces):
    """A worse model than the oracle, with two of the labels in another order."""
    ids = faces.split("test")[:96]
    schema = faces.schema.select(["Smiling", "Eyeglasses"])
    model = oracle(faces, ids, schema)
    layout = model.layout
    swapped = {"Smiling": layout["Smiling"], "Eyeglasses": layout["Eyeglasses"][1:]}
    model.layout = replace(layout, characteristics=swapped)
    return prepare(model, faces, ids, seed=4)


@pytest.fixture(scope="module")
def run(subject):
    return measure(subject, METRICS)


@pytest.fixture
def evaluations(monkeypatch):
    """Metrics of each evaluation of the oracle."""
    made = []

    def counted(subject, metrics, **arguments):
        made.append([metric.name for metric in metrics])
        return measure(subject, metrics, **arguments)

    monkeypatch.setattr(references, "measure", counted)
    return made


def test_each_value_gets_the_reference_of_its_address():
    run = run_of(row("x"), row("x", at={"judged": "y"}), row("y"))
    lookup = {key("x"): 1.0, key("x", (("judged", "y"),)): 2.0}
    assert found(with_references(run, lookup)) == {("x", ()): 1.0, ("x", (("judged", "y"),)): 2.0, ("y", ()): None}


def test_another_version_of_a_metric_gets_no_reference():
    assert found(with_references(run_of(row("x"), version=2), {key("x"): 1.0})) == {("x", ()): None}


def test_a_value_keeps_its_own_reference_and_an_undefined_value_gets_none():
    run = run_of(row("x", reference=0.25), row("y", math.nan))
    assert found(with_references(run, {key("x"): 1.0, key("y"): 1.0})) == {("x", ()): 0.25, ("y", ()): None}


def test_the_reference_of_a_mean_is_over_the_same_characteristics():
    lookup = {key(None): 0.9, key("x"): 1.0, key("y"): 0.6}
    assert found(with_references(run_of(row(None), row("x"), row("y")), lookup))[None, ()] == 0.9
    fewer = run_of(row(None), row("x"), row("y", math.nan))
    assert found(with_references(fewer, lookup))[None, ()] == 1.0
    more = run_of(row(None), row("x"), row("y"), row("z"))
    assert found(with_references(more, lookup))[None, ()] is None


def test_a_mean_over_some_given_characteristics_has_no_reference():
    lookup = {key(None): 0.9, key("x"): 1.0, key("y"): 0.6}
    some = run_of(row(None), row("x", note="given"), row("y"))
    assert found(with_references(some, lookup))[None, ()] is None
    every = run_of(row(None), row("x", note="given; so"), row("y", note="given"))
    assert found(with_references(every, lookup))[None, ()] == 0.9


def test_references_are_the_oracles_values_on_the_same_images(run, subject, faces, tmp_path):
    lookup = oracle_reference(run, subject, METRICS, cache_dir=tmp_path)
    model = oracle(faces, subject.ids, subject.schema)
    own = measure(prepare(model, faces, subject.ids, seed=4, characteristics=("Eyeglasses", "Smiling")), METRICS)
    expected = {
        (m.metric, m.version, *v.key): pytest.approx(v.estimate.value, rel=1e-7)
        for m in own.measurements
        for v in m.values
        if v.estimate.defined
    }
    assert lookup == expected
    completed = with_references(run, lookup)
    assert completed.find("reach.reach@Eyeglasses").reference == pytest.approx(MEAN, abs=0.2)
    assert completed.find("reach.reach@Eyeglasses").estimate.value < 1.5
    assert completed.find("reach.reach").reference == pytest.approx(MEAN, abs=0.2)


def test_references_are_computed_once(run, subject, evaluations, tmp_path):
    notices = []
    one = oracle_reference(run, subject, METRICS, cache_dir=tmp_path, notice=notices.append)
    assert evaluations == [["again", "reach"]]
    assert len(notices) == 1
    assert oracle_reference(run, subject, METRICS, cache_dir=tmp_path, notice=pytest.fail) == one
    assert len(evaluations) == 1


def test_references_depend_on_everything_that_changes_the_numbers(run, subject, evaluations, tmp_path):
    def ask(run=run, subject=subject, metrics=METRICS):
        return oracle_reference(run, subject, metrics, cache_dir=tmp_path)

    ask()
    ask(metrics=(Again(), Reach(power=2.0)))
    ask(metrics=(Again(), More()))
    ask(subject=replace(subject, seed=5))
    ask(run=replace(run, ids={name: ids[:64] for name, ids in run.ids.items()}))
    ask(subject=replace(subject, selected=("Smiling",)))
    assert evaluations == [["again", "reach"], ["reach"], ["reach"], *[["again", "reach"]] * 3]


def test_metrics_with_different_images_are_evaluated_on_their_own_images(run, subject, evaluations, tmp_path):
    fewer = replace(run, ids={**run.ids, "again": run.ids["again"][:40]})
    oracle_reference(fewer, subject, METRICS, cache_dir=tmp_path)
    assert sorted(evaluations) == [["again"], ["reach"]]


DEEP, UNHASHABLE = "[" * 100_000, '[["a", null, {"b": []}, 1.0]]'


@pytest.mark.parametrize("damage", ["", "{", "[[1]]", '[["a", null, {}, "x"]]', "7", DEEP, UNHASHABLE, None])
def test_a_damaged_cache_is_computed_again(run, subject, evaluations, tmp_path, damage):
    """``None``: a pipe in the place of each file."""
    one, notices = oracle_reference(run, subject, METRICS, cache_dir=tmp_path), []
    for file in tmp_path.iterdir():
        if damage is None:
            file.unlink()
            os.mkfifo(file)
        else:
            file.write_text(damage)
    assert oracle_reference(run, subject, METRICS, cache_dir=tmp_path, notice=notices.append) == one
    assert len(evaluations) == 2
    assert notices[0] == "2 damaged files of cached reference values are ignored."


def test_an_unwritable_cache_gives_a_notice(run, subject, tmp_path):
    (tmp_path / "file").write_text("in the way")
    notices = []
    assert oracle_reference(run, subject, METRICS, cache_dir=tmp_path / "file", notice=notices.append)
    assert "Nothing is cached" in notices[-1]


def test_the_oracle_is_not_evaluated_for_metrics_that_failed(run, subject, evaluations, tmp_path):
    failed = replace(run, measurements=tuple(replace(m, status="failed") for m in run.measurements))
    assert oracle_reference(failed, subject, METRICS, cache_dir=tmp_path) == {}
    assert evaluations == []


def test_data_that_are_not_synthetic_have_no_references(tmp_path):
    data = Squares(count=90)
    subject = prepare(SquaresVAE(), data, data.split("test"))
    run = measure(subject, [Reach()])
    assert oracle_reference(run, subject, [Reach()], cache_dir=tmp_path) == {}


def test_a_model_with_other_classes_has_no_references(run, subject, tmp_path):
    schema = LabelSchema((Label("Smiling", "categorical", ("no", "yes")), Label("Eyeglasses")))
    assert oracle_reference(run, replace(subject, schema=schema), METRICS, cache_dir=tmp_path) == {}


def _shipped_names(sample, metrics):
    """Names of the requests of an evaluation with all labels of faces."""
    faces = Faces()
    wanted = sample or max(metric.default_sample for metric in metrics)
    ids = sample_ids(faces, "test", sample=wanted, seed=0)
    subject = prepare(oracle(faces, ids), faces, ids, judge=judge_source(faces).require())
    sizes = {m.name: len(ids) if sample else min(m.default_sample, len(ids)) for m in metrics}
    return [references._name(subject, m, subject.subsample(sizes[m.name]).ids) for m in metrics]


@pytest.mark.parametrize(
    ("sample", "options", "names"),
    [
        (DEMO_IMAGES, DEMO_OPTIONS, DEFAULT_METRICS),
        (None, {}, DEFAULT_METRICS),
        (None, {}, ("drift",)),
        (None, {}, ("locality",)),
    ],
)
def test_the_package_contains_the_references_of_the_default_evaluations(sample, options, names):
    """If a metric's version or defaults, the faces or the judge changed: python tools/ship.py references"""
    assert set(_shipped_names(sample, metrics_with(options, names))) <= set(shipped_references())


QUICK = ("density", "accuracy")
"""Metrics that render nothing; the others take about a minute each."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in DEFAULT_METRICS]
)
def test_the_shipped_references_equal_a_new_evaluation_of_the_oracle(name):
    """The demo's references, within the differences between builds (docs/metrics.md, section 0)."""
    faces = Faces()
    ids = sample_ids(faces, "test", sample=DEMO_IMAGES, seed=0)
    subject = prepare(oracle(faces, ids), faces, ids, judge=judge_source(faces).require())
    metrics = [metric_named(name, DEMO_OPTIONS.get(name))]
    ((asked, table),) = references.tables_of(measure(subject, metrics), subject, metrics).items()
    shipped = {json.dumps(row[:3], sort_keys=True): row[3] for row in shipped_references()[asked]}
    again = {json.dumps(row[:3], sort_keys=True): row[3] for row in table}
    assert again == {place: pytest.approx(value, rel=1e-3, abs=3 / DEMO_IMAGES) for place, value in shipped.items()}
