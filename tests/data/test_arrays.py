from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.data.memory import Arrays, as_data_set
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.model.interface import Label, LabelSchema, supports
from ccvae_eval.testing.data import check_data_set

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 2, (40, 2))


class Pairs(torch.utils.data.Dataset):
    """A torch Dataset of (image, label)."""

    label_names = ("on", "off")

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(IMAGES[index]).permute(2, 0, 1).float() / 255, torch.from_numpy(LABELS[index])


def test_all_supported_forms_give_the_same_data() -> None:
    forms = [
        (IMAGES, LABELS, ("on", "off")),
        {"images": torch.from_numpy(IMAGES), "labels": torch.from_numpy(LABELS), "names": ["on", "off"]},
        Pairs(),
        torch.utils.data.TensorDataset(
            torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(LABELS)
        ),
    ]
    ids = np.array([3, 1])
    for form in forms:
        data = as_data_set(form)
        check_data_set(data)
        assert data.input_shape == (3, 8, 8)
        assert torch.allclose(
            data.batch(ids).images, torch.from_numpy(IMAGES[ids]).permute(0, 3, 1, 2).float() / 255, atol=1e-7
        )
        assert np.array_equal(data.labels_of(ids), LABELS[ids])
    assert as_data_set(forms[2]).schema.names == ("on", "off")
    assert as_data_set(forms[3]).schema.names == ("label0", "label1")


def test_a_data_set_is_returned_unchanged() -> None:
    data = Faces(n=5)
    assert as_data_set(data) is data


def test_scalar_labels_give_one_categorical_label() -> None:
    items = [(torch.zeros(1, 4, 4), index % 3) for index in range(9)]

    class Digits(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return items[index]

    data = as_data_set(Digits())
    assert data.schema == LabelSchema((Label("label", "categorical", ("0", "1", "2")),))
    assert data.labels_of(np.arange(9))[:, 0].tolist() == [0, 1, 2] * 3


def test_given_splits_are_used() -> None:
    data = as_data_set({"images": IMAGES, "labels": LABELS, "split": ["train", "judge", "test", "test"] * 10})
    assert [len(data.split(name)) for name in ("train", "judge", "test")] == [10, 10, 20]
    with pytest.raises(DataError, match="3 splits, but 40 images"):
        Arrays(IMAGES, LABELS, split=["test"] * 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "type int is not supported\nExpected"),
        (None, "type NoneType"),
        ("x", "type str"),
        ((IMAGES,), "type tuple"),
        ((1, 2, 3, 4), "type tuple"),
        ({"images": IMAGES}, "lacks the key 'labels'\nExpected"),
        ({"images": 1, "labels": 2, "lables": 3}, "unknown key 'lables'\nDid you mean 'labels'"),
    ],
)
def test_unsupported_forms_are_rejected(wrong: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_data_set(wrong)


def test_unreadable_torch_datasets_are_rejected() -> None:
    class Broken(torch.utils.data.Dataset):
        def __init__(self, items: list[object]) -> None:
            self.items = items

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> object:
            return self.items[index]

    image = torch.zeros(1, 4, 4)
    for items, message in (
        ([], "the torch Dataset is empty"),
        ([(image, 0), image], "item 1 is not an"),
        ([(image, 0), 7], "item 1 is not an"),
        ([(image, 0), (torch.zeros(1, 4, 5), 0)], "differ in shape"),
    ):
        with pytest.raises(DataError, match=message):
            as_data_set(Broken(items))


def test_arrays_cannot_be_opened_from_a_spec() -> None:
    with pytest.raises(UsageError, match="npz:PATH"):
        Arrays.from_spec(None, {})


def test_masks_in_memory_are_regions() -> None:
    masks = np.zeros((40, 8, 8))
    masks[1, 0, 1] = 3.0
    data: Any = as_data_set({"images": IMAGES, "labels": LABELS, "names": ["a", "b"], "regions": {"b": masks}})
    assert supports(data, HasRegions)
    assert np.argwhere(data.region(np.array([1, 0]), "b")).tolist() == [[0, 0, 1]]
    assert data.region(np.array([0]), "a") is None
    other: Any = Arrays(IMAGES, LABELS, ["a", "b"], regions={"b": 1 - masks})
    assert other.region_source != data.region_source, "runs with other masks are not comparable"
    assert not supports(Arrays(IMAGES, LABELS), HasRegions)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"c": np.ones((40, 8, 8))}, "there is no label 'c'"),
        ({"a": np.ones((40, 8, 3))}, r"masks must have the shape \(40, 8, 8\), got \(40, 8, 3\)"),
        (np.ones((40, 8, 8)), "regions must map names of labels to masks, got ndarray"),
    ],
)
def test_unusable_masks_are_rejected(regions: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Arrays(IMAGES, LABELS, ["a", "b"], regions=regions)
