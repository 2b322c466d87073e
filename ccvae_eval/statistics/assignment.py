"""Assignment of latent dimensions to labels for models without characteristics (docs/metrics.md, section 0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.information import equal_mass_bins, joint_entropies, robust_bins


@dataclass(frozen=True, slots=True)
class DimensionAssignment:
    """Latent dimension of each label.

    Args:
        dimensions: for each label its latent dimension; None = unassigned.
        information: for each label the bias-corrected mutual information with the matched dimension, in nats; NaN
            without one.
    """

    dimensions: tuple[int | None, ...]
    information: tuple[float, ...]


def assign_dimensions(
    codes: Floats, labels: Floats, discrete: Sequence[bool], *, seed: int, permutations: int = 200, level: float = 0.95
) -> DimensionAssignment:
    r"""Assigns single latent dimensions to labels so that their total mutual information is greatest.

    The matching is that of the Hungarian algorithm (Kuhn 1955). Mutual information is estimated on equal-mass bins
    with the correction of Miller and Madow (1955). The null repeats the matching with permuted images, keeping the
    labels of an image together; a label whose information does not exceed the ``level`` quantile of its null stays
    unassigned. A constant or entirely missing label and a constant latent dimension are never assigned; with more
    labels than latent dimensions the remaining labels stay unassigned.

    Args:
        codes: shape :math:`(N, D)`, finite.
        labels: shape :math:`(N, L)`, NaN = missing.
        discrete: for each label True if its values are classes; continuous labels are binned.
        seed: seed of the permutations.
        permutations: number of permutations.
        level: quantile of the null.
    """
    if not labels.shape[1]:
        return DimensionAssignment((), ())
    table = _Contingency(codes, labels, discrete)
    information = table.information(np.arange(len(codes)))
    matched = _matching(information)
    generator = numpy_stream(seed, "assignment null", len(codes))
    nulls = np.full((permutations, labels.shape[1]), np.nan)
    for row in nulls:
        shuffled = table.information(generator.permutation(len(codes)))
        for label, column in _matching(shuffled).items():
            row[label] = shuffled[column, label]
    dimensions: list[int | None] = []
    found = []
    for label in range(labels.shape[1]):
        best = matched.get(label)
        # a null matching leaves labels out if they outnumber the dimensions: information 0
        null = float(np.quantile(np.nan_to_num(nulls[:, label], nan=0.0), level)) if permutations else 0.0
        value = float(information[best, label]) if best is not None else np.nan
        dimensions.append(best if best is not None and value > max(null, 0.0) else None)
        found.append(value)
    return DimensionAssignment(tuple(dimensions), tuple(found))


def _matching(information: Floats) -> dict[int, int]:
    """Latent dimension of each label in the matching with the greatest sum of information, shape (D, L)."""
    columns, labels = linear_sum_assignment(information, maximize=True)
    return {int(label): int(column) for column, label in zip(columns, labels, strict=True)}


class _Contingency:
    """Contingency tables of every latent dimension's bins against every label's classes, by one matrix product."""

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
        """Bias-corrected mutual information with the labels' rows in this order, shape (D, L)."""
        with one_thread():
            counts = np.asarray(self.codes.T @ self.labels[rows], dtype=np.float64)
        table = counts.reshape(-1, self.bins, counts.shape[1])
        ends = np.cumsum(self.sizes)
        return np.stack(
            [_information(table[:, :, end - size : end]) for size, end in zip(self.sizes, ends, strict=True)], axis=1
        )


def _information(joint: Floats) -> Floats:
    """Mutual information in nats of contingency tables of shape (D, bins, classes)."""
    code, label, both = joint_entropies(joint)
    # a label that is missing everywhere has undefined entropy: its information is 0
    return np.nan_to_num(code + label - both, nan=0.0)


def _classes(label: Floats, discrete: bool, bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Class of each row, -1 = missing."""
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
    """One-hot columns, shape (N, D * size); zeros for class -1. Counts in float32 are exact below 2**24 rows."""
    return np.asarray((classes[:, :, None] == np.arange(size)).reshape(len(classes), -1), dtype=np.float32)
