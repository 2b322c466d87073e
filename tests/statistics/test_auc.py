"""Rankings against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ccvae_eval.statistics import auc as ranking
from ccvae_eval.statistics.auc import auc, average_precision, row_average_precision, weighted_auc

pytestmark = pytest.mark.oracle

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


@given(PAIRS)
@settings(max_examples=150, deadline=None)
def test_areas_with_ties_are_scikit_learns(pairs):
    scores = np.array([float(score) for score, _ in pairs])
    labels = np.array([label for _, label in pairs])
    if labels.all() or not labels.any():
        assert np.isnan(auc(scores, labels))
        assert np.isnan(average_precision(scores, labels))
        assert np.isnan(row_average_precision(scores[None], labels[None])).all()
        return
    ones = np.ones((len(labels), 1), dtype=np.uint8)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert weighted_auc(scores, labels, ones)[0] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert row_average_precision(scores[None], labels[None])[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("at_once", [1, 4096, 5 * 4096, 1 << 21])
def test_precision_of_many_maps_at_once(monkeypatch, at_once):
    """Whatever the number of maps in flight; with ties across the ends of rows."""
    monkeypatch.setattr(ranking, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 40, (12, 4096)).astype(np.float32)
    maps[5:9] = rng.random((4, 4096))
    regions = rng.random((12, 4096)) < 0.1
    regions[3] = False
    found = row_average_precision(maps, regions)
    for row in range(12):
        if row == 3:
            assert np.isnan(found[row])
        else:
            assert found[row] == pytest.approx(average_precision_score(regions[row], maps[row]), rel=1e-12)


def test_a_map_with_nan_and_no_maps():
    maps = np.ones((2, 5))
    maps[1, 2] = np.nan
    regions = np.array([[True, False, False, False, False]] * 2)
    found = row_average_precision(maps, regions)
    assert found[0] == pytest.approx(0.2)
    assert np.isnan(found[1])
    assert row_average_precision(np.ones((0, 5)), np.ones((0, 5), dtype=bool)).shape == (0,)


def test_a_resample_without_a_class_has_no_area():
    scores, labels = np.array([0.0, 1.0, 2.0]), np.array([False, False, True])
    weights = np.array([[1, 3, 0], [1, 0, 0], [1, 0, 3]], dtype=np.uint8)
    assert np.array_equal(weighted_auc(scores, labels, weights), [1.0, np.nan, np.nan], equal_nan=True)
    found = ranking.weighted_average_precision(scores, labels, weights)
    assert np.array_equal(found, [1.0, np.nan, np.nan], equal_nan=True)
