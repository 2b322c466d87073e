"""Interventions on codes against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ccvae_eval.model.latents import (
    class_gaussians,
    class_path,
    code_regression,
    gaussian_path,
    replaced,
    swapped,
    transported,
    value_path,
)


def test_replaced_changes_only_the_given_dimensions() -> None:
    codes = torch.arange(12.0).reshape(3, 4)
    out = replaced(codes, (1, 3), torch.full((3, 2), -1.0))
    assert out[:, [0, 2]].equal(codes[:, [0, 2]])
    assert bool((out[:, [1, 3]] == -1).all())
    assert codes[0, 1] == 1, "the codes themselves are not changed"


def test_swapping_twice_restores_the_codes() -> None:
    a, b = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 4)
    once, other = swapped(a, (2,), b), swapped(b, (2,), a)
    assert swapped(once, (2,), other).equal(a)


def test_class_gaussians_equal_numpy_with_and_without_the_code_itself() -> None:
    generator = np.random.default_rng(0)
    codes, classes = generator.normal(size=(40, 3)), generator.integers(-1, 2, 40)
    fitted = class_gaussians(torch.from_numpy(codes), torch.from_numpy(classes), 2)
    for k in (0, 1):
        own = codes[classes == k]
        np.testing.assert_allclose(fitted.loc[k], own.mean(0), atol=1e-12)
        np.testing.assert_allclose(fitted.scale[k], own.std(0, ddof=1), atol=1e-12)
    rows = np.flatnonzero(classes >= 0)
    loc, scale = fitted.leave_one_out(torch.from_numpy(codes[rows]), torch.from_numpy(classes[rows]))
    for place, row in enumerate(rows):
        others = (classes == classes[row]) & (np.arange(40) != row)
        np.testing.assert_allclose(loc[place], codes[others].mean(0), atol=1e-10)
        np.testing.assert_allclose(scale[place], codes[others].std(0, ddof=1), atol=1e-10)


def test_a_regression_of_codes_equals_numpy_with_and_without_the_code_itself() -> None:
    rng = np.random.default_rng(2)
    values = rng.uniform(10, 50, 40)
    codes = np.column_stack([0.3 * values + rng.standard_normal(40), rng.standard_normal(40)])
    fitted = code_regression(torch.from_numpy(codes), torch.from_numpy(values))
    asked = torch.tensor([0.0, 100.0])

    def fit(rows: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = np.column_stack([np.ones(rows.sum()), values[rows]])
        coefficients, residual, *_ = np.linalg.lstsq(design, codes[rows], rcond=None)
        return np.column_stack([np.ones(len(at)), at]) @ coefficients, np.sqrt(residual / (rows.sum() - 2))

    loc, scale = fitted.at(asked)
    expected = fit(np.ones(40, bool), asked.numpy())
    np.testing.assert_allclose(loc, expected[0])
    np.testing.assert_allclose(scale, np.broadcast_to(expected[1], (2, 2)))
    without = fitted.leave_one_out(torch.from_numpy(codes), torch.from_numpy(values))
    for i in range(40):
        rest = np.arange(40) != i
        loc, scale = fit(rest, values[[i]])
        np.testing.assert_allclose(without[0][i], loc[0])
        np.testing.assert_allclose(without[1][i], scale)


def test_the_path_between_two_values_runs_from_mean_to_mean() -> None:
    ends = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])
    path = value_path(ends, (torch.ones(2), torch.ones(2)), 2.5)
    assert torch.equal(path.at(0.0), ends[0].double())
    assert torch.equal(path.at(1.0), ends[1].double())
    assert path.separation == pytest.approx(5 / 2.5)


def test_transport_keeps_the_rank_and_clips_it() -> None:
    now = (torch.full((4, 1), 1.0), torch.full((4, 1), 2.0))
    then = (torch.full((4, 1), -3.0), torch.full((4, 1), 0.5))
    codes = torch.tensor([[1.0], [2.5], [-40.0], [40.0]])
    moved, clipped = transported(codes, now, then)
    ranks = np.clip(stats.norm.cdf(codes[:, 0].numpy(), 1, 2), 0.005, 0.995)
    np.testing.assert_allclose(moved[:, 0], stats.norm.ppf(ranks, -3, 0.5), rtol=1e-5)
    assert clipped.tolist() == [False, False, True, True]


def test_transport_there_and_back_restores_the_codes_within_the_limit() -> None:
    here, there = (torch.zeros(9, 1), torch.ones(9, 1)), (torch.full((9, 1), 5.0), torch.full((9, 1), 3.0))
    codes = torch.linspace(-2, 2, 9)[:, None]
    back = transported(transported(codes, here, there)[0], there, here)[0]
    torch.testing.assert_close(back, codes)


def test_a_point_mass_is_transported_to_the_median() -> None:
    moved, clipped = transported(
        torch.ones(1, 1), (torch.ones(1, 1), torch.zeros(1, 1)), (torch.full((1, 1), 7.0), torch.ones(1, 1))
    )
    assert moved.item() == 7
    assert not clipped.item()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_path_in_one_dimension_runs_between_the_outer_quantiles(sign: float) -> None:
    low = torch.linspace(-1, 0, 101, dtype=torch.float64)[:, None] * sign
    high = torch.linspace(4, 5, 101, dtype=torch.float64)[:, None] * sign
    path = class_path(low, high)
    assert path.start.item() == pytest.approx(sign * -0.95)
    assert path.end.item() == pytest.approx(sign * 4.95)
    assert path.at(0.5).item() == pytest.approx(sign * 2.0)


def test_a_path_in_several_dimensions_runs_along_the_line_of_means() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(5000, 2, generator=generator, dtype=torch.float64)
    b = a + torch.tensor([3.0, 4.0], dtype=torch.float64)
    path = class_path(a, b)
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    reach = 1.6448536269514722 * (a @ direction).std()
    torch.testing.assert_close(path.start, a.mean(0) - reach * direction)
    torch.testing.assert_close(path.end, b.mean(0) + reach * direction)
    assert path.separation == pytest.approx(5.0, abs=0.1)


def test_the_path_of_a_prior_ends_at_its_quantiles() -> None:
    path = gaussian_path((torch.tensor([-2.0]), torch.tensor([2.0])), (torch.tensor([1.0]), torch.tensor([0.5])))
    assert path.start.item() == pytest.approx(stats.norm.ppf(0.05, -2, 1))
    assert path.end.item() == pytest.approx(stats.norm.ppf(0.95, 2, 0.5))


def test_the_separation_of_equal_classes_is_zero() -> None:
    same = torch.zeros(30, 2)
    assert class_path(same, same).separation == 0
    assert math.isinf(class_path(torch.zeros(30, 1), torch.ones(30, 1)).separation)
