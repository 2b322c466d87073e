"""Region masks against pooling and direct sums."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ccvae_eval.metrics.matchers.interface import Matches
from ccvae_eval.metrics.shared.region_masks import INSIDE, OUTSIDE, WHOLE, masks_of, point_sums

LIKE = torch.zeros(4, 3, 20, 24)


def regions():
    blobs = torch.rand(4, 20, 24, generator=torch.Generator().manual_seed(0)) > 0.995
    blobs[0, 3:6, 4:9] = True
    return blobs


@pytest.mark.parametrize("guard", [0, 1, 4])
def test_the_guard_band_is_a_dilation(guard):
    region = regions()
    masks = masks_of(region, guard, LIKE).masks
    near = functional.max_pool2d(region.float()[:, None], 2 * guard + 1, 1, guard)[:, 0] > 0
    usable = region.any(2).any(1)[:, None, None]
    assert torch.equal(masks[:, INSIDE] > 0, region)
    assert torch.equal(masks[:, OUTSIDE] > 0, ~near & usable)


def box(size):
    region = torch.zeros(4, 20, 24, dtype=torch.bool)
    region[:, 2 : 2 + size, 3 : 3 + size] = True
    return region


def one_differs():
    region = box(5)
    region[2, 10, 10] = True
    return region


@pytest.mark.parametrize(
    "region", [box(5), box(0), box(18), one_differs()], ids=["box", "empty", "large", "one differs"]
)
def test_a_shared_region_gives_the_same_masks_as_single_images(region):
    """A region that all images share is processed once."""
    together, maps = masks_of(region, 2, LIKE, 0.6), torch.rand(4, 20, 24, generator=torch.Generator().manual_seed(2))
    alone = [masks_of(region[n : n + 1], 2, LIKE[n : n + 1], 0.6) for n in range(4)]
    assert torch.equal(together.masks, torch.cat([one.masks for one in alone]))
    assert torch.equal(together.sizes(), torch.cat([one.sizes() for one in alone]))
    each = torch.cat([one.pixel_sums(maps[n : n + 1]) for n, one in enumerate(alone)])
    torch.testing.assert_close(together.pixel_sums(maps), each)


def test_without_a_region_only_the_whole_image_remains():
    assert masks_of(None, 2, LIKE).sizes().tolist() == [[0, 0, 480]] * 4
    full = torch.ones(4, 20, 24, dtype=torch.bool)
    assert masks_of(full, 2, LIKE, 0.6).sizes().tolist() == [[0, 0, 480]] * 4


def test_sums_over_pixels():
    region = regions()
    maps = torch.rand(4, 20, 24, generator=torch.Generator().manual_seed(1))
    found = masks_of(region, 0, LIKE).pixel_sums(maps)
    for n in range(4):
        torch.testing.assert_close(found[n, INSIDE], maps[n][region[n]].sum())
        torch.testing.assert_close(found[n, WHOLE], maps[n].sum())


def test_sums_over_points():
    region = torch.zeros(1, 64, 64, dtype=torch.bool)
    region[:, :8, :32] = True
    points = torch.tensor([[[0.0, 0.0], [31.9, 7.9], [32.0, 7.9], [63.9, 63.9], [10.0, 2.0], [5.0, 60.0]]])
    valid = torch.tensor([[True, True, True, True, False, True]])
    matched = torch.tensor([[True, False, True, True, True, False]])
    shift = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [3.0, 4.0], [1.0, 1.0], [0.0, 0.0]]])
    found = Matches(points, valid, matched, shift, matched.float())
    membership = masks_of(region, 0, torch.zeros(1, 1, 64, 64)).membership(found)

    sums = point_sums(found, membership, search=3.0)

    assert sums["count"].tolist() == [[2, 3, 5]]
    assert sums["loss"].tolist() == [[1 + 3, 2 + 3 + 3, 12]]
    assert sums["found"].tolist() == [[1, 1, 2]], "a point that moved farther than the search radius counts as lost"
    assert sums["displacement"].tolist() == [[1, 2, 3]]


def test_points_on_the_border_are_assigned_to_border_pixels():
    points = torch.tensor([[[64.0, 64.0], [0.0, 0.0]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    found = Matches(points, valid, valid, torch.zeros(1, 2, 2), valid.float())
    assert found.pixels(32, 32).tolist() == [[[31, 31], [0, 0]]]
