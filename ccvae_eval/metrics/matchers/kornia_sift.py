"""SIFT keypoints by kornia, without OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from kornia.feature import SIFTFeature, get_laf_center
from torch import Tensor

from ccvae_eval.core.types import Images
from ccvae_eval.metrics.matchers.interface import DescribedPoints, Matches, grey, mutual_matches, normalised, unit

SMALLEST = 16
"""Pixels on the shorter side below which an image has no keypoints."""


@dataclass(frozen=True)
class KorniaSiftMatcher:
    """SIFT (Lowe 2004) with RootSIFT descriptors by ``kornia.feature.SIFTFeature``, matched like ``sift``.

    A second implementation for comparison with ``sift``: its detector has a single-scale pyramid and another threshold
    than OpenCV's, and finds about a quarter as many keypoints in a 64-pixel image. Images are processed one by one on
    the CPU.

    Args:
        most: largest number of keypoints of an image; the strongest are kept.
        response: least response of a keypoint; a blank image has none above 0.
        ratio: largest ratio d1/d2 of a match.
        search: loss of a point that is lost or found farther away than this, in 64ths of the shorter side.
        guard: least distance from the region of a point that counts as outside, in 64ths of the shorter side.
    """

    name: ClassVar[str] = "kornia-sift"
    bounded: ClassVar[bool] = False

    most: int = 512
    response: float = 1e-4
    ratio: float = 0.9
    search: float = 3.0
    guard: float = 7.0

    def features(self, images: Images) -> list[DescribedPoints]:
        """Return the keypoints and descriptors of each image; a blank image has none."""
        detector: Any = SIFTFeature(num_features=self.most, rootsift=True).eval()
        return [self._features(detector, picture) for picture in grey(images).float().cpu()]

    def _features(self, detector: Any, picture: Tensor) -> DescribedPoints:
        if min(picture.shape) < SMALLEST:
            return DescribedPoints(np.empty((0, 2), np.float32), np.empty((0, 128)))
        with torch.no_grad():
            frames, responses, descriptors = detector(picture[None, None])
        kept = responses[0] > self.response
        points = (get_laf_center(frames)[0, kept] + 0.5) / unit(*picture.shape)
        return DescribedPoints(points.float().numpy(), normalised(descriptors[0, kept]))

    def match(self, first: Sequence[DescribedPoints], second: Sequence[DescribedPoints]) -> Matches:
        """Match mutual nearest neighbours that pass the ratio test; K is the largest number of keypoints."""
        return mutual_matches(first, second, self.ratio)
