"""Contrasts of labels, and areas under the ROC curve as means over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.metrics.shared.contrasts import RocAuc, contrasts_of, mean_over_contrasts
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout
from ccvae_eval.statistics.auc import auc
from ccvae_eval.statistics.intervals import mean_estimate, undefined_estimate
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import table_subject

SCHEMA = LabelSchema((Label("a"), Label("hair", "categorical", ("x", "y", "z")), Label("age", "continuous")))


def subject(hair, a=None):
    hair = torch.tensor(hair, dtype=torch.float32)
    first = torch.arange(len(hair)) % 2 if a is None else torch.tensor(a)
    labels = torch.stack([first.float(), hair, torch.rand(len(hair))], 1)
    return table_subject(torch.zeros(len(hair), 1), labels, SCHEMA, LatentLayout(1))


def test_a_binary_label_has_one_contrast():
    found = contrasts_of(subject([0.0] * 8), "a", 4)
    assert found.classes == (1,)
    assert found.targets[0].tolist() == [0, 1] * 4
    assert found.note == ""


def test_a_categorical_label_has_a_contrast_for_each_class_with_enough_images():
    found = contrasts_of(subject([0, 0, 0, 1, 1, 1, 2, float("nan")]), "hair", 2)
    assert found.classes == (0, 1)
    assert found.note == "one-vs-rest, averaged over 2 classes, too few images: z"
    np.testing.assert_array_equal(found.targets[1], [0, 0, 0, 1, 1, 1, 0, np.nan])


def test_a_continuous_label_is_split_at_its_median():
    chosen = subject([0.0] * 9)
    chosen.labels[:, 2] = torch.tensor([5, 1, 4, float("nan"), 3, 2, 0, 0, 0])
    found = contrasts_of(chosen, "age", 2)
    assert found.classes == (1,)
    assert found.note == "above its median against the rest"
    np.testing.assert_array_equal(found.targets[0], [1, 0, 1, np.nan, 1, 1, 0, 0, 0])
    chosen.labels[:, 2] = 7.0
    with pytest.raises(UndefinedError, match="0 images lie on one side of the median"):
        contrasts_of(chosen, "age", 2)


@pytest.mark.parametrize(
    ("hair", "a", "name", "why"),
    [
        ([0.0] * 6, [0, 0, 0, 0, 0, 1], "a", "only 1 images of class present, 2 are needed"),
        ([0.0] * 6, [1, 1, 1, 1, 1, 0], "a", "only 1 images of class absent, 2 are needed"),
        ([0.0] * 6, None, "hair", "only 0 images of class not x, 2 are needed"),
        ([0.0] * 2, None, "age", "1 images lie on one side of the median, 2 are needed"),
    ],
)
def test_a_contrast_without_enough_images_is_undefined(hair, a, name, why):
    with pytest.raises(UndefinedError, match=why):
        contrasts_of(subject(hair, a), name, 2)


def test_contributions_of_images_average_to_the_roc_area():
    rng = np.random.default_rng(0)
    labels = (rng.random(50) < 0.3).astype(float)
    scores = rng.standard_normal(50) + labels
    labels[3], scores[4] = np.nan, np.nan
    numerator, denominator = RocAuc([scores], [labels]).terms()
    kept = denominator == 1
    assert kept.sum() == 48
    assert numerator[kept].mean() == pytest.approx(auc(scores[kept], labels[kept] == 1), abs=1e-14)


def bootstrap_error(statistic, n, draws=4000):
    """Standard deviation of a statistic of image indices over plain resamples."""
    rng = np.random.default_rng(1)
    return np.std([statistic(rng.integers(0, n, n)) for _ in range(draws)])


@pytest.mark.oracle
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_influence_of_images_gives_the_standard_error_of_the_area(shift):
    rng = np.random.default_rng(3)
    labels = (rng.random(300) < 0.3).astype(float)
    scores = rng.standard_normal(300) + shift * labels
    labels[:20] = np.nan
    statistic = RocAuc([scores], [labels])
    influence = statistic.influence()
    assert np.isnan(influence).tolist() == np.isnan(labels).tolist()
    psi = influence[20:]
    positive = labels[20:] == 1
    for side in (positive, ~positive):
        assert psi[side].mean() == pytest.approx(0, abs=1e-12)
    # DeLong, DeLong and Clarke-Pearson (1988), by its definition over all pairs
    above = (scores[20:][positive][:, None] > scores[20:][~positive]).astype(float)
    delong = above.mean(1).var(ddof=1) / positive.sum() + above.mean(0).var(ddof=1) / (~positive).sum()
    assert np.sqrt((psi**2).sum()) / len(psi) == pytest.approx(np.sqrt(delong), rel=1e-12)
    resampled = bootstrap_error(lambda rows: auc(scores[20:][rows], positive[rows]), 280)
    assert np.sqrt((psi**2).sum()) / len(psi) == pytest.approx(resampled, rel=0.06)


def test_fitted_scores_without_information_have_twice_the_variance():
    rng = np.random.default_rng(5)
    labels = (rng.random(400) < 0.5).astype(float)
    noise, informative = rng.standard_normal(400), rng.standard_normal(400) + 3 * labels
    for scores, ratio in ((noise, 2.0), (informative, 1.0)):
        plain, fitted = (RocAuc([scores], [labels], fitted=fitted).influence() for fitted in (False, True))
        assert (fitted**2).sum() / (plain**2).sum() == pytest.approx(ratio, abs=0.02)


def test_the_influence_on_a_mean_over_contrasts_is_the_mean():
    rng = np.random.default_rng(7)
    classes = rng.integers(0, 3, 200)
    scores = [rng.standard_normal(200) + (classes == k) for k in range(3)]
    targets = [(classes == k).astype(float) for k in range(3)]
    parts = [RocAuc([s], [t]).influence() for s, t in zip(scores, targets, strict=True)]
    np.testing.assert_allclose(RocAuc(scores, targets).influence(), np.mean(parts, axis=0))


def test_a_single_part_is_returned_as_is_and_undefined_parts_keep_their_reason():
    weights = ResampleWeights(0, 10, 50)
    part = mean_estimate(np.arange(10.0), weights)
    assert mean_over_contrasts([part], 0.95) is part
    assert mean_over_contrasts([undefined_estimate(50, "no"), undefined_estimate(50, "no")], 0.95).note == "no"
    assert mean_over_contrasts([part, part], 0.95).value == pytest.approx(4.5)
