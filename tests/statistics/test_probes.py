"""Probes against scikit-learn, fitted fold by fold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from ccvae_eval.statistics.auc import auc
from ccvae_eval.statistics.probes import (
    cross_fitted_regression,
    cross_fitted_scores,
    folds_of,
    logistic_coefficients,
    sign_fitted_scores,
    standardised,
)
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle

FOLDS = folds_of(np.arange(600))


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 3)) < [0.5, 0.2, 0.05]).astype(float)
    codes = rng.standard_normal((600, 4)) * [1, 10, 0.1, 1] + 3
    codes[:, 0] += 2 * labels[:, 0]
    codes[:, 1] += 5 * labels[:, 1]
    codes[:, 3] = 0.5  # constant: cannot be standardised
    labels[rng.random((600, 3)) < 0.05] = np.nan
    return codes, labels


@pytest.mark.parametrize("strength", [1.0, 0.01, 100.0])
def test_coefficients_equal_those_of_scikit_learn(problem, strength):
    codes, labels = problem
    points = standardised(codes)
    masks = np.array([~np.isnan(labels[:, label]) & (fold != FOLDS) for label in range(3) for fold in range(5)])
    found = logistic_coefficients(points, np.repeat(labels.T, 5, axis=0), masks, strength=strength)
    for row, mask in enumerate(masks):
        oracle = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10000, solver="newton-cholesky")
        oracle.fit(points[mask], labels[mask, row // 5])
        assert found[row, :-1] == pytest.approx(oracle.coef_[0], abs=1e-5)
        assert found[row, -1] == pytest.approx(oracle.intercept_[0], abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_separable_classes_and_large_codes_converge(scale):
    """The gradient of the penalised loss vanishes."""
    rng = np.random.default_rng(1)
    codes = scale * rng.standard_normal((200, 2))
    labels = (codes[:, 0] > 0).astype(float)
    found = logistic_coefficients(codes, labels[None], np.ones((1, 200), dtype=bool))[0]
    wrong = 1 / (1 + np.exp(np.clip(-(codes @ found[:-1] + found[-1]), -700, 700))) - labels
    assert np.abs(found[:-1] + wrong @ codes).max() < 1e-6 * 200
    assert abs(wrong.sum()) < 1e-6 * 200


def test_scores_equal_those_of_scikit_learn_on_held_out_images(problem):
    codes, labels = problem
    scores = cross_fitted_scores(codes, labels, FOLDS)
    points = standardised(codes)
    known = ~np.isnan(labels)
    assert (np.isnan(scores) == ~known).all()
    for fold in range(5):
        rest, held_out = known[:, 0] & (fold != FOLDS), known[:, 0] & (fold == FOLDS)
        oracle = LogisticRegression(tol=1e-10, solver="newton-cholesky").fit(points[rest], labels[rest, 0])
        assert scores[held_out, 0] == pytest.approx(points[held_out] @ oracle.coef_[0], abs=1e-5)
    assert roc_auc_score(labels[known[:, 0], 0], scores[known[:, 0], 0]) > 0.85


def test_the_bits_of_a_labels_scores_do_not_depend_on_the_other_labels(problem):
    codes, labels = problem
    assert np.array_equal(
        cross_fitted_scores(codes, labels, FOLDS)[:, 1], cross_fitted_scores(codes, labels[:, [1]], FOLDS)[:, 0],
        equal_nan=True,
    )  # fmt: skip


def test_fits_within_strata_are_fits_of_each_stratum(problem):
    codes, labels = problem
    strata = labels[:, 1]
    found = cross_fitted_scores(codes, labels[:, [0]], FOLDS, strata=strata)[:, 0]
    points = standardised(codes)
    for stratum in (0.0, 1.0):
        rows = (strata == stratum) & ~np.isnan(labels[:, 0])
        rest, held_out = rows & (FOLDS != 2), rows & (FOLDS == 2)
        oracle = LogisticRegression(tol=1e-10, solver="newton-cholesky").fit(points[rest], labels[rest, 0])
        assert found[held_out] == pytest.approx(points[held_out] @ oracle.coef_[0], abs=1e-5)
    assert np.isnan(found[np.isnan(strata)]).all()


@pytest.mark.parametrize("width", [1, 10])
def test_scores_of_noise_have_areas_near_chance(width):
    """Neither an image's own label nor its fold's prevalence enters its score."""
    rng = np.random.default_rng(2)
    folds = folds_of(np.arange(300))
    areas = []
    for _ in range(150):
        codes, labels = rng.standard_normal((300, width)), (rng.random((300, 1)) < 0.3).astype(float)
        areas.append(auc(cross_fitted_scores(codes, labels, folds)[:, 0], labels[:, 0] == 1))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02)


def test_folds_depend_on_the_ids_only():
    ids = np.arange(5000)
    folds = folds_of(ids)
    assert (folds_of(ids[::-7]) == folds[::-7]).all()
    assert np.bincount(folds, minlength=5).min() > 900


def test_sign_is_fitted_on_the_other_folds():
    rng = np.random.default_rng(3)
    label = (rng.random(600) < 0.4).astype(float)
    code = rng.standard_normal(600) - 2 * label
    label[:20] = np.nan
    scores = sign_fitted_scores(code, label, FOLDS)
    assert np.isnan(scores[:20]).all()
    assert (scores[20:] == -code[20:]).all()
    # the sign does not depend on the fold's own codes
    turned = np.where(FOLDS == 0, -code, code)
    assert (sign_fitted_scores(turned, label, FOLDS)[20:] == -turned[20:]).all()


def test_other_folds_with_one_class_give_no_score():
    label = np.where(FOLDS == 0, 1.0, 0.0)
    code = np.random.default_rng(4).standard_normal((600, 1))
    for scores in (
        sign_fitted_scores(code[:, 0], label, FOLDS),
        cross_fitted_scores(code, label[:, None], FOLDS)[:, 0],
    ):
        assert np.isnan(scores[FOLDS == 0]).all()
        assert not np.isnan(scores[FOLDS != 0]).any()


def test_regressions_equal_ridge_regressions_of_scikit_learn_on_held_out_images():
    rng = np.random.default_rng(5)
    codes = rng.standard_normal((600, 3))
    targets = np.column_stack([codes @ [1.0, 2.0, 0.0] + rng.standard_normal(600), rng.standard_normal(600)])
    targets[::9, 1] = np.nan
    found = cross_fitted_regression(codes, targets, FOLDS)
    points = standardised(codes)
    expected = np.full(600, np.nan)
    for fold in range(5):
        oracle = Ridge(alpha=1.0).fit(points[fold != FOLDS], targets[fold != FOLDS, 0])
        expected[fold == FOLDS] = oracle.predict(points[fold == FOLDS])
    assert found.predicted[:, 0] == pytest.approx(expected, abs=1e-9)
    weights = ResampleWeights(0, 600)
    first, second = found.r2(0, weights), found.r2(1, weights)
    # the baseline is the mean of the other folds, close to the overall mean
    assert first.value == pytest.approx(r2_score(targets[:, 0], expected), abs=0.01)
    assert first.estimate.low < 5 / 6 < first.estimate.high
    assert first.estimate.low < first.value < first.estimate.high
    perfect = cross_fitted_regression(codes, codes[:, :1], FOLDS, strength=1e-9).r2(0, weights).estimate
    assert perfect.low <= perfect.value <= perfect.high
    assert perfect.low == pytest.approx(1.0, abs=1e-9)
    assert second.value < 0.01
    assert second.estimate.n == 600 - 67
    assert cross_fitted_regression(codes, np.ones((600, 1)), FOLDS).r2(0, weights).note == "a constant target"
