"""Cost of resampling and probes: a budget for the bootstrap, and ratios to scikit-learn for the rest."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ccvae_eval.statistics import resampling
from ccvae_eval.statistics.auc import auc_estimate
from ccvae_eval.statistics.probes import cross_fitted_scores, folds_of, standardised
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.benchmarks.conftest import Budget
from tests.support import costs

RNG = np.random.default_rng(0)
LABELS = (RNG.random((2000, 18)) < 0.25).astype(float)
CODES = RNG.standard_normal((2000, 2)) + LABELS[:, :2]


def min_seconds(call: Callable[[], Any], rounds: int = 5) -> float:
    return costs.min_seconds(call, rounds, perf_counter)


def test_bootstrap_of_a_thousand_images_and_nine_characteristics(benchmark: Any, budget: Budget) -> None:
    values = RNG.random((1000, 9))

    def cold() -> None:
        resampling._kept.cache_clear()
        resampling._cached_as_floats.cache_clear()
        ResampleWeights(0, 1000).totals(values)

    def naive() -> None:
        for _ in range(2000):
            values[RNG.integers(0, 1000, 1000)].mean(axis=0)

    benchmark.pedantic(cold, rounds=2)
    budget(
        "2,000 resamples of 1,000 images x 9 / a loop of NumPy means",
        lambda: min_seconds(cold) / min_seconds(naive, 2),
        1.0,
    )


def test_2000_resampled_auc_values_against_scikit_learn(benchmark: Any, budget: Budget) -> None:
    weights = ResampleWeights(0, 2000)
    scores, labels = CODES[:, 0], LABELS[:, 0]

    def estimate() -> object:
        return auc_estimate(scores, labels, weights)

    benchmark.pedantic(estimate, rounds=2, warmup_rounds=1)
    budget(
        "2,000 resampled ROC areas / 2,000 calls of scikit-learn",
        lambda: min_seconds(estimate) / (2000 * min_seconds(lambda: roc_auc_score(labels, scores))),
        0.1,
    )


@pytest.mark.parametrize("width", [1, 2])
def test_probes_of_all_labels_against_scikit_learn(benchmark: Any, budget: Budget, width: int) -> None:
    folds, points = folds_of(np.arange(2000)), standardised(CODES[:, :width])
    fits = 18 * 5

    def fit() -> object:
        return cross_fitted_scores(points, LABELS, folds)

    def reference() -> object:
        return LogisticRegression().fit(points[folds != 0], LABELS[folds != 0, 0])

    benchmark.pedantic(fit, rounds=2)
    budget(
        f"{fits} logistic probes on {width} dimensions / as many of scikit-learn",
        lambda: min_seconds(fit) / (fits * min_seconds(reference)),
        1.0,
    )
