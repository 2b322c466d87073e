"""Means of a result table over characteristics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from ccvae_eval.core.results import ValueSpec
from ccvae_eval.evaluation.result_table import ResultTable, Undefined
from ccvae_eval.model.interface import LatentLayout, binary_schema
from ccvae_eval.statistics.intervals import mean_estimate, undefined_estimate
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import TableVAE, table_subject

SCHEMA = binary_schema("a", "b", "c")
LAYOUT = LatentLayout(3, {"a": (0,), "b": (1,), "c": (2,)})
WEIGHTS = ResampleWeights(0, 20, 200)


class Given(TableVAE):
    given = ("c",)


@dataclass(frozen=True)
class Size:
    name: ClassVar[str] = "size"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "size"
    values: ClassVar[dict] = {"size": ValueSpec("size")}


def rows(given_counts=False, **more):
    subject = table_subject(torch.zeros(20, 3), torch.zeros(20, 3), SCHEMA, LAYOUT, Given(SCHEMA, LAYOUT), **more)
    return ResultTable(Size(), subject, WEIGHTS, given_counts=given_counts)


def values_of(table):
    return table.measurement([], {}).values


def number(value):
    return mean_estimate(np.linspace(value - 1, value + 1, 20), WEIGHTS)


def test_given_characteristics_are_marked_and_enter_the_mean_only_if_they_count():
    for counts, mean in ((False, 2.0), (True, 4.0)):
        table = rows(counts)
        for name, value in (("a", 1.0), ("b", 3.0), ("c", 8.0)):
            table.add("size", name, number(value), chance=0.5)
        overall, *each = values_of(table)
        assert (overall.characteristic, overall.chance) == (None, 0.5)
        assert overall.estimate.value == pytest.approx(mean)
        assert overall.estimate.low < mean < overall.estimate.high
        assert [value.note for value in each] == ["", "", "given"]
        assert [value.in_mean for value in each] == [True, True, counts]


def test_mean_at_selects_the_mean_that_a_row_enters():
    table = rows()
    for name, value in (("a", 1.0), ("b", 3.0)):
        table.add("size", name, number(value), at={"m": 1}, mean_at={"m": 1})
        table.add("size", name, number(10 * value))
        table.add("size", name, number(99.0), at={"judged": "c"}, mean_at=None)
    means = {tuple(v.at.items()): v.estimate.value for v in values_of(table) if v.characteristic is None}
    assert means == {(("m", 1),): pytest.approx(2), (): pytest.approx(20)}


def test_there_is_no_mean_without_rows_that_enter_it():
    table = rows()
    table.add("size", "a", number(1.0), at={"judged": "b"}, mean_at=None)
    assert [value.characteristic for value in values_of(table)] == ["a"]
    table = rows()
    table.add("size", "c", number(1.0))
    assert values_of(table)[0].note == "not measured: the encoder is given the labels"


def test_undefined_rows_are_listed_counted_and_explained():
    table = rows(assigned=True)
    table.add("size", "a", number(1.0))
    table.add("size", "b", Undefined("too few images"))
    overall, _, undefined = values_of(table)
    assert (overall.excluded, overall.estimate.value) == (1, pytest.approx(1.0))
    assert math.isnan(undefined.estimate.value)
    assert undefined.note == "assigned; too few images"
    alone = rows()
    alone.add("size", "a", undefined_estimate(200, "too few images"))
    assert "too few images" in values_of(alone)[0].note
