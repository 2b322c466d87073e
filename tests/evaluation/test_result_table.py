"""From numbers per image to rows, and back from the evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccvae_eval.evaluation.result_table import Mean, Proportion, RatioOfSums, ResultTable, among, mean_of
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresVAE

COUNT = 40


@pytest.fixture
def tally() -> ResultTable:
    subject = prepare(SquaresVAE(), Squares(COUNT), np.arange(COUNT))
    return ResultTable(Locality(), subject, ResampleWeights(0, COUNT))


@pytest.fixture
def numbers() -> np.ndarray:
    values = np.random.default_rng(0).random(COUNT)
    values[:10] = np.nan
    return values


def rows_of(tally: ResultTable) -> dict:
    values = tally.measurement([], {}).values
    return {(v.name, v.characteristic, tuple(v.at.items())): v for v in values}


def test_images_that_do_not_enter_are_counted(tally: ResultTable, numbers: np.ndarray) -> None:
    tally.add("focus", "Glasses", Mean(numbers), chance=0.0)
    row = rows_of(tally)["focus", "Glasses", ()]
    assert row.estimate.value == pytest.approx(np.nanmean(numbers))
    assert (row.estimate.n, row.excluded) == (30, 10)


def test_a_mean_over_characteristics_is_the_mean_of_its_rows(tally: ResultTable, numbers: np.ndarray) -> None:
    tally.add("focus", "Glasses", Mean(numbers), chance=0.25)
    tally.add("focus", "Smile", Mean(1 - numbers**2), chance=0.75)
    tally.add("focus", "Hair", "has no region")
    rows = rows_of(tally)
    mean = rows["focus", None, ()]
    parts = [rows["focus", name, ()].estimate.value for name in ("Glasses", "Smile")]
    assert mean.estimate.value == pytest.approx(np.mean(parts))
    assert (mean.chance, mean.excluded) == (0.5, 1)
    assert rows["focus", "Hair", ()].note == "has no region"


def test_columns_are_averaged_to_their_characteristic(tally: ResultTable, numbers: np.ndarray) -> None:
    tally.add("focus", "Glasses", Mean(numbers), {"column": 0}, chance=0.2)
    tally.add("focus", "Glasses", Mean(numbers + 1), {"column": 1}, chance=0.4)
    tally.add("focus", "Smile", Mean(numbers), chance=0.0)
    rows = rows_of(tally)
    own = rows["focus", "Glasses", ()]
    assert own.estimate.value == pytest.approx(np.nanmean(numbers) + 0.5)
    assert own.chance == pytest.approx(0.3)
    assert rows["focus", None, ()].estimate.value == pytest.approx(np.nanmean(numbers) + 0.25)


def test_values_can_be_recomputed_from_the_evidence(tally: ResultTable, numbers: np.ndarray) -> None:
    tally.add("selectivity", "Glasses", RatioOfSums(numbers, numbers + 1))
    tally.add("changed", "Glasses", Proportion(among(numbers > 0.5, np.ones(COUNT))))
    tally.add("focus", "Glasses", Mean(numbers), {"column": 3})
    measurement = tally.measurement([], {})
    for value in (v for v in measurement.values if v.characteristic == "Glasses" and "mean over" not in v.note):
        address = "/".join([value.name, "Glasses", *(f"{k}={x}" for k, x in value.at.items())])
        over, under = (np.nansum(measurement.evidence[f"{address}/{term}"]) for term in ("numerator", "denominator"))
        assert value.estimate.value == pytest.approx(over / under, rel=1e-12)


def test_nothing_defined_is_an_undefined_measurement_with_its_reasons(tally: ResultTable) -> None:
    tally.undefined("Glasses", "classes not separated")
    measurement = tally.measurement([], {})
    assert measurement.status == "undefined"
    assert measurement.reason is not None
    assert "classes not separated" in measurement.reason.text
    assert all(math.isnan(v.estimate.value) for v in measurement.values)


def test_an_undefined_row_has_no_chance_to_be_compared_with(tally: ResultTable) -> None:
    tally.add("focus", "Glasses", Mean(np.full(COUNT, np.nan)), chance=0.0, reference=1.0, why="nothing changed")
    row = rows_of(tally)["focus", "Glasses", ()]
    assert (row.chance, row.reference, row.note, row.excluded) == (None, None, "nothing changed", COUNT)


def test_the_mean_of_no_image_is_none() -> None:
    assert mean_of(np.ones(3), np.zeros(3, bool)) is None
    assert mean_of(np.arange(3.0), np.array([False, True, True])) == 1.5
