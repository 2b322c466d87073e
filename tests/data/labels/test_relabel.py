from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import LabelMismatchError, UsageError
from ccvae_eval.data.interface import (
    HasCounterfactuals,
    HasFactors,
    HasRedraws,
    HasRegions,
    HasVariety,
    NeedsNoPath,
    Renders,
)
from ccvae_eval.data.labels.relabel import Column, Relabelled, relabelled
from ccvae_eval.data.memory import Arrays
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.interface import Label, supports
from ccvae_eval.testing.data import check_data_set

NAN = np.nan
IDS = np.array([4, 0, 7])
PARTS = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0], [NAN, 1, 0], [0, 1, 0]], np.float32)


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces(n=40, size=32)


def hair() -> Arrays:
    return Arrays(
        np.zeros((6, 2), np.float32), np.column_stack([PARTS, np.arange(6)]), ["Bald", "Black", "Blond", "age"]
    )


def test_without_requests_the_data_set_is_returned_unchanged(faces: Faces) -> None:
    assert relabelled(faces, []) is faces


def test_renaming_changes_only_names_and_digest(faces: Faces) -> None:
    data = relabelled(faces, ["Glasses=Eyeglasses", "Hair = Hair_Color"])
    check_data_set(data)
    assert data.schema.names == ("Glasses", *faces.schema.names[1:-1], "Hair")
    assert data.schema["Hair"].classes == faces.schema["Hair_Color"].classes
    assert np.array_equal(data.labels_of(IDS), faces.labels_of(IDS))
    assert torch.equal(data.batch(IDS).images, faces.batch(IDS).images)
    assert np.array_equal(data.split("test"), faces.split("test"))
    assert data.digest != faces.digest


def test_the_capabilities_of_a_renamed_data_set_use_its_names(faces: Faces) -> None:
    data = relabelled(faces, ["Glasses=Eyeglasses"])
    for capability in (HasRegions, HasCounterfactuals, HasRedraws, HasVariety, HasFactors, NeedsNoPath, Renders):
        assert supports(data, capability)
    ones = np.ones(3, np.float32)
    assert np.array_equal(data.region(IDS, "Glasses"), faces.region(IDS, "Eyeglasses"))
    assert data.region_source == faces.region_source
    assert torch.equal(data.with_attribute(IDS, "Glasses", ones), faces.with_attribute(IDS, "Eyeglasses", ones))
    assert torch.equal(data.redraw(IDS, "Glasses", ones, 2), faces.redraw(IDS, "Eyeglasses", ones, 2))
    variety = data.variety(IDS, "Glasses")
    assert np.array_equal(variety, faces.variety(IDS, "Eyeglasses"))
    assert data.variety_names("Glasses") == faces.variety_names("Eyeglasses")
    swapped = data.with_variety(IDS, {"Glasses": ones}, {"Glasses": variety[::-1]})
    assert torch.equal(swapped, faces.with_variety(IDS, {"Eyeglasses": ones}, {"Eyeglasses": variety[::-1]}))
    assert "Glasses.shape" in data.factor_names
    assert "Eyeglasses.shape" not in data.factor_names
    assert torch.equal(data.render(data.factors(IDS), data.labels_of(IDS)), faces.batch(IDS).images)
    with pytest.raises(UsageError, match="unknown"):
        data.region(IDS, "Eyeglasses")


def test_splitting_gives_one_binary_label_for_each_class(faces: Faces) -> None:
    data = relabelled(faces, ["*=Hair_Color", "Glasses=Eyeglasses"])
    check_data_set(data)
    classes = faces.schema["Hair_Color"].classes
    assert data.schema.names[-5:] == tuple(f"Hair_Color:{name}" for name in classes)
    assert "Glasses" in data.schema
    one_hot = np.eye(len(classes), dtype=np.float32)[faces.labels_of(IDS)[:, -1].astype(int)]
    assert np.array_equal(data.labels_of(IDS)[:, -5:], one_hot)
    assert np.array_equal(data.region(IDS, "Hair_Color:Blond"), faces.region(IDS, "Hair_Color"))
    for capability in (HasCounterfactuals, HasRedraws, HasVariety, Renders):
        assert not supports(data, capability)
    assert relabelled(faces, ["*=Hair_Color"]).digest not in (faces.digest, data.digest)
    assert open_data(data.spec).digest == data.digest


def test_splitting_a_joined_label_keeps_missing_values() -> None:
    data = relabelled(hair(), ["*=Hair", "Hair=Bald|Black|Blond"])
    assert data.schema.names == ("Hair:Bald", "Hair:Black", "Hair:Blond", "age")
    known = np.array([[1, 0, 0], [0, 0, 1], [NAN] * 3, [NAN] * 3, [NAN] * 3, [0, 1, 0]], np.float32)
    assert np.array_equal(data.labels_of(np.arange(6))[:, :3], known, equal_nan=True)


def test_only_categorical_labels_can_be_split() -> None:
    with pytest.raises(LabelMismatchError, match="'Bald' is binary"):
        relabelled(hair(), ["*=Bald"])
    with pytest.raises(UsageError, match="no label 'Bold'\nDid you mean 'Bald'"):
        relabelled(hair(), ["*=Bold"])


def test_a_joined_label_is_missing_for_none_or_several_parts() -> None:
    data = relabelled(hair(), ["Hair=Bald|Black|Blond"])
    assert isinstance(data, Relabelled)
    assert data.schema.names == ("Hair", "age")
    assert data.schema["Hair"] == Label("Hair", "categorical", ("Bald", "Black", "Blond"))
    every = np.arange(6)
    assert np.array_equal(data.labels_of(every)[:, 0], [0, 2, NAN, NAN, NAN, 1], equal_nan=True)
    assert np.array_equal(data.labels_of(every)[:, 1], every)
    assert np.array_equal(data.batch(every).labels.numpy(), data.labels_of(every), equal_nan=True)
    assert data.conflicts() == {"Hair": (1, 1)}


def test_the_region_of_a_joined_label_is_the_union_of_its_parts(faces: Faces) -> None:
    data = relabelled(faces, ["Worn=Eyeglasses|Wearing_Hat"])
    assert supports(data, HasRegions)
    expected = faces.region(IDS, "Eyeglasses") | faces.region(IDS, "Wearing_Hat")
    assert np.array_equal(data.region(IDS, "Worn"), expected)
    assert not any(supports(data, lost) for lost in (HasCounterfactuals, HasRedraws, HasVariety, Renders))
    assert supports(data, HasFactors)


def test_a_view_adds_no_capabilities() -> None:
    data = relabelled(hair(), ["Old=age"])
    assert not any(supports(data, lost) for lost in (HasRegions, HasCounterfactuals, HasFactors, NeedsNoPath))


def test_the_digest_depends_on_the_requests() -> None:
    requests = [["A=Bald"], ["A=Black"], ["A=Bald|Black"], ["A=Black|Bald"], ["A=Bald", "B=Black"]]
    digests = {relabelled(hair(), request).digest for request in requests}
    assert len(digests) == len(requests)
    assert relabelled(hair(), requests[0]).digest in digests


@pytest.mark.parametrize("request_", ["Hair", "=Bald", "Hair=", "Hair=Bald|", "Hair=|Bald"])
def test_malformed_requests_are_rejected(request_: str) -> None:
    with pytest.raises(UsageError, match="Write NEW=OLD"):
        relabelled(hair(), [request_])


def test_impossible_requests_are_rejected() -> None:
    with pytest.raises(UsageError, match="Did you mean 'Blond'"):
        relabelled(hair(), ["A=Blonde"])
    with pytest.raises(UsageError, match="'Bald' is renamed or joined twice"):
        relabelled(hair(), ["A=Bald", "B=Bald|Black"])
    with pytest.raises(UsageError, match="'Black' appears twice"):
        relabelled(hair(), ["Black=Bald"])
    with pytest.raises(LabelMismatchError, match="'age' is continuous"):
        relabelled(hair(), ["A=Bald|age"])
    with pytest.raises(UsageError, match="label=NEW=OLD"):
        Relabelled.from_spec(None, {})


def test_invert_is_the_inverse_of_convert() -> None:
    column = Column(Label("h", "categorical", ("x", "y", "z")), ("h",), (2, 0))
    source = np.array([0, 1, NAN], np.float32)
    found = column.convert(source[:, None])
    assert np.array_equal(found, [2, 0, NAN], equal_nan=True)
    assert np.array_equal(column.invert(found), source, equal_nan=True)
    with pytest.raises(LabelMismatchError, match="no class 'y'"):
        column.invert(np.array([1], np.float32))
