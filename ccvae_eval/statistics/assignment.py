"""Which column of a model without characteristics stands for which label (docs/metrics.md, section 0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.information import entropy_of_counts, equal_mass_bins, robust_bins
from ccvae_eval.statistics.threads import one_thread


@dataclass(frozen=True, slots=True)
class Assignment:
    """Columns found for labels.

    Args:
        columns: for each label its column, or None: unassigned.
        information: for each label the bias-corrected mutual information with the best-matched column, in nats.
        null_level: for each label the level that the same matching reaches with permuted labels (95 % of the time).
    """

    columns: tuple[int | None, ...]
    information: tuple[float, ...]
    null_level: tuple[float, ...]


def assign_columns(
    codes: Floats, labels: Floats, discrete: Sequence[bool], *, seed: int, permutations: int = 200, level: float = 0.95
) -> Assignment:
    r"""Matches single columns to labels so that the total mutual information is greatest (Hungarian matching).

    Information is counted on equal-mass bins with Miller's and Madow's correction. The null repeats the whole matching
    with the rows of the labels permuted, all labels of an image together; a label whose information does not exceed
    its own null's 95 % quantile is unassigned. With more labels than columns, those left over are unassigned; so is a
    label that is constant or missing everywhere, and a constant column is given to no one.

    Args:
        codes: shape :math:`(N, D)`.
        labels: shape :math:`(N, L)`, NaN = missing.
        discrete: for each label whether its values are classes; else it is binned.
        seed: of the permutations.
        permutations: how many.
        level: the quantile of the null.
    """
    if not labels.shape[1]:
        return Assignment((), (), ())
    table = _Contingency(codes, labels, discrete)
    information = table.information(np.arange(len(codes)))
    chosen = _matched(information)
    generator = numpy_stream(seed, "assignment null", len(codes))
    nulls = np.full((permutations, labels.shape[1]), np.nan)
    for row in nulls:
        shuffled = table.information(generator.permutation(len(codes)))
        for label, matched in _matched(shuffled).items():
            row[label] = shuffled[matched, label]
    columns: list[int | None] = []
    found, levels = [], []
    for label in range(labels.shape[1]):
        column = chosen.get(label)
        # matchings of a null may leave a label out when labels outnumber columns: that is information 0
        null = float(np.quantile(np.nan_to_num(nulls[:, label], nan=0.0), level)) if permutations else 0.0
        value = float(information[column, label]) if column is not None else np.nan
        columns.append(column if column is not None and value > max(null, 0.0) else None)
        found.append(value)
        levels.append(null)
    return Assignment(tuple(columns), tuple(found), tuple(levels))


def _matched(information: Floats) -> dict[int, int]:
    """The label -> column matching of the greatest sum."""
    columns, labels = linear_sum_assignment(information, maximize=True)
    return {int(label): int(column) for column, label in zip(columns, labels, strict=True)}


class _Contingency:
    """Counts of every column's bins against every label's classes, for any pairing of rows, by one matrix product."""

    def __init__(self, codes: Floats, labels: Floats, discrete: Sequence[bool]) -> None:
        bins = robust_bins(len(codes))
        binned = np.stack([equal_mass_bins(column, bins) for column in codes.T], axis=1)
        self.bins = int(binned.max(initial=0)) + 1
        self.codes = _one_hot(binned, self.bins)
        classes = [_classes(column, is_discrete, bins) for column, is_discrete in zip(labels.T, discrete, strict=True)]
        self.sizes = [int(column.max(initial=0)) + 1 for column in classes]
        self.labels = np.concatenate(
            [_one_hot(column[:, None], size) for column, size in zip(classes, self.sizes, strict=True)], axis=1
        )

    def information(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
        """Bias-corrected mutual information of each column with each label whose rows are taken in this order."""
        with one_thread():
            counts = np.asarray(self.codes.T @ self.labels[rows], dtype=np.float64)
        table = counts.reshape(-1, self.bins, counts.shape[1])
        ends = np.cumsum(self.sizes)
        return np.stack(
            [_information(table[:, :, end - size : end]) for size, end in zip(self.sizes, ends, strict=True)], axis=1
        )


def _information(joint: Floats) -> Floats:
    """I in nats of contingency tables, shape (D, bins, classes)."""
    both = entropy_of_counts(joint.reshape(len(joint), -1))
    found = entropy_of_counts(joint.sum(axis=2)) + entropy_of_counts(joint.sum(axis=1)) - both
    # a label that is missing everywhere has no entropy, and tells nothing
    return np.nan_to_num(found, nan=0.0)


def _classes(label: Floats, discrete: bool, bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Class of each row, -1 where missing."""
    present: Bools = ~np.isnan(label)
    classes = np.full(len(label), -1, dtype=np.int64)
    if discrete:
        classes[present] = np.unique(label[present], return_inverse=True)[1]
    else:
        classes[present] = equal_mass_bins(label[present], bins)
    return classes


def _one_hot(
    classes: np.ndarray[tuple[int, int], np.dtype[np.int64]], size: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """0/1 columns, shape (N, D * size); a class of -1 has none. float32 counts are exact below 2**24 rows."""
    return np.asarray((classes[:, :, None] == np.arange(size)).reshape(len(classes), -1), dtype=np.float32)
