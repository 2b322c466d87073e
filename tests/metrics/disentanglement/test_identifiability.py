"""MCC, TAD and R2 of the panel against SciPy and scikit-learn."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binomtest, ortho_group, pearsonr, spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, roc_auc_score

from ccvae_eval.metrics.disentanglement import PanelSettings, panel, score, table_of

pytestmark = pytest.mark.oracle

N = 900


def binary(seed: int = 0, rows: int = N):
    """Three independent binary factors and five dimensions: noisy, partly mixed, and two of noise."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2, (rows, 3))
    codes = rng.standard_normal((rows, 5))
    codes[:, 0] += 3 * factors[:, 0]
    codes[:, 1] -= 2 * factors[:, 1] + factors[:, 0]
    codes[:, 2] = np.exp(codes[:, 2] + 2 * factors[:, 2])
    return codes, factors


def found(codes, factors, name, **settings):
    values = panel(codes, factors, PanelSettings(score=(name,), **settings)).values
    return {v.name: v for v in values if v.characteristic is None and not v.at}


def best_alignment(matrix) -> float:
    """Greatest mean of one entry of each column, all in different rows, by trying all."""
    count = matrix.shape[1]
    return max(
        np.mean([matrix[j, k] for k, j in enumerate(chosen)]) for chosen in permutations(range(len(matrix)), count)
    )


@pytest.mark.parametrize(("name", "correlation"), [("mcc", pearsonr), ("mcc_rank", spearmanr)])
def test_mcc_is_the_best_alignment_of_absolute_correlations(name, correlation):
    codes, factors = binary()
    train = table_of(codes, factors).train
    for rows, profile, corrected in ((np.arange(N), "robust", True), (train, "reference", False)):
        r = np.array([[correlation(z[rows], v[rows]).statistic ** 2 for v in factors.T] for z in codes.T])
        r = np.clip(1 - (1 - r) * (len(rows) - 1) / (len(rows) - 2), 0, 1) if corrected else r
        assert score(codes, factors, name, profile=profile) == pytest.approx(best_alignment(np.sqrt(r)), abs=1e-9)


def test_mcc_of_classes_is_the_correlation_ratio_whatever_their_order():
    rng = np.random.default_rng(0)
    hair = rng.integers(0, 3, N)
    codes = (np.array([0.0, 5.0, 1.0])[hair] + rng.standard_normal(N))[:, None]
    within = sum(((codes[hair == k] - codes[hair == k].mean()) ** 2).sum() for k in range(3))
    share = within / ((codes - codes.mean()) ** 2).sum() * (N - 1) / (N - 3)
    for classes in (hair, (hair + 1) % 3):
        assert score(codes, classes, "mcc") == pytest.approx(np.sqrt(1 - share), abs=1e-9)


def test_mcc_leaves_out_missing_values_and_counts_factors_without_a_dimension_as_0():
    codes, factors = binary()
    some = factors[:, :2].astype(float)
    some[:300, 1] = np.nan
    share = 1 - (1 - pearsonr(codes[300:, 1], some[300:, 1]).statistic ** 2) * 599 / 598
    assert score(codes[:, 1:2], some, "mcc") == pytest.approx(np.sqrt(share) / 2, abs=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_mcc_of_a_constant_dimension_is_0(constant):
    """Also if its mean is rounded, so that it differs from the mean in every row."""
    codes = np.full((N, 2), constant)
    assert score(codes, binary()[1], "mcc", profile="reference") == score(codes, binary()[1], "mcc") == 0.0


def test_mcc_rank_is_invariant_to_monotone_transforms():
    codes, factors = binary()
    assert score(codes**3, factors, "mcc_rank") == score(codes, factors, "mcc_rank")
    assert score(codes**3, factors, "mcc") < score(codes, factors, "mcc")


def test_r2_is_that_of_scikit_learn():
    codes, factors = binary()
    continuous = np.column_stack([codes[:, 0] ** 2 + codes[:, 3], factors[:, 0]])
    table = table_of(codes, continuous)
    expected = []
    for column in continuous.T:
        predicted = LinearRegression().fit(codes[table.train], column[table.train]).predict(codes[table.test])
        residual = ((column[table.test] - predicted) ** 2).sum()
        expected.append(1 - residual / ((column[table.test] - column[table.train].mean()) ** 2).sum())
    assert score(codes, continuous, "r2_linear") == pytest.approx(np.mean(expected), abs=1e-9)


def test_a_rotation_changes_no_linear_r2():
    codes, factors = binary()
    rotation = ortho_group(5, seed=0).rvs()
    assert score(codes @ rotation, factors, "r2_linear") == pytest.approx(score(codes, factors, "r2_linear"), abs=1e-9)


def test_r2_of_boosting_in_the_reference_profile_is_that_of_scikit_learns_defaults():
    codes, factors = binary()
    one = factors[:, :1]
    table = table_of(codes, one)
    model = HistGradientBoostingClassifier(random_state=0).fit(codes[table.train], one[table.train, 0])
    predicted = model.predict_proba(codes[table.test])[:, 1]
    assert score(codes, one, "r2_nonlinear", profile="reference") == pytest.approx(
        r2_score(one[table.test, 0], predicted), abs=0.02
    )


def test_only_boosting_finds_a_factor_in_the_product_of_two_dimensions():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((2000, 3))
    factor = (codes[:, 0] * codes[:, 1] > 0).astype(int)
    values = found(codes, factor, "r2")
    assert abs(values["r2_linear"].estimate.value) < 0.02
    assert values["r2_nonlinear"].estimate.low > 0.7
    assert values["r2_nonlinear"].chance == 0.0


def areas(codes, factors):
    matrix = np.array([[roc_auc_score(v, z) for v in factors.T] for z in codes.T])
    return np.sort(np.maximum(matrix, 1 - matrix), axis=0)


def test_tad_is_the_gap_of_scikit_learns_areas():
    codes, factors = binary()
    ranked = areas(codes, factors)
    values = found(codes, factors, "tad")
    assert values["captured"].estimate.value == 3
    assert values["tad"].estimate.value == pytest.approx((ranked[-1] - ranked[-2]).mean(), abs=1e-12)
    assert values["tad"].estimate.low < values["tad"].estimate.value < values["tad"].estimate.high


def test_tad_leaves_out_factors_without_a_good_dimension_or_explained_by_another():
    codes, factors = binary()
    noise = np.random.default_rng(1).integers(0, 2, N)
    nearly = np.where(np.arange(N) < 60, 1 - factors[:, 0], factors[:, 0])
    more = np.column_stack([factors, noise, nearly])
    ranked = areas(codes, factors[:, 1:])
    values = found(codes, more, "tad")
    assert values["captured"].estimate.value == 2
    assert values["tad"].estimate.value == pytest.approx((ranked[-1] - ranked[-2]).mean(), abs=1e-12)


def test_the_published_tad_is_a_sum_over_areas_of_101_thresholds():
    codes, factors = binary()
    codes = np.column_stack([codes, 0.1 * factors[:, 0]])  # skipped: its range is 0.1
    train = table_of(codes, factors).train
    matrix = np.zeros((5, 3))
    for j, k in np.ndindex(5, 3):
        z, v = codes[train, j], factors[train, k]
        thresholds = np.linspace(z.min(), z.max(), 101)
        true, false = ([np.mean(z[v == side] >= t) for t in thresholds] for side in (1, 0))
        area = -np.trapezoid(true, false)
        matrix[j, k] = max(area, 1 - area)
    ranked = np.sort(matrix, axis=0)
    assert score(codes, factors, "tad", profile="reference") == pytest.approx((ranked[-1] - ranked[-2]).sum(), abs=1e-9)


def test_without_a_captured_factor_tad_is_undefined_and_the_published_sum_is_0():
    rng = np.random.default_rng(0)
    codes, factors = rng.standard_normal((N, 3)), rng.integers(0, 2, (N, 2))
    values = found(codes, factors, "tad")
    assert values["captured"].estimate.value == values["captured"].chance == 0
    assert values["tad"].note == "no factor is captured"
    assert score(codes, factors, "tad", profile="reference") == 0.0


def test_a_factor_of_three_classes_has_the_mean_area_of_each():
    rng = np.random.default_rng(0)
    hair = rng.integers(0, 3, N)
    codes = np.column_stack([6.0 * hair + rng.standard_normal(N), rng.standard_normal(N)])
    matrix = np.array([[max(a := roc_auc_score(hair == k, z), 1 - a) for k in range(3)] for z in codes.T])
    assert score(codes, hair, "tad") == pytest.approx(np.diff(np.sort(matrix.mean(axis=1)))[0], abs=1e-12)


@pytest.mark.parametrize(
    ("codes", "factors", "why"),
    [
        (np.zeros((N, 2)), np.arange(N) / 7, "no factor has classes"),
        (np.zeros((N, 1)), np.arange(N) % 2, "needs two latent dimensions"),
    ],
)
def test_tad_says_why_it_is_undefined(codes, factors, why):
    assert found(codes, factors, "tad")["tad"].note == why


@pytest.mark.parametrize("tables", [20, pytest.param(400, marks=pytest.mark.soak)])
def test_intervals_cover_the_population_value(tables):
    def sample(seed: int, rows: int):
        codes, factors = binary(seed, rows)
        codes[:, 2] = np.log(codes[:, 2])  # with its heavy tail the interval of mcc, not of mcc_rank, is too short: .84
        return codes, factors

    names = ("mcc", "mcc_rank", "tad")
    true = {name: score(*sample(10_000, 200_000), name) for name in names}
    covered = dict.fromkeys(names, 0)
    for seed in range(tables):
        values = {**found(*sample(seed, 1000), "mcc"), **found(*sample(seed, 1000), "tad")}
        for name in names:
            covered[name] += values[name].estimate.low <= true[name] <= values[name].estimate.high
    for name, hits in covered.items():
        short = binomtest(hits, tables, 0.95, alternative="less").pvalue
        assert hits / tables >= 0.93 or short > 0.001, (name, hits)
