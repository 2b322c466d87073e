"""``measurement`` on codes with known dependences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from ccvae_eval.core.results import Measurement
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.measurement.metric import MeasurementTests
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresVAE, TableVAE, table_subject

pytestmark = pytest.mark.oracle

SCHEMA = LabelSchema(
    (Label("a"), Label("b"), Label("hair", "categorical", ("x", "y", "z")), Label("age", "continuous"))
)
LAYOUT = LatentLayout(7, {"a": (0, 1), "b": (2,), "hair": (3, 4), "age": (5,)})
COUNT = 800


def correlated(seed: int = 0, count: int = COUNT):
    """Labels that go together, and codes that encode one label each."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(count)
    a, b = (common + rng.standard_normal((2, count)) > 0.3).astype(float)
    hair = np.digitize(common + rng.standard_normal(count), [-0.7, 0.7]).astype(float)
    age = common + rng.standard_normal(count)
    codes = rng.standard_normal((count, 7))
    codes[:, 0] += 2 * a
    codes[:, 2] += 2 * b
    codes[:, 3] += 2 * (hair == 1)
    codes[:, 4] += 2 * (hair == 2)
    codes[:, 5] += age
    return codes, np.column_stack([a, b, hair, age])


def measured(codes, labels, schema=SCHEMA, layout=LAYOUT, model=None, selected=None, **settings) -> Measurement:
    subject = table_subject(torch.from_numpy(codes), torch.from_numpy(labels), schema, layout, model, selected=selected)
    return measure(subject, [MeasurementTests(**settings)]).measurement("measurement")


def rows(found: Measurement, name: str) -> Mapping[str | None, float]:
    return {v.characteristic: v.estimate.value for v in found.values if v.name == name and not v.at}


def p_value(found: Measurement, name: str, judged: str) -> float:
    return next(
        v.estimate.value
        for v in found.values
        if v.name == "p_value" and (v.characteristic, v.at) == (name, {"judged": judged})
    )


def test_a_pure_code_of_correlated_labels_has_distance_0():
    found = measured(*correlated())
    assert rows(found, "distance") == {None: 0, "a": 0, "b": 0, "hair": 0, "age": 0}
    assert found.notes == ("16 tests, adjusted together (Holm) at level 0.05",)


@pytest.mark.parametrize(
    ("column", "name", "foreign"), [(1, "a", "hair"), (2, "b", "age"), (4, "hair", "b"), (5, "age", "a")]
)
def test_a_foreign_label_is_an_extra_dependence(column, name, foreign):
    codes, labels = correlated()
    own = labels[:, SCHEMA.index(foreign)]
    codes[:, column] += 0.8 * (own == 2 if foreign == "hair" else own)
    found = measured(codes, labels)
    assert rows(found, "extra") == {None: 1, **dict.fromkeys(SCHEMA.names, 0), name: 1}
    assert rows(found, "distance")[None] == 1
    assert p_value(found, name, foreign) <= 0.05
    assert rows(found, "missing")[None] == 0


def test_permuted_labels_are_all_missing():
    codes, labels = correlated()
    found = measured(codes[np.random.default_rng(0).permutation(COUNT)], labels)
    total = next(v for v in found.values if v.name == "distance" and v.characteristic is None)
    assert total.estimate.value == total.chance == 4
    assert rows(found, "extra")[None] == 0


def test_swapped_codes_are_missing_and_extra():
    codes, labels = correlated()
    layout = LatentLayout(7, {"a": (2,), "b": (0, 1), "hair": (3, 4), "age": (5,)})
    found = measured(codes, labels, layout=layout)
    assert (rows(found, "missing")[None], rows(found, "extra")[None], rows(found, "distance")[None]) == (2, 2, 4)


def test_squares_detect_a_label_that_changes_the_spread_only():
    codes, labels = correlated()
    codes[:, 2] *= 1 + labels[:, 0]
    codes[:, 2] -= 2 * labels[:, 1] * labels[:, 0]  # the mean stays that of b
    assert rows(measured(codes, labels, probe="quadratic"), "extra")["b"] >= 1
    assert p_value(measured(codes, labels), "b", "a") > p_value(measured(codes, labels, probe="quadratic"), "b", "a")


def test_images_without_a_label_are_left_out():
    codes, labels = correlated()
    labels[:100, 1] = np.nan
    codes[:100] = 1e6
    found = measured(codes, labels)
    assert rows(found, "distance")[None] == 0
    assert {v.estimate.n for v in found.values} == {COUNT - 100}
    assert found.notes[1] == "100 images lack a label and do not enter"


@pytest.mark.parametrize(
    ("column", "why"), [(np.nan, "every label is missing"), (0.0, "only 0 images of class present, 20 are needed")]
)
def test_a_label_that_cannot_be_tested_is_undefined_and_limits_no_other(column, why):
    codes, labels = correlated()
    labels[:, 1] = column
    found = measured(codes, labels)
    own = {v.name: v.note for v in found.values if v.characteristic == "b" and not v.at}
    assert own == dict.fromkeys(("distance", "missing", "extra"), why)
    assert rows(found, "distance")[None] == 0
    assert np.isnan(p_value(found, "a", "b"))


def test_rare_classes_of_a_categorical_label_are_left_out():
    codes, labels = correlated()
    labels[labels[:, 2] == 2, 2] = np.where(np.arange((labels[:, 2] == 2).sum()) < 5, 2, 0)
    assert rows(measured(codes, labels), "missing")["hair"] == 0


def test_one_label_has_no_foreign_one():
    codes, labels = correlated()
    found = measured(codes, labels[:, :1], LabelSchema(SCHEMA.labels[:1]), LatentLayout(7, {"a": (0, 1)}))
    assert rows(found, "distance") == {None: 0, "a": 0}
    extra = next(v for v in found.values if v.name == "extra" and v.characteristic is None)
    assert extra.note == "there is no other label to compare"


def test_a_selected_characteristic_is_tested_against_all_labels():
    found = measured(*correlated(), selected=("b",))
    assert set(rows(found, "distance")) == {None, "b"}
    assert p_value(found, "b", "age") > 0.05


class Given(TableVAE):
    """The encoder is given label a."""

    given = ("a",)


def test_a_given_characteristic_does_not_count():
    codes, labels = correlated()
    codes[:, 0] += 2 * labels[:, 1]
    found = measured(codes, labels, model=Given(SCHEMA, LAYOUT))
    assert rows(found, "distance")["a"] == 1
    assert rows(found, "distance")[None] == 0
    assert {v.note for v in found.values if v.characteristic == "a" and not v.at} == {"given"}


def test_an_unassigned_label_is_missing():
    class Unrelated(Squares):
        def labels_of(self, ids):
            found = super().labels_of(ids).copy()
            found[:, 1] = np.random.default_rng(0).random(self.count)[ids] < 0.5
            return found

    subject = prepare(PlainSquaresVAE(), Unrelated(600), np.arange(600))
    assert subject.unassigned == ("Smile",)
    found = measure(subject, [MeasurementTests()]).measurement("measurement")
    assert rows(found, "missing")["Smile"] == 1
    assert rows(found, "missing")[None] == rows(found, "distance")[None] == 1


def test_the_figure_outlines_what_is_found():
    codes, labels = correlated()
    codes[:, 2] += labels[:, 0]
    found = measured(codes, labels)
    ((name, sheet),) = MeasurementTests.figures(found)
    assert name == ("dependence",)
    assert len(sheet.axes[0].patches) == 5
    assert "distance 1.000" in sheet.get_suptitle().replace("\n", " ")


def test_the_code_is_a_sample_or_the_mean():
    subject = prepare(SquaresVAE(scale=20.0), Squares(200), np.arange(200))
    sampled, means = (
        measure(subject, [MeasurementTests(code=code)]).measurement("measurement") for code in ("sample", "mean")
    )
    assert rows(sampled, "missing")[None] > rows(means, "missing")[None] == 0
