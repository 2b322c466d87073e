"""What resampling and probing cost: the budget of the bootstrap, the rest in ratios to scikit-learn in the same run."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from ccvae_eval.statistics import resampling
from ccvae_eval.statistics.auc import auc_estimate, row_average_precision
from ccvae_eval.statistics.probes import cross_fitted_scores, folds_of, standardised
from ccvae_eval.statistics.resampling import ResampleWeights

ROUNDS = 5
RNG = np.random.default_rng(0)
LABELS = (RNG.random((2000, 18)) < 0.25).astype(float)
CODES = RNG.standard_normal((2000, 2)) + LABELS[:, :2]


def quickest(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Seconds of the quickest round: what else the machine does can only add."""
    times = []
    for _ in range(rounds):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def test_bootstrap_of_a_thousand_images_and_nine_characteristics(benchmark: Any) -> None:
    values = RNG.random((1000, 9))

    def cold() -> None:
        resampling._kept.cache_clear()
        ResampleWeights(0, 1000).totals(values)

    benchmark.pedantic(cold, rounds=ROUNDS)
    assert benchmark.stats.stats.min <= 0.1


def test_two_thousand_areas_against_scikit_learns(benchmark: Any) -> None:
    weights = ResampleWeights(0, 2000)
    scores, labels = CODES[:, 0], LABELS[:, 0]
    auc_estimate(scores, labels, weights)
    benchmark.pedantic(lambda: auc_estimate(scores, labels, weights), rounds=ROUNDS)
    theirs = quickest(lambda: roc_auc_score(labels, scores))
    assert benchmark.stats.stats.min <= 2000 * theirs / 10


def test_precision_of_five_hundred_maps_against_scikit_learns(benchmark: Any) -> None:
    maps, regions = RNG.random((500, 4096), dtype=np.float32), RNG.random((500, 4096)) < 0.1
    benchmark.pedantic(lambda: row_average_precision(maps, regions), rounds=ROUNDS)
    theirs = quickest(lambda: average_precision_score(regions[0], maps[0]))
    assert benchmark.stats.stats.min <= 500 * theirs


@pytest.mark.parametrize("width", [1, 2])
def test_probes_of_all_labels_against_scikit_learns(benchmark: Any, width: int) -> None:
    folds, points = folds_of(np.arange(2000)), standardised(CODES[:, :width])
    fits = 18 * 5
    benchmark.pedantic(lambda: cross_fitted_scores(points, LABELS, folds), rounds=ROUNDS)
    theirs = quickest(lambda: LogisticRegression().fit(points[folds != 0], LABELS[folds != 0, 0]))
    assert benchmark.stats.stats.min / fits <= theirs
