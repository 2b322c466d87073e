"""Permutation nulls against single evaluations and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccvae_eval.statistics.densities import permuted_null, wasserstein
from tests.support.statistics import dprime, js, overlap

pytestmark = pytest.mark.oracle


def test_the_null_is_the_mean_over_single_evaluations():
    """The null uses the bandwidth of all codes instead of each class's: agreement within a few per cent."""
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.3).astype(float)
    codes = rng.standard_normal(300) + 2 * labels
    found = permuted_null(codes, labels, seed=0, permutations=200)
    marks = [np.random.default_rng(draw).permutation(labels) == 1 for draw in range(200)]
    for score in (dprime, overlap, js, wasserstein):
        single = [score(codes[mark], codes[~mark]) for mark in marks]
        error = np.std(single) / math.sqrt(100)  # both are means of 200
        expected = np.mean(single)
        tolerance = 4 * error + 0.03 * (1 - expected if score is overlap else expected)
        assert getattr(found, score.__name__) == pytest.approx(expected, abs=tolerance)
    assert found.wasserstein_scaled == pytest.approx(found.wasserstein / codes.std(ddof=1), rel=1e-12)


def test_the_null_of_dprime_is_half_normal():
    rng = np.random.default_rng(1)
    labels = np.repeat([0.0, 1.0], [700, 300])
    found = permuted_null(rng.standard_normal(1000), labels, seed=0, permutations=2000).dprime
    assert found == pytest.approx(math.sqrt(2 / math.pi * (1 / 700 + 1 / 300)), rel=0.05)


def test_discrete_codes_are_point_masses():
    labels = np.repeat([0.0, 1.0], 50)
    found = permuted_null(labels, labels, seed=0)
    assert 0.8 < found.overlap < 1
    assert found.overlap + found.wasserstein == pytest.approx(1, abs=1e-12)


def test_missing_codes_and_labels_do_not_enter():
    rng = np.random.default_rng(2)
    labels = np.repeat([0.0, 1.0], 60)
    codes = rng.standard_normal(120)
    more = permuted_null(np.append(codes, [np.nan, 9.0]), np.append(labels, [1.0, np.nan]), seed=3)
    assert more == permuted_null(codes, labels, seed=3)
