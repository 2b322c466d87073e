"""The lattice of the grid matcher at several image sizes."""

from __future__ import annotations

import pytest
import torch

from ccvae_eval.metrics.matchers.grid import GridFeatures, GridMatcher, gather_runs, lattice_of, points_of, shifts_of


def test_the_lattice_at_64_pixels():
    lattice = lattice_of(GridMatcher(), 64, 64)
    assert (lattice.rows, lattice.columns, lattice.patch, lattice.window) == (13, 13, 9, 15)
    points = points_of(lattice, torch.device("cpu"))
    assert points[0].tolist() == [7.5, 7.5]
    assert points[1].tolist() == [7.5, 11.5], "column by column"
    assert points[-1].tolist() == [55.5, 55.5]


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (44, 44), (64, 48), (128, 128), (130, 200)])
def test_all_search_windows_lie_in_the_image(size):
    lattice = lattice_of(GridMatcher(), *size)
    for start, count, side in ((lattice.top, lattice.rows, size[0]), (lattice.left, lattice.columns, size[1])):
        assert count > 0
        end = start + (count - 1) * lattice.stride + lattice.window
        assert end <= side
        assert abs((side - end) - start) <= 1, "centred"
        assert side - end + start < lattice.stride


def test_shifts_are_sorted_by_length():
    shifts, nearness = shifts_of(3, torch.device("cpu"))
    assert shifts[0].tolist() == [0, 0]
    assert bool((torch.hypot(*shifts.T).diff() >= 0).all())
    assert int(nearness.argmax()) == 24
    assert sorted(nearness.tolist()) == list(range(1, 50))


@pytest.mark.parametrize("size", [(44, 60), (64, 64)])
def test_search_windows_are_cut_around_the_keypoints(size):
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    features = GridFeatures(GridMatcher(texture=0, corner=0), maps)
    lattice = features.lattice
    count, window = lattice.columns * lattice.rows, lattice.window
    assert features.keypoints.tolist() == list(range(3 * count)), "every point is a keypoint"
    squares = gather_runs(maps.flatten(), features.window_rows[: 3 * count], window).reshape(
        3, lattice.columns, lattice.rows, -1
    )
    for column in range(lattice.columns):
        for row in range(lattice.rows):
            top, left = lattice.top + row * lattice.stride, lattice.left + column * lattice.stride
            expected = maps[:, top : top + window, left : left + window].flatten(1)
            assert torch.equal(squares[:, column, row], expected)
