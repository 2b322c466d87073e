"""SIFT keypoints, matched by their descriptors wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.types import Images
from ccvae_eval.metrics.matchers.interface import DescribedPoints, Matches, grey, mutual_matches, unit

DESCRIBED = 128
"""Numbers in a descriptor."""


@dataclass(frozen=True)
class SiftMatcher:
    r"""SIFT (Lowe 2004) as OpenCV computes it, with RootSIFT descriptors (Arandjelovic and Zisserman 2012).

    Images smaller than ``least_size`` on their shorter side are enlarged first (bicubic). OpenCV doubles every image
    itself; enlarging 64-pixel faces as well gave more keypoints but a smaller share of matches where they belong
    (measured on soft reconstructions: .38 within 3 pixels at 128, .55 at 64). Of keypoints that differ only in
    orientation the strongest response is kept: their descriptors would be each other's rivals.

    A keypoint is matched if it and its nearest neighbour among the descriptors of the other image are each other's
    nearest (mutual) and the second nearest lies farther away by ``ratio``; its confidence is 1 - d1/d2. With a single
    descriptor on the other side nothing can be told apart: no match.

    Descriptors of large keypoints reach farther than ``guard`` and may see a change inside the region from outside:
    the spill of this matcher is an upper bound.

    Args:
        contrast: the least contrast of a keypoint; below OpenCV's .04, because reconstructions are soft.
        ratio: the largest d1/d2 of a match.
        least_size: pixels on the shorter side.
        search: in 64ths of the shorter side: the loss of a lost point and of one found farther away.
        guard: in 64ths of the shorter side: how far from the region a point must lie to count as outside.
    """

    name: ClassVar[str] = "sift"
    bounded: ClassVar[bool] = False

    contrast: float = 0.01
    ratio: float = 0.9
    least_size: int = 64
    search: float = 3.0
    guard: float = 7.0

    def features(self, images: Images) -> list[DescribedPoints]:
        """Keypoints and descriptors of each image; a blank image has none."""
        detector = cv2.SIFT.create(contrastThreshold=self.contrast)
        pictures = (grey(images).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return [self._features(detector, picture) for picture in pictures]

    def _features(self, detector: cv2.SIFT, picture: NDArray[np.uint8]) -> DescribedPoints:
        scale = unit(*picture.shape)
        enlarged = max(self.least_size / min(picture.shape), 1.0)
        if enlarged > 1:
            resized = cv2.resize(picture, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
            picture = resized.astype(np.uint8, copy=False)
        found = detector.detect(picture, None)
        strongest: dict[tuple[float, float, float], cv2.KeyPoint] = {}
        for point in sorted(found, key=lambda p: (-p.response, p.angle)):
            strongest.setdefault((point.pt[0], point.pt[1], point.size), point)
        if not strongest:
            return DescribedPoints(np.empty((0, 2), np.float32), np.empty((0, DESCRIBED)))
        kept, described = detector.compute(picture, list(strongest.values()))
        points = (np.array([point.pt for point in kept], np.float32) + 0.5) / (enlarged * scale)
        totals = described.sum(1, keepdims=True, dtype=np.float64)
        roots = np.sqrt(described / np.maximum(totals, 1.0))
        return DescribedPoints(points, roots)

    def match(self, first: Sequence[DescribedPoints], second: Sequence[DescribedPoints]) -> Matches:
        """Mutual nearest neighbours that pass the ratio test; K is the greatest number of keypoints in the batch."""
        return mutual_matches(first, second, self.ratio)
