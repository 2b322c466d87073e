"""ALIKED keypoints (Zhao et al. 2023), and loading of weight files that the user provides.

A weight file is identified by its path and its sha256, read as data without executing it, and never downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from kornia.feature import ALIKED
from torch import Tensor, nn
from torch.nn import functional

from ccvae_eval.checkpoint import read_bundle
from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.core.types import Images
from ccvae_eval.metrics.matchers.interface import LENGTH, DescribedPoints, Matches, mutual_matches, normalised

SHORTEST_DIGEST = 8
"""Least number of hexadecimal digits of a sha256."""

SMALLEST = 16
"""Pixels on the shorter side below which an image has no keypoints."""

COMPUTED = {"dkd.hw_grid"}
"""Tensors that kornia computes itself and that the file lacks."""


def verified_tensors(matcher: str, key: str, file: str, digest_key: str, digest: str) -> Mapping[str, Tensor]:
    """Return the tensors of a weight file after checking its sha256.

    Args:
        matcher, key, digest_key: names of the matcher and of its settings for file and digest, for messages.
        file: path of the file; "" if none was given.
        digest: sha256 of the file, or at least its first eight digits.

    Raises:
        UsageError: if no file or no digest is given.
        CheckpointError: if the file cannot be read or has another sha256.
    """
    if not file:
        hint = f"Write {matcher},{key}=FILE,{digest_key}=DIGEST; the package contains no weights."
        raise UsageError(f"{matcher} needs weights", where=f"{matcher}.{key}", hint=hint)
    bundle = read_bundle(Path(file))
    if len(digest) < SHORTEST_DIGEST:
        hint = f"The sha256 of this file is {bundle.sha256}."
        raise UsageError(f"{matcher} needs the sha256 of its weights", where=f"{matcher}.{digest_key}", hint=hint)
    if not bundle.sha256.startswith(digest.lower()):
        why = f"its sha256 is {bundle.sha256}"
        raise CheckpointError(f"the file does not match {digest_key}={digest}", where=file, why=why)
    return bundle.tensors


def with_weights(
    make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], model: str, where: str, computed: Set[str]
) -> nn.Module:
    """Return a network with the given weights, in evaluation mode.

    Args:
        make: creates the network; its initial weights are replaced.
        tensors: the weights by name.
        model, where: name of the network and path of the weight file, for messages.
        computed: tensors that the network computes itself and that may be missing.

    Raises:
        CheckpointError: if a tensor is missing, unexpected or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = make()
            found = network.load_state_dict(dict(tensors), strict=False)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"not the weights of {model}", where=where, why=str(error)) from None
    missing = set(found.missing_keys) - computed
    if missing or found.unexpected_keys:
        name = sorted([*missing, *found.unexpected_keys])[0]
        why = f"tensor {name} is {'missing' if name in missing else 'unexpected'}"
        raise CheckpointError(f"not the weights of {model}", where=where, why=why)
    return network.eval()


@dataclass(frozen=True)
class AlikedMatcher:
    """ALIKED keypoints (Zhao, Wu, Chen, Chen, Xu and Lee 2023) by kornia, matched like those of ``sift``.

    The package contains no third-party weights and downloads none. Give a file and its sha256, which is recorded with
    the run. The file is read like any checkpoint: nothing in it is executed. Keypoints are points whose score exceeds
    ``threshold``, so a constant image has none. Images are resized and processed one by one on the CPU, a few per
    second.

    Descriptors depend on pixels farther away than ``guard``, so the spill of this matcher is an upper bound.

    Args:
        weights: weight file, as published by the authors.
        sha256: sha256 of the file, or at least its first eight digits.
        model: ALIKED variant of the weights.
        threshold: least score of a keypoint.
        size: pixels on the shorter side to which images are resized.
        ratio: largest ratio d1/d2 of a match.
        search: loss of a point that is lost or found farther away than this, in 64ths of the shorter side.
        guard: least distance from the region of a point that counts as outside, in 64ths of the shorter side.
    """

    name: ClassVar[str] = "aliked"
    bounded: ClassVar[bool] = False

    weights: str = ""
    sha256: str = ""
    model: str = "aliked-t16"
    threshold: float = 0.2
    size: int = 128
    ratio: float = 0.9
    search: float = 3.0
    guard: float = 8.0

    @cached_property
    def network(self) -> Any:
        """The network with the weights of the file.

        Raises:
            UsageError: if no file or no digest is given.
            CheckpointError: if the file has another sha256 or other weights.
        """
        return with_weights(
            lambda: ALIKED(self.model, max_num_keypoints=-1, detection_threshold=self.threshold),
            self._tensors(), self.model, self.weights, COMPUTED,
        )  # fmt: skip

    def _tensors(self) -> Mapping[str, Tensor]:
        return verified_tensors("aliked", "weights", self.weights, "sha256", self.sha256)

    def features(self, images: Images) -> list[DescribedPoints]:
        """Return the keypoints and descriptors of each image; a blank image has none."""
        return [self._features(image) for image in images.float().cpu()]

    def _features(self, image: Tensor) -> DescribedPoints:
        if min(image.shape[1:]) < SMALLEST:
            return DescribedPoints(np.empty((0, 2), np.float32), np.empty((0, 64)))
        shown = image if len(image) in (1, 3) else image.mean(0, keepdim=True)
        scale = self.size / min(image.shape[1:])
        edges = [max(round(edge * scale), 1) for edge in image.shape[1:]]
        picture = functional.interpolate(shown[None].expand(1, 3, -1, -1), edges, mode="bilinear", align_corners=False)
        with torch.no_grad():
            found = self.network(picture)[0]
        points = (found.keypoints + 0.5) * (LENGTH / self.size)
        return DescribedPoints(points.float().numpy(), normalised(found.descriptors))

    def match(self, first: Sequence[DescribedPoints], second: Sequence[DescribedPoints]) -> Matches:
        """Match mutual nearest neighbours that pass the ratio test; K is the largest number of keypoints."""
        return mutual_matches(first, second, self.ratio)
