from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Ids
from ccvae_eval.data.sets.sprites import FACTOR_SIZES, FACTOR_VALUES, Sprites
from ccvae_eval.data.spec import open_data
from tests.support.paths import SHARED

ORIGINALS = SHARED / "data/dsprites12/dsprites12.npz"


def ids_of(levels: NDArray[np.int64]) -> Ids:
    """The ids of combinations of factors, each given by the index of its value, shape (N, 5)."""
    return np.ravel_multi_index(tuple(levels.T), FACTOR_SIZES)


@pytest.mark.skipif(not ORIGINALS.is_file(), reason="shared/data/dsprites12 is missing")
def test_twelve_original_images_are_reproduced_exactly() -> None:
    arrays = np.load(ORIGINALS)
    factors = arrays["latents_values"][:, 1:].copy()
    factors[:, 0] -= 1
    drawn = Sprites().draw(factors)[:, 0].numpy()
    assert np.array_equal(drawn, arrays["imgs"])


def test_ids_enumerate_all_combinations_last_factor_fastest() -> None:
    data = Sprites()
    assert len(data) == 737_280
    levels = np.array([[0, 0, 0, 0, 1], [2, 5, 39, 31, 31], [1, 0, 20, 3, 4]])
    ids = ids_of(levels)
    assert ids[0] == 1
    assert ids[1] == len(data) - 1
    np.testing.assert_allclose(
        data.factors(ids), [[0, 0.5, 0, 0, 1 / 31], [2, 1, 2 * np.pi, 1, 1], [1, 0.5, 40 * np.pi / 39, 3 / 31, 4 / 31]]
    )


def test_sprites_are_visible_and_inside_the_image() -> None:
    data = Sprites()
    corners = np.array(
        [[s, k, o, x, y] for s in range(3) for k in (0, 5) for o in (0, 13) for x in (0, 31) for y in (0, 31)]
    )
    images = data.batch(ids_of(corners)).images[:, 0]
    assert (images.sum((1, 2)) > 50).all()
    assert images[:, 0].max() == images[:, -1].max() == images[:, :, 0].max() == images[:, :, -1].max() == 0


def test_counterfactual_shapes_change_only_their_region() -> None:
    data, ids = Sprites(), np.arange(7, 700_000, 50_000)
    hearts = data.with_attribute(ids, "shape", np.full(len(ids), 2, np.float32))
    before = data.batch(ids).images
    changed = (hearts != before)[:, 0].numpy()
    assert not (changed & ~data.region(ids, "shape")).any()
    kept = data.with_attribute(ids, "scale", np.full(len(ids), np.nan, np.float32))
    assert torch.equal(kept, before)


def test_regions_hold_all_changes_and_nothing_else() -> None:
    data, ids = Sprites(), np.arange(7, 700_000, 100_000)
    before = data.batch(ids).images
    for label, values in zip(data.schema.names, FACTOR_VALUES, strict=True):
        region = np.zeros((len(ids), 64, 64), np.bool_)
        for value in values:
            changed = data.with_attribute(ids, label, np.full(len(ids), value, np.float32))
            region |= (changed != before)[:, 0].numpy()
        # orientations are set in float32
        assert (region != data.region(ids, label)).mean() < (1e-3 if label == "orientation" else 1e-9), label
        assert region.any((1, 2)).all()


def test_splits_are_60_20_20_and_independent_of_the_factors() -> None:
    data = Sprites()
    sizes = {name: len(data.split(name)) / len(data) for name in ("train", "judge", "test")}
    assert sizes == pytest.approx({"train": 0.6, "judge": 0.2, "test": 0.2}, abs=0.002)
    levels = np.stack(np.unravel_index(data.split("test"), FACTOR_SIZES), 1)
    for column, count in zip(levels.T, FACTOR_SIZES, strict=True):
        share = np.bincount(column, minlength=count) / len(column)
        assert share == pytest.approx(np.full(count, 1 / count), rel=0.06)


@pytest.mark.parametrize("size", [32, 64])
def test_other_sizes_show_the_same_image(size: int) -> None:
    data, ids = open_data(f"sprites,size={size}"), np.arange(0, 737_280, 60_000)
    assert data.input_shape == (1, size, size)
    finer = torch.nn.functional.avg_pool2d(Sprites(128).batch(ids).images, 128 // size)
    # a pixel whose centre lies inside the shape lies mostly inside it
    assert float((data.batch(ids).images - finer).abs().max()) <= 0.75
    assert float((data.batch(ids).images - finer).abs().mean()) < 0.01


@pytest.mark.parametrize("spec", ["sprites:here", "sprites,size=60", "sprites,n=3"])
def test_invalid_options_are_rejected(spec: str) -> None:
    with pytest.raises(UsageError):
        open_data(spec)
