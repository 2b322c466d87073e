"""LightGlue (Lindenberger, Sarlin and Pollefeys 2023) on ALIKED keypoints, with weights that the user has."""

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

DESCRIBED = {"aliked-t16": 64, "aliked-n16": 128, "aliked-n16rot": 128, "aliked-n32": 128}
"""Numbers in a descriptor of each variant of ALIKED."""
DERIVED = {"confidence_thresholds"}
PUBLISHED = re.compile(r"^(self_attn|cross_attn)\.(\d+)")
"""How the authors' file names a layer; kornia's own network turns it round."""


@dataclass(frozen=True, slots=True, eq=False)
class LightGlueFeatures(DescribedPoints):
    """The keypoints of one image of some width and height, in pixels of the picture that was looked at."""

    width: int
    height: int

    def sides(self, size: int) -> dict[str, Tensor]:
        """One side of a pair, as kornia's network takes it."""
        pixels = torch.from_numpy(self.points) * (size / LENGTH) - 0.5
        return {
            "keypoints": pixels[None],
            "descriptors": torch.from_numpy(self.descriptors).float()[None],
            "image_size": torch.tensor([[self.width, self.height]]),
        }


class _Detector(AlikedMatcher):
    """ALIKED, whose file is named by settings of ``lightglue``."""

    def _tensors(self) -> Mapping[str, Tensor]:
        return verified_tensors("lightglue", "detector", self.weights, "detector_sha256", self.sha256)


@dataclass(frozen=True)
class LightGlueMatcher:
    """LightGlue as kornia computes it, on the keypoints of ``aliked``.

    The package carries no weights of others and downloads none: name the two files, LightGlue's and ALIKED's, and their
    sha256. Both are read like any checkpoint: nothing in them is executed. A match is what the network says it is, and
    its confidence the network's. All layers run, on all points: what a pair gives does not depend on which others there
    are. Images are looked at one by one on the CPU, pairs as well.

    The network sees all keypoints of both images, so a change inside a region may cost a match outside it: the spill of
    this matcher is an upper bound.

    Args:
        weights: LightGlue's file for ALIKED, as its authors publish it.
        sha256: of that file, or its first eight digits or more.
        detector: ALIKED's file.
        detector_sha256: of that file.
        model: the variant of ALIKED that ``weights`` were trained for.
        threshold: the least score of a keypoint.
        size: pixels on the shorter side.
        sure: the least confidence of a match.
        search: in 64ths of the shorter side: the loss of a lost point and of one found farther away.
        guard: in 64ths of the shorter side: how far from the region a point must lie to count as outside.
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
            UsageError: no file, or no digest, is named, or there is no such variant of ALIKED.
            CheckpointError: the file is another one, or holds other weights.
        """
        if self.model not in DESCRIBED:
            known = ", ".join(DESCRIBED)
            raise UsageError(
                f"{self.model!r} is no variant of ALIKED", where="lightglue.model", hint=f"One of {known}."
            )
        tensors = verified_tensors(self.name, "weights", self.weights, "sha256", self.sha256)
        named = {PUBLISHED.sub(r"transformers.\2.\1", name): tensor for name, tensor in tensors.items()}
        return with_weights(self._made, named, f"LightGlue for {self.model}", self.weights, DERIVED)

    def _made(self) -> LightGlue:
        return LightGlue(
            None,  # type: ignore[arg-type]  # by a name kornia would fetch weights; None is documented, not annotated
            input_dim=DESCRIBED[self.model], filter_threshold=self.sure,
            depth_confidence=-1, width_confidence=-1, flash=False,
        )  # fmt: skip

    @cached_property
    def aliked(self) -> AlikedMatcher:
        """Who finds the keypoints."""
        return _Detector(self.detector, self.detector_sha256, self.model, self.threshold, self.size)

    def features(self, images: Images) -> list[LightGlueFeatures]:
        """Keypoints and descriptors of each image; a blank image has none."""
        _ = self.network  # what is wrong with its file is said before any image is looked at
        scale = self.size / min(images.shape[2:])
        height, width = (max(round(edge * scale), 1) for edge in images.shape[2:])
        return [LightGlueFeatures(f.points, f.descriptors, width, height) for f in self.aliked.features(images)]

    def match(self, first: Sequence[LightGlueFeatures], second: Sequence[LightGlueFeatures]) -> Matches:
        """What the network takes for the same point; K is the greatest number of keypoints in the batch."""
        return matches_of(first, second, self._partners)

    def _partners(self, one: DescribedPoints, other: DescribedPoints) -> Partners:
        assert isinstance(one, LightGlueFeatures)
        assert isinstance(other, LightGlueFeatures)
        with torch.no_grad():
            found = self.network({"image0": one.sides(self.size), "image1": other.sides(self.size)})
        return found["matches0"][0].numpy(), np.asarray(found["matching_scores0"][0].double().numpy())
