import numpy as np
import pytest

from ccvae_eval.statistics.assignment import assign_dimensions
from ccvae_eval.statistics.information import entropy_of_counts, equal_mass_bins, robust_bins


def problem(n=600, seed=0):
    """Dimensions 4, 2 and 0 encode a binary, a categorical and a continuous label; no dimension encodes the fourth."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack(
        [rng.integers(0, 2, n), rng.integers(0, 4, n), rng.standard_normal(n), rng.integers(0, 2, n)]
    ).astype(float)
    codes = rng.standard_normal((n, 6))
    codes[:, 4] += 3 * labels[:, 0]
    codes[:, 2] += 2 * (labels[:, 1] == 2)
    codes[:, 0] += labels[:, 2]
    return codes, labels


KINDS = [True, True, False, True]


def test_each_label_gets_its_dimension_and_noise_gets_none():
    codes, labels = problem()
    found = assign_dimensions(codes, labels, KINDS, seed=0)
    assert found.dimensions == (4, 2, 0, None)
    assert min(found.information[:3]) > found.information[3]


def test_information_is_the_mutual_information_with_the_single_dimension():
    codes, labels = problem()
    labels[::5, 0] = np.nan
    known = ~np.isnan(labels[:, 0])
    found = assign_dimensions(codes, labels, KINDS, seed=0, permutations=5)
    bins, classes = equal_mass_bins(codes[:, 4], robust_bins(600))[known], labels[known, 0].astype(int)
    expected = np.array([1, 1, -1]) @ [entropy_of_counts(np.bincount(c)) for c in (bins, classes, 2 * bins + classes)]
    assert found.information[0] == pytest.approx(expected, abs=1e-9)


def test_matching_maximises_the_sum_and_is_not_greedy():
    """Both labels are clearest in dimension 0; only the second is encoded in another dimension, too."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, (800, 2)).astype(float)
    codes = np.column_stack(
        [label @ [1.0, 3.0] + 0.1 * rng.standard_normal(800), 2 * label[:, 1] + rng.standard_normal(800)]
    )
    assert assign_dimensions(codes, label, [True, True], seed=0).dimensions == (0, 1)


def test_noise_is_rarely_assigned():
    """Each label is compared with the 95 % quantile of its own null: about 7 of 150 labels of noise exceed it."""
    taken = 0
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        codes, labels = rng.standard_normal((300, 5)), rng.integers(0, 2, (300, 5)).astype(float)
        found = assign_dimensions(codes, labels, [True] * 5, seed=seed, permutations=100)
        taken += sum(dimension is not None for dimension in found.dimensions)
    assert taken <= 18


def test_constant_and_missing_labels_and_constant_dimensions_are_not_assigned():
    codes, labels = problem()
    labels[:, 0], labels[:, 1] = 1.0, np.nan
    codes[:, 5] = 7.0
    found = assign_dimensions(codes, labels, KINDS, seed=0, permutations=50)
    assert found.dimensions[:2] == (None, None)
    assert found.dimensions[2] == 0
    assert 5 not in found.dimensions


def test_more_labels_than_dimensions():
    codes, labels = problem()
    found = assign_dimensions(codes[:, [4, 2]], labels, KINDS, seed=0, permutations=50)
    assert found.dimensions == (0, 1, None, None)
    assert np.isnan(found.information[2])


def test_same_seed_gives_the_same_assignment_also_without_labels():
    codes, labels = problem()
    one, other = (assign_dimensions(codes, labels, KINDS, seed=3, permutations=20) for _ in range(2))
    assert one == other
    assert assign_dimensions(codes, labels[:, :0], [], seed=3).dimensions == ()
