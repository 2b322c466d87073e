"""Batches of an epoch, their order, the image cache and the prefetching thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.types import Ids
from ccvae_eval.model.interface import Batch
from ccvae_eval.training.supervision import BatchFeed, epoch_batches
from tests.support.clouds import Clouds, NoiseImages


def feed_of(data: Clouds, megabytes: int = 100) -> BatchFeed:
    ids = np.arange(5, len(data), dtype=np.int64)
    return BatchFeed(data, ids, data.labels_of(ids), megabytes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "labelled", "batch"), [(100, 100, 32), (100, 13, 32), (101, 0, 10), (3, 1, 50)])
def test_an_epoch_has_every_image_once_in_batches_of_equal_size(rows: int, labelled: int, batch: int) -> None:
    parts = epoch_batches(np.arange(rows) < labelled, batch, seed=0, epoch=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    sizes = {len(part) for part in parts}
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_labelled_images_are_spread_over_the_batches() -> None:
    labelled = np.zeros(1000, dtype=bool)
    labelled[:40] = True
    for epoch in range(5):
        counts = [int(labelled[part].sum()) for part in epoch_batches(labelled, 50, seed=3, epoch=epoch)]
        assert len(counts) == 20
        assert set(counts) <= {1, 2, 3}


def test_the_order_depends_on_seed_and_epoch() -> None:
    labelled = np.ones(50, dtype=bool)
    orders = {
        tuple(np.concatenate(epoch_batches(labelled, 8, seed, epoch)).tolist()) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4
    again = np.concatenate(epoch_batches(labelled, 8, 1, 1))
    assert tuple(again.tolist()) in orders


def test_cached_images_are_bit_identical_and_read_once() -> None:
    data = NoiseImages()
    feed = feed_of(data)
    positions = np.array([7, 0, 3])
    first, again = feed.batch(positions), feed.batch(positions)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, feed_of(data, megabytes=0).batch(positions).images)
    assert data.read == [12, 5, 8] * 2, "once for each feed"
    assert first.ids.tolist() == [12, 5, 8]
    assert torch.equal(first.labels, torch.from_numpy(data.labels[[12, 5, 8]]))
    assert feed.cache is not None
    assert feed.cache.dtype == torch.uint8


def test_images_that_are_not_8_bit_are_not_rounded() -> None:
    data = NoiseImages(levels=1000.5)
    feed = feed_of(data)
    for _ in range(2):
        assert torch.equal(feed.batch(np.arange(4)).images, data.points[5:9])
    assert not feed.cached.any()


def test_points_are_not_changed() -> None:
    data = Clouds()
    assert torch.equal(feed_of(data).batch(np.arange(4)).images, data.points[5:9])


def test_batches_are_in_order_and_leave_no_thread() -> None:
    feed, parts = feed_of(NoiseImages()), [np.array([1, 2]), np.array([0]), np.array([5, 4])]
    before = threading.active_count()
    assert [batch.ids.tolist() for batch in feed.batches(parts)] == [[6, 7], [5], [10, 9]]
    early = feed.batches(parts)
    next(early)
    early.close()
    assert threading.active_count() == before
    assert list(feed.batches([])) == []


def test_an_error_while_reading_is_raised_by_the_iterator() -> None:
    class Broken(NoiseImages):
        def batch(self, ids: Ids) -> Batch:
            if 9 in ids:
                raise DataError("image 9 is damaged")
            return super().batch(ids)

    batches = feed_of(Broken()).batches([np.array([0]), np.array([4])])
    assert next(batches).ids.tolist() == [5]
    with pytest.raises(DataError, match="image 9"):
        next(batches)
