"""Keypoints matched by their descriptors: mutual nearest neighbours that are much nearer than the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.metrics.matchers.contract import Matches, no_matches
from ccvae_eval.types import Floats

FEWEST_RIVALS = 2
"""Descriptors among which the best can be told from the second best."""

EQUAL = 1e-12
"""Squared distances of equal descriptors: rounding leaves less than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """The keypoints of one image: positions (x, y) in units of length, shape (K, 2), descriptors of norm 1, (K, F)."""

    points: NDArray[np.float32]
    descriptors: Floats


Partners = tuple[NDArray[np.int64], Floats]
"""For each keypoint of one image its partner in another one, -1 = none, and how sure that is, in [0, 1]."""


def matches_of(
    first: Sequence[Described], second: Sequence[Described], partners: Callable[[Described, Described], Partners]
) -> Matches:
    """The matches of a batch, pair by pair; K is the greatest number of keypoints in it.

    Args:
        first, second: the images of each pair.
        partners: of two images that have keypoints.
    """
    found = no_matches(len(first), max((len(one.points) for one in first), default=0))
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        size = len(one.points)
        found.valid[row, :size] = True
        found.points[row, :size] = torch.from_numpy(one.points)
        if size == 0 or len(other.points) == 0:
            continue
        partner, confidence = partners(one, other)
        matched = partner >= 0
        shift = np.where(matched[:, None], other.points[partner] - one.points, 0)
        found.matched[row, :size] = torch.from_numpy(matched)
        found.shift[row, :size] = torch.from_numpy(shift)
        found.confidence[row, :size] = torch.from_numpy(np.where(matched, confidence, 0))
    return found


def mutual_matches(first: Sequence[Described], second: Sequence[Described], ratio: float) -> Matches:
    """Points that are each other's nearest, the second nearest being farther by ``ratio``; confidence 1 - d1/d2.

    With a single descriptor on the other side nothing can be told apart: no match.
    """

    def partners(one: Described, other: Described) -> Partners:
        if len(other.points) < FEWEST_RIVALS:
            return np.full(len(one.points), -1), np.zeros(len(one.points))
        partner, apart = _neighbours(one.descriptors, other.descriptors)
        return np.where(apart <= ratio, partner, -1), 1 - apart

    return matches_of(first, second, partners)


def _neighbours(one: Floats, other: Floats) -> tuple[NDArray[np.int64], Floats]:
    """For each descriptor its mutual nearest neighbour (-1 = none), and the ratio d1/d2 (1 where both are 0)."""
    square = 2 - 2 * (one @ other.T)
    square[square < EQUAL] = 0
    nearest, best = square.argmin(1), np.sort(np.partition(square, 1, axis=1)[:, :2], axis=1)
    mutual = square.argmin(0)[nearest] == np.arange(len(one))
    ratio = np.sqrt(np.where(best[:, 1] > 0, best[:, 0] / np.where(best[:, 1] > 0, best[:, 1], 1), 1))
    return np.where(mutual, nearest, -1), ratio
