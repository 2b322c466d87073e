"""Result table: rows and means from image statistics, and their recomputation from the evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccvae_eval.core import large_arrays
from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation import result_table
from ccvae_eval.evaluation.result_table import (
    ColumnStore,
    Mean,
    Proportion,
    RatioOfSums,
    ResultTable,
    Undefined,
    among,
    mean_of,
    unless,
)
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.metrics.shared.contrasts import RocAuc
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresVAE

COUNT = 40


@pytest.fixture
def table() -> ResultTable:
    subject = prepare(SquaresVAE(), Squares(COUNT), np.arange(COUNT))
    return ResultTable(Locality(), subject, ResampleWeights(0, COUNT))


@pytest.fixture
def numbers() -> np.ndarray:
    values = np.random.default_rng(0).random(COUNT)
    values[:10] = np.nan
    return values


def rows_of(table: ResultTable) -> dict:
    values = table.measurement([], {}).values
    return {(v.name, v.characteristic, tuple(v.at.items())): v for v in values}


def test_images_that_do_not_enter_are_counted(table: ResultTable, numbers: np.ndarray) -> None:
    table.add("focus", "Glasses", Mean(numbers), chance=0.0)
    row = rows_of(table)["focus", "Glasses", ()]
    assert row.estimate.value == pytest.approx(np.nanmean(numbers))
    assert (row.estimate.n, row.excluded) == (30, 10)


def test_a_mean_over_characteristics_is_the_mean_of_its_rows(table: ResultTable, numbers: np.ndarray) -> None:
    table.add("focus", "Glasses", Mean(numbers), chance=0.25)
    table.add("focus", "Smile", Mean(1 - numbers**2), chance=0.75)
    table.add("focus", "Hair", Undefined("has no region"))
    rows = rows_of(table)
    mean = rows["focus", None, ()]
    parts = [rows["focus", name, ()].estimate.value for name in ("Glasses", "Smile")]
    assert mean.estimate.value == pytest.approx(np.mean(parts))
    assert (mean.chance, mean.excluded) == (0.5, 1)
    assert rows["focus", "Hair", ()].note == "has no region"


def test_the_influence_of_images_is_kept_where_the_terms_do_not_give_it(
    table: ResultTable, numbers: np.ndarray
) -> None:
    labels = (np.arange(COUNT) % 2).astype(float)
    area = RocAuc([numbers], [labels])
    table.add("focus", "Glasses", area)
    table.add("focus", "Smile", Mean(numbers))
    np.testing.assert_array_equal(table.evidence["focus/Glasses/influence"], area.influence())
    assert "focus/Smile/influence" not in table.evidence


def test_single_dimensions_are_averaged_over_their_characteristic(table: ResultTable, numbers: np.ndarray) -> None:
    table.add("focus", "Glasses", Mean(numbers), {"column": 0}, chance=0.2)
    table.add("focus", "Glasses", Mean(numbers + 1), {"column": 1}, chance=0.4)
    table.add("focus", "Smile", Mean(numbers), chance=0.0)
    rows = rows_of(table)
    own = rows["focus", "Glasses", ()]
    assert own.estimate.value == pytest.approx(np.nanmean(numbers) + 0.5)
    assert own.chance == pytest.approx(0.3)
    assert rows["focus", None, ()].estimate.value == pytest.approx(np.nanmean(numbers) + 0.25)


def test_values_can_be_recomputed_from_the_evidence(table: ResultTable, numbers: np.ndarray) -> None:
    table.add("selectivity", "Glasses", RatioOfSums(numbers, numbers + 1))
    table.add("changed", "Glasses", Proportion(among(numbers > 0.5, np.ones(COUNT))))
    table.add("focus", "Glasses", Mean(numbers), {"column": 3})
    measurement = table.measurement([], {})
    for value in (v for v in measurement.values if v.characteristic == "Glasses" and "mean over" not in v.note):
        address = "/".join([value.name, "Glasses", *(f"{k}={x}" for k, x in value.at.items())])
        over, under = (np.nansum(measurement.evidence[f"{address}/{term}"]) for term in ("numerator", "denominator"))
        assert value.estimate.value == pytest.approx(over / under, rel=1e-12)


def test_a_measurement_without_defined_rows_is_undefined_and_gives_the_reasons(table: ResultTable) -> None:
    table.undefined("Glasses", "classes not separated")
    measurement = table.measurement([], {})
    assert measurement.status == "undefined"
    assert measurement.reason is not None
    assert "classes not separated" in measurement.reason.text
    assert all(math.isnan(v.estimate.value) for v in measurement.values)


def test_an_undefined_row_has_no_chance_level(table: ResultTable) -> None:
    table.add("focus", "Glasses", Mean(np.full(COUNT, np.nan)), chance=0.0, reference=1.0, why="nothing changed")
    row = rows_of(table)["focus", "Glasses", ()]
    assert (row.chance, row.reference, row.note, row.excluded) == (None, None, "nothing changed", COUNT)


def test_the_mean_without_images_is_none() -> None:
    assert mean_of(np.ones(3), np.zeros(3, bool)) is None
    assert mean_of(np.arange(3.0), np.array([False, True, True])) == 1.5


def test_a_statistic_gives_way_to_the_reason_why_it_is_undefined(table: ResultTable, numbers: np.ndarray) -> None:
    assert isinstance(unless("", Mean(numbers)), Mean)
    table.add("focus", "Glasses", unless("has no region", Mean(numbers)), chance=0.5)
    row = rows_of(table)["focus", "Glasses", ()]
    assert math.isnan(row.estimate.value)
    assert (row.note, row.chance) == ("has no region", None)
    assert "focus/Glasses/numerator" not in table.evidence


def test_a_text_as_statistic_is_deprecated(table: ResultTable) -> None:
    with pytest.warns(DeprecationWarning, match=r"use Undefined\(reason\)"):
        table.add("focus", "Glasses", "has no region")
    assert rows_of(table)["focus", "Glasses", ()].note == "has no region"


def test_a_table_can_be_told_what_a_row_leaves_out(table: ResultTable, numbers: np.ndarray) -> None:
    table.add("focus", None, Mean(numbers), excluded=3)
    assert rows_of(table)["focus", None, ()].excluded == 3


def test_columns_of_disjoint_images_merge_in_any_order() -> None:
    values = np.arange(12.0).reshape(6, 2)
    whole, first, second = ColumnStore(6), ColumnStore(6), ColumnStore(6)
    for store, rows in ((whole, slice(0, 6)), (first, slice(0, 4)), (second, slice(4, 6))):
        store.put("Hat", rows, {"pair/loss": values[rows], "pair/count": values[rows, 0]})
    second.put("Hat", slice(4, 6), {"second only": np.ones(2)})
    second.merge(first)
    assert second.seen.all()
    for key, column in whole.under("Hat", "pair/").items():
        assert np.array_equal(second.get("Hat", f"pair/{key}"), column)
    assert np.isnan(second.get("Hat", "second only")).tolist() == [True] * 4 + [False] * 2


def test_overlapping_columns_are_refused() -> None:
    first, second = ColumnStore(6), ColumnStore(6)
    first.put("Hat", slice(0, 4), {"loss": np.ones(4)})
    second.put("Smile", np.array([2, 3, 5]), {"loss": np.ones(3)})
    with pytest.raises(UsageError, match="must not overlap: 2 images are in both, first row 2"):
        first.merge(second)


def test_columns_of_many_images_are_the_same_in_a_file(monkeypatch):
    rows = {"a": np.arange(20.0), "b": np.arange(40.0).reshape(20, 2)}

    def filled():
        store, other = ColumnStore(20), ColumnStore(20)
        store.put("Smile", slice(0, 8), {key: column[:8] for key, column in rows.items()})
        other.put("Smile", slice(10, 15), {key: column[10:15] for key, column in rows.items()})
        store.merge(other)
        return store

    expected = filled()
    monkeypatch.setattr(result_table, "MAX_IN_MEMORY", 10)
    found = filled()
    assert isinstance(found.columns["Smile"]["a"], large_arrays.LargeArray)
    for key, column in found.under("Smile", "").items():
        np.testing.assert_array_equal(column, expected.get("Smile", key))
        np.testing.assert_array_equal(found.get("Smile", key), column)
    assert np.isnan(found.get("Smile", "a")[8:10]).all()
