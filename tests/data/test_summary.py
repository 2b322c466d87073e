from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from ccvae_eval.data.labels.relabel import relabelled
from ccvae_eval.data.memory import Arrays
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.summary import MAX_CORRELATIONS, MIN_PAIRS, describe, strongest_correlations
from ccvae_eval.model.interface import Label, LabelSchema

NAN = np.nan


def test_rows_count_classes_and_missing_values() -> None:
    schema = LabelSchema((Label("on"), Label("hair", "categorical", ("a", "b")), Label("age", "continuous")))
    table = np.array([[1, 0, 10], [0, 1, 20], [NAN, 1, NAN], [1, NAN, 30]], np.float32)
    found = describe(Arrays(np.zeros((4, 2), np.float32), table, schema, ["train", "judge", "test", "test"]))
    assert found["images"] == 4
    assert found["splits"] == {"train": 1, "judge": 1, "test": 2}
    assert found["regions"] is None
    on, a, b, age = found["labels"]
    assert (on["class"], on["n"], on["share"], on["missing"]) == ("present", 2, 2 / 3, 1)
    assert (a["class"], a["n"], a["share"], a["missing"]) == ("a", 1, 1 / 3, 1)
    assert (b["class"], b["n"], b["share"]) == ("b", 2, 2 / 3)
    assert (age["mean"], age["n"], age["missing"]) == (20, 3, 1)
    assert age["deviation"] == pytest.approx(np.std([10, 20, 30]))
    json.dumps(found, allow_nan=False)


def test_labels_without_values_have_no_share_or_mean() -> None:
    schema = LabelSchema((Label("on"), Label("age", "continuous")))
    found = describe(Arrays(np.zeros((20, 2), np.float32), np.full((20, 2), NAN, np.float32), schema))
    assert [row["share"] for row in found["labels"]] == [None, None]
    assert found["labels"][1]["mean"] is None
    assert found["correlations"] == []


def test_correlations_agree_with_numpy() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(200, 3))
    values[:, 2] += values[:, 0]
    values[random.random((200, 3)) < 0.2] = NAN
    labels = tuple(Label(name, "continuous") for name in "abc")
    found = {(row["first"], row["second"]): row["correlation"] for row in strongest_correlations(labels, values)}
    for (first, second), correlation in found.items():
        pair = values[:, ["abc".index(first), "abc".index(second)]]
        pair = pair[~np.isnan(pair).any(1)]
        assert correlation == pytest.approx(np.corrcoef(pair.T)[0, 1])
    assert next(iter(found)) == ("a", "c")


def test_classes_of_one_label_are_not_correlated_with_each_other() -> None:
    hair = np.tile([0, 1, 2], 20).astype(float)
    bald = (hair == 0).astype(float)
    labels = (Label("hair", "categorical", ("x", "y", "z")), Label("bald"))
    rows = strongest_correlations(labels, np.stack([hair, bald], axis=1))
    assert rows[0] == {"first": "hair=x", "second": "bald", "correlation": pytest.approx(1)}
    assert len(rows) == 3


def test_constant_and_rare_labels_have_no_correlation() -> None:
    constant, few = np.ones(50), np.full(50, NAN)
    few[: MIN_PAIRS - 1] = np.arange(MIN_PAIRS - 1) % 2
    values = np.stack([constant, few, np.arange(50) % 2.0], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert strongest_correlations(tuple(Label(name) for name in "abc"), values) == []
    assert strongest_correlations((), np.empty((5, 0))) == []


def test_joined_labels_list_their_conflicts() -> None:
    faces = Faces(n=300, size=32, correlation=0.8)
    found = describe(relabelled(faces, ["Worn=Eyeglasses|Wearing_Hat"]))
    assert found["regions"] == "renderer"
    labels = faces.labels_of(np.arange(300))
    parts = labels[:, [faces.schema.index("Eyeglasses"), faces.schema.index("Wearing_Hat")]].sum(1)
    assert found["joined"] == [{"label": "Worn", "none": int((parts == 0).sum()), "several": int((parts == 2).sum())}]
    assert len(found["correlations"]) == MAX_CORRELATIONS
    strengths = [abs(row["correlation"]) for row in found["correlations"]]
    assert strengths == sorted(strengths, reverse=True)
