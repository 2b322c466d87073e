"""The interface of keypoint matchers, and matching of described keypoints by mutual nearest neighbours.

Lengths are in 64ths of the image's shorter side, so that numbers are comparable between image sizes. Positions start at
the top left corner of the image; the centre of the first pixel of a 64-pixel image is (0.5, 0.5).
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
from ccvae_eval.statistics.ratios import safe_ratio

LENGTH = 64
"""Length units along the shorter side of an image."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey image (ITU-R BT.601, as in OpenCV)."""

LEAST_CANDIDATES = 2
"""Descriptors that the ratio test needs in the other image."""

EQUAL = 1e-12
"""Squared distance below which two descriptors are equal up to rounding."""


@dataclass(frozen=True)
class Matches:
    r"""Points of the first image of each pair and their positions in the second; K is the largest number in the batch.

    Args:
        points: positions (x, y) in the first image, shape :math:`(N, K, 2)`.
        valid: mask of actual points, shape :math:`(N, K)`, bool. The other fields are meaningless where it is False.
        matched: mask of points found in the second image, shape :math:`(N, K)`, bool.
        shift: displacement (x, y) of each point, shape :math:`(N, K, 2)`; 0 where not matched.
        confidence: in [0, 1], shape :math:`(N, K)`; 0 where not matched.
    """

    points: Tensor
    valid: Tensor
    matched: Tensor
    shift: Tensor
    confidence: Tensor

    @cached_property
    def displacement(self) -> Tensor:
        r"""Length of each point's shift, shape :math:`(N, K)`; 0 where not matched."""
        return self.shift.square().sum(-1).sqrt_()  # faster than torch.hypot

    def pixels(self, height: int, width: int) -> Tensor:
        r"""Return the pixel (row, column) that each point lies in, shape :math:`(N, K, 2)`, int64."""
        pixel = (self.points * unit(height, width)).long().flip(-1)
        return torch.minimum(pixel, torch.tensor([height - 1, width - 1], device=pixel.device)).clamp_min(0)


def no_matches(count: int, points: int, device: torch.device | None = None) -> Matches:
    """Return the matches of ``count`` image pairs with room for ``points`` points, none of them valid."""
    zeros, positions = torch.zeros(count, points, device=device), torch.zeros(count, points, 2, device=device)
    return Matches(positions, zeros > 0, zeros > 0, positions.clone(), zeros)


@runtime_checkable
class Matcher(Protocol):
    """A frozen dataclass of settings, created without arguments and registered in the group ``matchers``.

    :meth:`features` processes single images and :meth:`match` pairs, so that an image that is compared with several
    others is processed once. Both must be pure: the same images give the same bits, whatever the batch.
    """

    name: ClassVar[str]
    bounded: ClassVar[bool]
    """True if matches lie within ``search`` by construction, so that counting correct matches is uninformative."""

    @property
    def search(self) -> float:
        """Loss of a point that is not found, or that is found farther away than this."""
        ...

    @property
    def guard(self) -> float:
        """Least distance from the region of a point that counts as outside: the radius of the pixels that affect it."""
        ...

    def features(self, images: Images) -> Any:
        """Return the input of :meth:`match` for a batch of images."""
        ...

    def match(self, first: Any, second: Any) -> Matches:
        """Find the points of each first image in the second image of its pair.

        An image without keypoints is not an error: it has no valid points.
        """
        ...


def unit(height: int, width: int) -> float:
    """Return the number of pixels per unit of length."""
    return min(height, width) / LENGTH


def grey(images: Images) -> Tensor:
    r"""Return the luminance of RGB images, or the mean of any other number of channels; shape :math:`(N, H, W)`.

    >>> grey(torch.ones(1, 3, 1, 1))
    tensor([[[1.]]])
    """
    channels = images.shape[1]
    if channels == 1:
        return images[:, 0]
    weights = LUMINANCE if channels == len(LUMINANCE) else (1 / channels,) * channels
    # no convolution: its bits may depend on the number of images
    total = images[:, 0] * weights[0]
    for channel, weight in enumerate(weights[1:], 1):
        total = total.add(images[:, channel], alpha=weight)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class DescribedPoints:
    """The keypoints of one image: positions (x, y) in units of length, (K, 2), and descriptors of norm 1, (K, F)."""

    points: NDArray[np.float32]
    descriptors: Floats


def normalised(descriptors: Tensor) -> Floats:
    """Return descriptors divided by their norms."""
    found: Floats = descriptors.double().numpy()
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), EQUAL))


Partners = tuple[NDArray[np.int64], Floats]
"""Index of each keypoint's match in the other image (-1 = none), and its confidence in [0, 1]."""


def matches_of(
    first: Sequence[DescribedPoints],
    second: Sequence[DescribedPoints],
    partners: Callable[[DescribedPoints, DescribedPoints], Partners],
) -> Matches:
    """Return the matches of a batch; K is the largest number of keypoints in a first image.

    Args:
        first, second: keypoints of both images of each pair.
        partners: matches the keypoints of two images, neither of which is without keypoints.
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
    """Match mutual nearest neighbours that pass the ratio test d1 <= ratio d2 (Lowe 2004); confidence 1 - d1/d2.

    An image with a single descriptor has no matches, because the ratio needs a second one.
    """

    def partners(one: DescribedPoints, other: DescribedPoints) -> Partners:
        if len(other.points) < LEAST_CANDIDATES:
            return np.full(len(one.points), -1), np.zeros(len(one.points))
        partner, distances = _neighbours(one.descriptors, other.descriptors)
        return np.where(distances <= ratio, partner, -1), 1 - distances

    return matches_of(first, second, partners)


def _neighbours(one: Floats, other: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return each descriptor's mutual nearest neighbour (-1 = none) and the ratio d1/d2 (1 if both are 0)."""
    square = 2 - 2 * (one @ other.T)
    square[square < EQUAL] = 0
    nearest, best = square.argmin(1), np.sort(np.partition(square, 1, axis=1)[:, :2], axis=1)
    mutual = square.argmin(0)[nearest] == np.arange(len(one))
    ratio = np.sqrt(safe_ratio(best[:, 0], best[:, 1], 1.0))
    return np.where(mutual, nearest, -1), ratio
