"""SIFT keypoints by OpenCV, matched by their descriptors over the whole image."""

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

DESCRIPTOR_SIZE = 128


@dataclass(frozen=True)
class SiftMatcher:
    r"""SIFT (Lowe 2004) by OpenCV, with RootSIFT descriptors (Arandjelovic and Zisserman 2012).

    Images smaller than ``least_size`` on their shorter side are enlarged first (bicubic). Of keypoints that differ only
    in orientation, the one with the strongest response is kept, because their descriptors would fail the ratio test
    against each other.

    A keypoint is matched if it and its nearest neighbour among the descriptors of the other image are mutual nearest
    neighbours and the distances to the nearest and second nearest satisfy d1 <= ratio d2. Its confidence is 1 - d1/d2.

    Descriptors of large keypoints depend on pixels farther away than ``guard``, so a change inside the region can
    affect points outside: the spill of this matcher is an upper bound.

    Args:
        contrast: least contrast of a keypoint; below OpenCV's default of 0.04, because reconstructions are blurred.
        ratio: largest ratio d1/d2 of a match.
        least_size: pixels on the shorter side to which smaller images are enlarged.
        search: loss of a point that is lost or found farther away than this, in 64ths of the shorter side.
        guard: least distance from the region of a point that counts as outside, in 64ths of the shorter side.
    """

    name: ClassVar[str] = "sift"
    bounded: ClassVar[bool] = False

    contrast: float = 0.01
    ratio: float = 0.9
    least_size: int = 64
    search: float = 3.0
    guard: float = 7.0

    def features(self, images: Images) -> list[DescribedPoints]:
        """Return the keypoints and descriptors of each image; a blank image has none."""
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
            return DescribedPoints(np.empty((0, 2), np.float32), np.empty((0, DESCRIPTOR_SIZE)))
        kept, described = detector.compute(picture, list(strongest.values()))
        points = (np.array([point.pt for point in kept], np.float32) + 0.5) / (enlarged * scale)
        totals = described.sum(1, keepdims=True, dtype=np.float64)
        roots = np.sqrt(described / np.maximum(totals, 1.0))
        return DescribedPoints(points, roots)

    def match(self, first: Sequence[DescribedPoints], second: Sequence[DescribedPoints]) -> Matches:
        """Match mutual nearest neighbours that pass the ratio test; K is the largest number of keypoints."""
        return mutual_matches(first, second, self.ratio)
