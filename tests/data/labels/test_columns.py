from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, LabelMismatchError
from ccvae_eval.data.labels.columns import (
    MAX_CLASSES,
    column_from_numbers,
    column_from_text,
    labels_from_array,
    schema_of,
)
from ccvae_eval.model.interface import Label, LabelSchema

NAN = np.nan


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["0", "1", "1"], "binary", [0, 1, 1]),
        (["-1", "1", ""], "binary", [0, 1, NAN]),
        (["-1", "-1"], "binary", [0, 0]),
        ([" 1", "0 ", "1.0"], "binary", [1, 0, 1]),
        (["True", "false", " TRUE "], "binary", [1, 0, 1]),
        (["", " ", ""], "binary", [NAN, NAN, NAN]),
        (["0.5", "2", "-1e3"], "continuous", [0.5, 2, -1000]),
        (["-1", "0", "1"], "continuous", [-1, 0, 1]),
        (["0", "1", "2"], "continuous", [0, 1, 2]),
        (["nan", "1.5", "2.5"], "continuous", [NAN, 1.5, 2.5]),
        (["Red", "Blue", "", "Red "], "categorical", [1, 0, NAN, 1]),
        (["true", "maybe"], "categorical", [1, 0]),
    ],
)
def test_cells_determine_the_kind(texts: list[str], kind: str, values: list[float]) -> None:
    label, found = column_from_text("c", texts, "x.csv")
    assert label.kind == kind
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(values, np.float32), equal_nan=True)


def test_classes_are_alphabetical() -> None:
    label, _ = column_from_text("hair", ["Gray", "Bald", "Black", "Bald"], "x.csv")
    assert label.classes == ("Bald", "Black", "Gray")


@pytest.mark.parametrize("texts", [["same", "same"], [f"name{i}" for i in range(MAX_CLASSES + 1)]])
def test_text_with_one_or_too_many_values_is_rejected(texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"x\.csv: column 'c' has .*\n.*labels=A\|B\|C"):
        column_from_text("c", texts, "x.csv")


def test_integers_are_categorical_and_floats_continuous() -> None:
    label, values = column_from_numbers("digit", np.array([3, 0, 1]))
    assert label == Label("digit", "categorical", ("0", "1", "2", "3"))
    assert values.tolist() == [3, 0, 1]
    assert column_from_numbers("x", np.array([3.0, 0, 1]))[0].kind == "continuous"
    assert column_from_numbers("x", np.array([-3, 0, 1]))[0].kind == "continuous"
    assert column_from_numbers("x", np.array([0, MAX_CLASSES]))[0].kind == "continuous"
    assert column_from_numbers("x", np.array([True, False]))[0] == Label("x")


def test_labels_from_arrays() -> None:
    schema, values = labels_from_array(np.array([[0, 2], [1, 0]]), ["on", "digit"], "x")
    assert [label.kind for label in schema] == ["binary", "categorical"]
    assert values.tolist() == [[0, 2], [1, 0]]
    assert labels_from_array(np.array([0, 1]), None, "x")[0].names == ("label",)
    assert labels_from_array(np.zeros((2, 2)), None, "x")[0].names == ("label0", "label1")
    own = LabelSchema((Label("digit", "categorical", ("a", "b", "c")),))
    assert labels_from_array(np.array([2, 0]), own, "x")[0] == own


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (np.zeros((2, 3)), ["a", "b"], "labels have 3 columns, but 2 names"),
        (np.zeros((2, 3, 1)), None, "shape"),
        (np.array(["a", "b"]), None, "type"),
        (np.array([2.0]), LabelSchema((Label("on"),)), "whole numbers from 0 to 1, got 2"),
        (np.array([1.5]), LabelSchema((Label("h", "categorical", ("a", "b")),)), "whole numbers from 0 to 1, got 1.5"),
        (np.array([np.inf, 0.5]), ["x"], "must be finite"),
    ],
)
def test_labels_that_do_not_fit_their_kind_are_rejected(labels: np.ndarray, names: object, message: str) -> None:
    with pytest.raises(LabelMismatchError, match=message) as caught:
        labels_from_array(labels, names, "x")
    assert caught.value.exit_code == 3


def test_an_empty_schema() -> None:
    schema, values = schema_of([], 3, "x")
    assert (len(schema), values.shape) == (0, (3, 0))
