from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.sets.faces.dataset import BLOCK, REDRAWS, THRESHOLD
from ccvae_eval.data.sets.faces.parameters import SCHEMA

IDS = np.array([3, 40, 11])


def changed(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    bytes_ = ((one - other).abs() * 255).round().amax(dim=1)
    return (bytes_ > THRESHOLD).numpy()


@pytest.mark.parametrize("label", [label.name for label in SCHEMA if label.kind == "binary"])
def test_a_region_is_the_set_of_pixels_that_redraws_change(label: str) -> None:
    """Brute force over whole images from the public counterfactuals and redraws."""
    data = Faces(n=100, size=32)
    absent = data.with_attribute(IDS, label, np.zeros(3, np.float32))
    present = [data.redraw(IDS, label, np.ones(3, np.float32), draw) for draw in range(REDRAWS)]
    expected = np.logical_or.reduce([changed(picture, absent) for picture in present])
    assert np.array_equal(data.region(IDS, label), expected)
    assert expected.any(axis=(1, 2)).all()


def test_the_region_of_hair_cycles_through_the_other_classes() -> None:
    data = Faces(n=100, size=32)
    own = data.labels_of(IDS)[:, -1]
    expected = np.zeros((3, 32, 32), bool)
    for draw in range(REDRAWS):
        other = (own + 1 + draw % 4) % 5
        expected |= changed(
            data.redraw(IDS, "Hair_Color", own, draw), data.redraw(IDS, "Hair_Color", other.astype(np.float32), draw)
        )
    assert np.array_equal(data.region(IDS, "Hair_Color"), expected)


def test_strict_regions_use_only_the_variety_of_the_face() -> None:
    data = Faces(n=100, size=32, strict=True)
    ones = np.ones(3, np.float32)
    expected = changed(data.with_attribute(IDS, "Bangs", ones), data.with_attribute(IDS, "Bangs", 0 * ones))
    assert np.array_equal(data.region(IDS, "Bangs"), expected)
    hair = data.labels_of(IDS)[:, -1]
    every = [data.with_attribute(IDS, "Hair_Color", np.full(3, c, np.float32)) for c in range(5)]
    own = torch.stack([every[int(c)][i] for i, c in enumerate(hair)])
    assert np.array_equal(data.region(IDS, "Hair_Color"), np.logical_or.reduce([changed(own, e) for e in every]))
    wide = Faces(n=100, size=32).region(IDS, "Bangs")
    assert (wide & expected).sum() == expected.sum() < wide.sum()


def test_regions_do_not_depend_on_blocks_order_or_cache() -> None:
    ids = np.arange(BLOCK + 5)
    fresh, used = Faces(n=100, size=32), Faces(n=100, size=32)
    used.region(ids[7:9], "Mustache")
    assert np.array_equal(fresh.region(ids, "Mustache"), used.region(ids[::-1], "Mustache")[::-1])
    assert np.array_equal(fresh.region(ids, "Mustache"), fresh.region(ids, "Mustache"))
    assert fresh.region(ids[:0], "Mustache").shape == (0, 32, 32)


def test_regions_are_small_and_hardly_overlap() -> None:
    data = Faces(n=200)
    ids = data.split("test")[:16]
    found = {label: data.region(ids, label) for label in SCHEMA.names}
    for label, region in found.items():
        share = region.mean(axis=(1, 2))
        assert share.min() > 0.01, label
        assert share.max() < 0.6, label
    local = ["Wearing_Hat", "Eyeglasses", "Mustache", "Smiling", "Wearing_Necktie"]
    for a in local:
        for b in local:
            if a != b:
                shared = (found[a] & found[b]).sum() / min(found[a].sum(), found[b].sum())
                assert shared < 0.15, (a, b)
