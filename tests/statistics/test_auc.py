"""ROC areas against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ccvae_eval.statistics.auc import auc, weighted_auc

pytestmark = pytest.mark.oracle

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


@given(PAIRS)
@settings(max_examples=150, deadline=None)
def test_areas_with_ties_equal_those_of_scikit_learn(pairs):
    scores = np.array([float(score) for score, _ in pairs])
    labels = np.array([label for _, label in pairs])
    if labels.all() or not labels.any():
        assert np.isnan(auc(scores, labels))
        return
    ones = np.ones((len(labels), 1), dtype=np.uint8)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert weighted_auc(scores, labels, ones)[0] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_the_area_of_a_resample_without_a_class_is_undefined():
    scores, labels = np.array([0.0, 1.0, 2.0]), np.array([False, False, True])
    weights = np.array([[1, 3, 0], [1, 0, 0], [1, 0, 3]], dtype=np.uint8)
    assert np.array_equal(weighted_auc(scores, labels, weights), [1.0, np.nan, np.nan], equal_nan=True)
