"""LightGlue (Lindenberger, Sarlin and Pollefeys 2023) on ALIKED keypoints, with weights that the user provides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from kornia.feature import LightGlue
from torch import Tensor

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Images
from ccvae_eval.metrics.matchers.aliked import AlikedMatcher, verified_tensors, with_weights
from ccvae_eval.metrics.matchers.interface import LENGTH, DescribedPoints, Matches, Partners, matches_of

DESCRIPTOR_SIZES = {"aliked-t16": 64, "aliked-n16": 128, "aliked-n16rot": 128, "aliked-n32": 128}
"""Descriptor size of each variant of ALIKED."""
COMPUTED = {"confidence_thresholds"}
"""Tensors that kornia computes itself and that the file lacks."""
PUBLISHED_LAYER = re.compile(r"^(self_attn|cross_attn)\.(\d+)")
"""Layer names in the authors' file; kornia's network puts the number first."""


@dataclass(frozen=True, slots=True, eq=False)
class LightGlueFeatures(DescribedPoints):
    """The keypoints of one image, and its width and height in pixels after resizing."""

    width: int
    height: int

    def network_input(self, size: int) -> dict[str, Tensor]:
        """Return one image of a pair in the form that kornia's network takes."""
        pixels = torch.from_numpy(self.points) * (size / LENGTH) - 0.5
        return {
            "keypoints": pixels[None],
            "descriptors": torch.from_numpy(self.descriptors).float()[None],
            "image_size": torch.tensor([[self.width, self.height]]),
        }


class _Detector(AlikedMatcher):
    """ALIKED with error messages that name the settings of ``lightglue``."""

    def _tensors(self) -> Mapping[str, Tensor]:
        return verified_tensors("lightglue", "detector", self.weights, "detector_sha256", self.sha256)


@dataclass(frozen=True)
class LightGlueMatcher:
    """LightGlue by kornia, on the keypoints of ``aliked``; matches and confidences are the network's.

    The package contains no third-party weights and downloads none. Give two files, LightGlue's and ALIKED's, and their
    sha256. Both are read like any checkpoint: nothing in them is executed. All layers run on all points, without early
    stopping or pruning, so the result for a pair does not depend on other pairs. Images and pairs are processed one by
    one on the CPU.

    The network uses all keypoints of both images, so a change inside a region can remove a match outside it: the spill
    of this matcher is an upper bound.

    Args:
        weights: LightGlue's weight file for ALIKED, as published by the authors.
        sha256: sha256 of that file, or at least its first eight digits.
        detector: ALIKED's weight file.
        detector_sha256: sha256 of that file, or at least its first eight digits.
        model: ALIKED variant that ``weights`` were trained for.
        threshold: least score of a keypoint.
        size: pixels on the shorter side to which images are resized.
        sure: least confidence of a match.
        search: loss of a point that is lost or found farther away than this, in 64ths of the shorter side.
        guard: least distance from the region of a point that counts as outside, in 64ths of the shorter side.
    """

    name: ClassVar[str] = "lightglue"
    bounded: ClassVar[bool] = False

    weights: str = ""
    sha256: str = ""
    detector: str = ""
    detector_sha256: str = ""
    model: str = "aliked-n16"
    threshold: float = 0.2
    size: int = 128
    sure: float = 0.1
    search: float = 3.0
    guard: float = 8.0

    @cached_property
    def network(self) -> Any:
        """The network with the weights of the file.

        Raises:
            UsageError: if no file or no digest is given, or if the ALIKED variant is unknown.
            CheckpointError: if the file has another sha256 or other weights.
        """
        if self.model not in DESCRIPTOR_SIZES:
            hint = f"One of {', '.join(DESCRIPTOR_SIZES)}."
            raise UsageError(f"unknown ALIKED variant {self.model!r}", where="lightglue.model", hint=hint)
        tensors = verified_tensors(self.name, "weights", self.weights, "sha256", self.sha256)
        named = {PUBLISHED_LAYER.sub(r"transformers.\2.\1", name): tensor for name, tensor in tensors.items()}
        return with_weights(self._create, named, f"LightGlue for {self.model}", self.weights, COMPUTED)

    def _create(self) -> LightGlue:
        return LightGlue(
            None,  # type: ignore[arg-type]  # None is documented; with a name kornia would download weights
            input_dim=DESCRIPTOR_SIZES[self.model], filter_threshold=self.sure,
            depth_confidence=-1, width_confidence=-1, flash=False,
        )  # fmt: skip

    @cached_property
    def aliked(self) -> AlikedMatcher:
        """The keypoint detector."""
        return _Detector(self.detector, self.detector_sha256, self.model, self.threshold, self.size)

    def features(self, images: Images) -> list[LightGlueFeatures]:
        """Return the keypoints and descriptors of each image; a blank image has none."""
        _ = self.network  # errors in its file are raised before any image is processed
        scale = self.size / min(images.shape[2:])
        height, width = (max(round(edge * scale), 1) for edge in images.shape[2:])
        return [LightGlueFeatures(f.points, f.descriptors, width, height) for f in self.aliked.features(images)]

    def match(self, first: Sequence[LightGlueFeatures], second: Sequence[LightGlueFeatures]) -> Matches:
        """Return the matches that the network finds; K is the largest number of keypoints in the batch."""
        return matches_of(first, second, self._partners)

    def _partners(self, one: DescribedPoints, other: DescribedPoints) -> Partners:
        assert isinstance(one, LightGlueFeatures)
        assert isinstance(other, LightGlueFeatures)
        with torch.no_grad():
            found = self.network({"image0": one.network_input(self.size), "image1": other.network_input(self.size)})
        return found["matches0"][0].numpy(), np.asarray(found["matching_scores0"][0].double().numpy())
