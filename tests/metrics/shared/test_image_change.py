"""Pixel functions on inputs with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.metrics.shared.image_change import (
    absolute_change,
    average_precision,
    changed_area,
    deviation_map,
    mean_variance,
    pairwise_spread,
    path_length_scores,
    path_lengths,
    path_scores,
    pixel_rows,
    recall,
    region_scores,
    top_mean,
)


@pytest.fixture
def path() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(5, 3, 6, 4, generator=draw) for _ in range(7)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixel_rows_keep_channels_together(path: list[torch.Tensor], layout: torch.memory_format) -> None:
    rows = pixel_rows(path[0].to(memory_format=layout))
    assert torch.equal(rows.reshape(5, 6, 4, 3), path[0].permute(0, 2, 3, 1))


def test_pixel_rows_of_channels_last_images_are_a_view(path: list[torch.Tensor]) -> None:
    images = path[0].to(memory_format=torch.channels_last)
    assert pixel_rows(images).data_ptr() == images.data_ptr()


def test_unchanged_pixels_have_a_deviation_of_exactly_zero() -> None:
    still = torch.full((1, 3, 4, 4), 0.1)
    moved = still.clone()
    moved[..., 0, 0] = 0.7
    change = deviation_map([still, moved, still, moved])
    assert torch.count_nonzero(change) == 1
    assert change[0, 0] == pytest.approx(0.3, abs=1e-7)


def test_fewer_than_two_images_have_zero_variance(path: list[torch.Tensor]) -> None:
    chosen = torch.zeros(5, 7, dtype=torch.bool)
    chosen[0, 3] = True
    assert torch.count_nonzero(mean_variance(path, chosen)) == 0


def test_scores_of_no_change_are_undefined() -> None:
    still = np.zeros((1, 16), np.float32)
    region = np.zeros((1, 16), bool)
    region[0, :4] = True
    scores = region_scores(still, region)
    assert np.isnan([scores["focus"][0], scores["inside"][0], scores["inside_energy"][0]]).all()
    assert np.isnan(changed_area(still.astype(np.float64))).all()
    assert all(np.isnan(score).all() for score in path_scores([torch.zeros(1, 1, 4, 4)] * 3).values())


def test_average_precision_of_an_empty_region_is_undefined() -> None:
    assert np.isnan(average_precision(np.ones((1, 4), np.float32), np.zeros((1, 4), bool))).all()


def test_focus_of_a_region_that_fills_the_image_is_undefined() -> None:
    assert np.isnan(region_scores(np.ones((1, 4), np.float32), np.ones((1, 4), bool))["focus"]).all()


def test_a_negative_zero_ties_with_zero() -> None:
    change = np.array([[0.0, -0.0, 1.0]], np.float32)
    region = np.array([[True, False, False]])
    assert average_precision(change, region)[0] == pytest.approx(1 / 3)


def test_focus_is_one_inside_zero_everywhere_negative_outside() -> None:
    region = np.zeros((3, 16), bool)
    region[:, :4] = True
    change = np.stack([region[0], np.ones(16), ~region[0]]).astype(np.float32)
    assert region_scores(change, region)["focus"] == pytest.approx([1, 0, -1 / 3])


def test_top_mean_takes_at_least_one_pixel() -> None:
    assert top_mean(torch.tensor([[1.0, 5.0, 2.0]]), 0.01)[0] == 5


def test_a_path_back_to_its_start_is_not_monotone() -> None:
    scores = path_length_scores(np.array([0.0]), np.array([[1.0, 1.0]]))
    assert scores["monotone"][0] == 0
    assert scores["evenness"][0] == 1


def test_a_single_jump_has_the_least_evenness() -> None:
    scores = path_length_scores(np.array([1.0]), np.array([[0.0, 1.0, 0.0, 0.0]]))
    assert scores["monotone"][0] == 1
    assert scores["evenness"][0] == 1 / 4


def test_pixels_that_move_one_after_the_other_are_monotone_but_not_straight() -> None:
    points = [torch.tensor([[[[a, b]]]]) for a, b in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))]
    scores = path_scores(points)
    assert scores["monotone"][0] == 1
    assert scores["straightness"][0] == pytest.approx(2**-0.5)


def test_spread_of_an_empty_region_is_undefined() -> None:
    assert np.isnan(pairwise_spread(np.ones((1, 4)), np.zeros((1, 4), bool))).all()


def test_recall_is_zero_for_distant_images_and_one_for_the_same() -> None:
    true = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(1))
    assert (recall(true, true, 3) == 1).all()
    assert (recall(true, true + 100, 3) == 0).all()


@pytest.mark.parametrize("function", [deviation_map, lambda x: torch.from_numpy(np.stack(path_lengths(x), 2))])
def test_bits_do_not_depend_on_threads_or_on_the_other_rows(function) -> None:  # type: ignore[no-untyped-def]
    draw = torch.Generator().manual_seed(2)
    points = [torch.rand(32, 3, 128, 128, generator=draw).to(memory_format=torch.channels_last) for _ in range(3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = function(points)
    torch.set_num_threads(2)
    two, part, alone = function(points), function([x[5:9] for x in points]), function([x[7:8] for x in points])
    torch.set_num_threads(threads)
    assert torch.equal(one, two)
    assert torch.equal(one[5:9], part)
    assert torch.equal(one[7:8], alone)


def test_absolute_change_averages_the_channels() -> None:
    before, after = torch.zeros(1, 3, 1, 1), torch.tensor([[[[0.3]], [[-0.6]], [[0.0]]]])
    assert absolute_change(before, after)[0, 0] == pytest.approx(0.3)
