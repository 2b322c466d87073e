"""Ratios with a stated value where the denominator is 0, and relative frequencies."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccvae_eval.core.types import Floats


def safe_ratio(part: ArrayLike, whole: ArrayLike, undefined: ArrayLike = np.nan, *, above: ArrayLike = 0.0) -> Floats:
    """Ratio of two arrays; ``undefined`` where the denominator is not greater than ``above``.

    Args:
        part, whole: numerators and denominators, broadcast against each other.
        undefined: the value where there is no ratio.
        above: the denominator that counts as 0, such as a bound on rounding errors; at least 0.

    >>> safe_ratio([1, 2], [4, 0]), safe_ratio([1, 2], [4, 0], 0.0)
    (array([0.25,  nan]), array([0.25, 0.  ]))
    """
    defined = np.greater(whole, above)
    # the memory layout of a plain division, so that later sums add in the same order
    found: Floats = np.asarray(np.divide(part, np.where(defined, whole, 1)))
    np.copyto(found, undefined, where=~defined)
    return found


def class_frequencies(classes: NDArray[np.int64], cardinality: int) -> Floats:
    """Relative frequency of each class, shape (K,); missing labels (-1) do not count; 0 without labels.

    >>> class_frequencies(np.array([0, 1, 1, 1, -1]), 2)
    array([0.25, 0.75])
    """
    counts = np.bincount(classes[classes >= 0], minlength=cardinality)
    return safe_ratio(counts, counts.sum(), 0.0)
