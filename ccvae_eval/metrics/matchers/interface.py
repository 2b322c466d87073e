"""What a matcher is: it finds points of one image again in another.

Lengths are in units of a 64th of the image's shorter side, so that numbers mean the same at every size. Positions are
counted from the top left corner of the image; the centre of the first pixel of a 64-pixel image is (.5, .5).

Keypoints matched by their descriptors: mutual nearest neighbours that are much nearer than the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.types import Floats, Images

LENGTH = 64
"""Length units along the shorter side of an image."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey image (ITU-R BT.601, as OpenCV has it)."""


@dataclass(frozen=True)
class Matches:
    r"""Points of each first image and where they went in the second one; K is the greatest number in the batch.

    Args:
        points: positions (x, y) in the first image, shape :math:`(N, K, 2)`.
        valid: which of the K are points at all, shape :math:`(N, K)`, bool. All else is meaningless where it is False.
        matched: which were found again, same shape.
        shift: where to, relative to ``points``, shape :math:`(N, K, 2)`; 0 where not matched.
        confidence: in [0, 1], shape :math:`(N, K)`; 0 where not matched.
    """

    points: Tensor
    valid: Tensor
    matched: Tensor
    shift: Tensor
    confidence: Tensor

    @cached_property
    def displacement(self) -> Tensor:
        r"""How far each point moved, shape :math:`(N, K)`; 0 where not matched."""
        return self.shift.square().sum(-1).sqrt_()  # a third of the time of hypot

    def pixels(self, height: int, width: int) -> Tensor:
        r"""The pixel (row, column) that each point lies in, shape :math:`(N, K, 2)`, int64."""
        place = (self.points * unit(height, width)).long().flip(-1)
        return torch.minimum(place, torch.tensor([height - 1, width - 1], device=place.device)).clamp_min(0)


def no_matches(count: int, points: int, device: torch.device | None = None) -> Matches:
    """Matches of ``count`` images with ``points`` places for points, none of them valid."""
    nothing, nowhere = torch.zeros(count, points, device=device), torch.zeros(count, points, 2, device=device)
    return Matches(nowhere, nothing > 0, nothing > 0, nowhere.clone(), nothing)


@runtime_checkable
class Matcher(Protocol):
    """A frozen dataclass of settings, made without arguments; registered in the group ``matchers``.

    The work on one image (:meth:`features`) is apart from that on a pair (:meth:`match`), so that an image that is
    compared with many is looked at once. Both must be pure: the same images, the same numbers in every bit.
    """

    name: ClassVar[str]
    bounded: ClassVar[bool]
    """Whether a match can lie no farther than ``search`` by construction (so that "correct" would be no news)."""

    @property
    def search(self) -> float:
        """The loss of a point that is not found again, and of one that is found farther away than this."""
        ...

    @property
    def guard(self) -> float:
        """How far from a point the pixels lie that decide about it: wide enough that beyond it nothing counts."""
        ...

    def features(self, images: Images) -> Any:
        """What :meth:`match` needs to know of each image."""
        ...

    def match(self, first: Any, second: Any) -> Matches:
        """Finds the points of the first images in the second ones, pair by pair.

        An image without a point has no valid one; that is a value, not an error.
        """
        ...


def unit(height: int, width: int) -> float:
    """Pixels per unit of length."""
    return min(height, width) / LENGTH


def grey(images: Images) -> Tensor:
    r"""The luminance of colour images, shape :math:`(N, H, W)`; images of any other number of channels: their mean.

    >>> grey(torch.ones(1, 3, 1, 1))
    tensor([[[1.]]])
    """
    channels = images.shape[1]
    if channels == 1:
        return images[:, 0]
    weights = LUMINANCE if channels == len(LUMINANCE) else (1 / channels,) * channels
    # no convolution: its bits may depend on how many images there are
    total = images[:, 0] * weights[0]
    for channel, weight in enumerate(weights[1:], 1):
        total = total.add(images[:, channel], alpha=weight)
    return total


FEWEST_RIVALS = 2
"""Descriptors among which the best can be told from the second best."""

EQUAL = 1e-12
"""Squared distances of equal descriptors: rounding leaves less than this."""


@dataclass(frozen=True, slots=True, eq=False)
class DescribedPoints:
    """The keypoints of one image: positions (x, y) in units of length, shape (K, 2), descriptors of norm 1, (K, F)."""

    points: NDArray[np.float32]
    descriptors: Floats


Partners = tuple[NDArray[np.int64], Floats]
"""For each keypoint of one image its partner in another one, -1 = none, and how sure that is, in [0, 1]."""


def matches_of(
    first: Sequence[DescribedPoints],
    second: Sequence[DescribedPoints],
    partners: Callable[[DescribedPoints, DescribedPoints], Partners],
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


def mutual_matches(first: Sequence[DescribedPoints], second: Sequence[DescribedPoints], ratio: float) -> Matches:
    """Points that are each other's nearest, the second nearest being farther by ``ratio``; confidence 1 - d1/d2.

    With a single descriptor on the other side nothing can be told apart: no match.
    """

    def partners(one: DescribedPoints, other: DescribedPoints) -> Partners:
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
