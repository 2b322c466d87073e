from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import LabelMismatchError
from ccvae_eval.data.interface import HasCounterfactuals, Renders
from ccvae_eval.data.labels.relabel import aligned, label_columns, match_labels
from ccvae_eval.data.memory import Arrays
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.model.interface import Label, LabelSchema, supports
from ccvae_eval.testing.data import check_data_set

IDS = np.array([3, 0, 9])
COLORS = ("Gray", "Brown", "Green", "Blond", "Black", "Bald")
MODEL = LabelSchema((Label("Hair_Color", "categorical", COLORS), Label("Smiling")))


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces(n=40, size=32)


def test_labels_have_the_order_and_classes_of_the_model(faces: Faces) -> None:
    every = np.arange(40)
    original, found = faces.labels_of(every), label_columns(faces, MODEL, every)
    assert found.dtype == np.float32
    assert np.array_equal(found[:, 1], original[:, faces.schema.index("Smiling")])
    own = faces.schema["Hair_Color"]
    assert [COLORS[int(c)] for c in found[:, 0]] == [own.classes[int(c)] for c in original[:, -1]]
    assert label_columns(faces, LabelSchema(()), every).shape == (40, 0)


def test_missing_labels_stay_missing() -> None:
    data = Arrays(np.zeros((3, 2), np.float32), np.array([[0, 1], [np.nan, 2], [1, np.nan]]), faces_like())
    found = label_columns(data, faces_like(reverse=True), np.arange(3))
    assert np.array_equal(found, [[1, 0], [0, np.nan], [np.nan, 1]], equal_nan=True)


def faces_like(reverse: bool = False) -> LabelSchema:
    classes = ("c", "b", "a") if reverse else ("a", "b", "c")
    labels = (Label("on"), Label("hair", "categorical", classes))
    return LabelSchema(labels[::-1] if reverse else labels)


def test_an_aligned_data_set_uses_the_classes_of_the_model(faces: Faces) -> None:
    model = LabelSchema((Label("Hair_Color", "categorical", ("Gray", "Brown", "Blond", "Black", "Bald")),))
    data = aligned(faces, model)
    check_data_set(data)
    assert data.schema == model
    assert data.digest == faces.digest
    assert np.array_equal(data.labels_of(IDS), label_columns(faces, model, IDS))
    assert supports(data, HasCounterfactuals)
    gray_for_the_model, gray_for_the_data = np.zeros(3, np.float32), np.full(3, 4, np.float32)
    assert torch.equal(
        data.with_attribute(IDS, "Hair_Color", gray_for_the_model),
        faces.with_attribute(IDS, "Hair_Color", gray_for_the_data),
    )
    assert not supports(data, Renders)  # most labels are left out


def test_a_data_set_with_the_labels_of_the_model_is_returned_unchanged(faces: Faces) -> None:
    assert aligned(faces, faces.schema) is faces
    assert aligned(faces, LabelSchema(())) is faces


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Label("Smile"), "lack the label 'Smile'.*\nDid you mean 'Smiling'.*label=Smile=NAME'"),
        (Label("Zygomaticus"), "lack the label 'Zygomaticus'.*\nKnown: Arched_Eyebrows"),
        (Label("Hair_Color"), "categorical in the data and binary in the model"),
        (
            Label("Smiling", "categorical", ("no", "yes")),
            "binary in the data and categorical.*\nJoin mutually exclusive",
        ),
        (Label("Hair_Color", "categorical", COLORS[:-1]), "the model has no class 'Bald' of label 'Hair_Color'"),
    ],
)
def test_mismatches_are_rejected(faces: Faces, label: Label, message: str) -> None:
    with pytest.raises(LabelMismatchError, match=message) as caught:
        label_columns(faces, LabelSchema((label,)), IDS)
    assert caught.value.exit_code == 3
    with pytest.raises(LabelMismatchError):
        match_labels(faces.schema, LabelSchema((label,)), "x")
