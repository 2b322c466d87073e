import numpy as np
import pytest

from ccvae_eval.statistics.assignment import assign_columns
from ccvae_eval.statistics.information import equal_mass_bins, mutual_information, robust_bins


def problem(n=600, seed=0):
    """Columns 4, 2 and 0 carry a binary, a categorical and a continuous label; a fourth label is in no column."""
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


def test_each_label_gets_its_column_and_noise_gets_none():
    codes, labels = problem()
    found = assign_columns(codes, labels, KINDS, seed=0)
    assert found.columns == (4, 2, 0, None)
    for label in range(3):
        assert found.information[label] > found.null_level[label]
    assert found.information[3] <= found.null_level[3]


def test_information_is_that_of_the_single_column():
    codes, labels = problem()
    labels[::5, 0] = np.nan
    known = ~np.isnan(labels[:, 0])
    found = assign_columns(codes, labels, KINDS, seed=0, permutations=5)
    bins = equal_mass_bins(codes[:, 4], robust_bins(600))
    assert found.information[0] == pytest.approx(
        mutual_information(bins[known], labels[known, 0].astype(int)), abs=1e-9
    )


def test_matching_is_of_the_greatest_sum_not_greedy():
    """Both labels are clearest in column 0; the second has another column to go to, the first none."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, (800, 2)).astype(float)
    codes = np.column_stack(
        [label @ [1.0, 3.0] + 0.1 * rng.standard_normal(800), 2 * label[:, 1] + rng.standard_normal(800)]
    )
    assert assign_columns(codes, label, [True, True], seed=0).columns == (0, 1)


def test_noise_is_rarely_assigned():
    """Each label's null is its own 95 % level: of 150 labels of noise about 7 exceed it."""
    taken = 0
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        codes, labels = rng.standard_normal((300, 5)), rng.integers(0, 2, (300, 5)).astype(float)
        found = assign_columns(codes, labels, [True] * 5, seed=seed, permutations=100)
        taken += sum(column is not None for column in found.columns)
    assert taken <= 18


def test_what_cannot_be_assigned():
    codes, labels = problem()
    labels[:, 0], labels[:, 1] = 1.0, np.nan
    codes[:, 5] = 7.0
    found = assign_columns(codes, labels, KINDS, seed=0, permutations=50)
    assert found.columns[:2] == (None, None)
    assert found.columns[2] == 0
    assert 5 not in found.columns


def test_more_labels_than_columns():
    codes, labels = problem()
    found = assign_columns(codes[:, [4, 2]], labels, KINDS, seed=0, permutations=50)
    assert found.columns == (0, 1, None, None)
    assert np.isnan(found.information[2])


def test_same_seed_same_assignment_and_no_labels_at_all():
    codes, labels = problem()
    one, other = (assign_columns(codes, labels, KINDS, seed=3, permutations=20) for _ in range(2))
    assert one == other
    assert assign_columns(codes, labels[:, :0], [], seed=3).columns == ()
