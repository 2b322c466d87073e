"""The lattice at every size."""

from __future__ import annotations

import pytest
import torch

from ccvae_eval.metrics.matchers.grid import GridMatcher, Squares, lattice_of, shifts_of


def test_the_lattice_at_64_pixels():
    lattice = lattice_of(GridMatcher(), 64, 64)
    assert (lattice.rows, lattice.columns, lattice.patch, lattice.window) == (13, 13, 9, 15)
    points = lattice.points(torch.device("cpu"))
    assert points[0].tolist() == [7.5, 7.5]
    assert points[1].tolist() == [7.5, 11.5], "one column after the other"
    assert points[-1].tolist() == [55.5, 55.5]


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (44, 44), (64, 48), (128, 128), (130, 200)])
def test_every_window_lies_in_the_image(size):
    lattice = lattice_of(GridMatcher(), *size)
    for start, count, side in ((lattice.top, lattice.rows, size[0]), (lattice.left, lattice.columns, size[1])):
        assert count > 0
        end = start + (count - 1) * lattice.stride + lattice.window
        assert end <= side
        assert abs((side - end) - start) <= 1, "in the middle"
        assert side - end + start < lattice.stride


def test_shifts_are_sorted_by_their_length():
    shifts, nearness = shifts_of(3, torch.device("cpu"))
    assert shifts[0].tolist() == [0, 0]
    assert bool((torch.hypot(*shifts.T).diff() >= 0).all())
    assert int(nearness.argmax()) == 24
    assert sorted(nearness.tolist()) == list(range(1, 50))


@pytest.mark.parametrize("size", [(44, 60), (64, 64)])
def test_squares_are_cut_at_the_points(size):
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    lattice = lattice_of(GridMatcher(), *size)
    squares = Squares(maps, lattice, lattice.window).every().reshape(3, lattice.columns, lattice.rows, -1)
    for column in range(lattice.columns):
        for row in range(lattice.rows):
            top, left = lattice.top + row * lattice.stride, lattice.left + column * lattice.stride
            expected = maps[:, top : top + lattice.window, left : left + lattice.window].flatten(1)
            assert torch.equal(squares[:, column, row], expected)
