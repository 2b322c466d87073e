"""ALIKED keypoints (Zhao et al. 2023) with weights that the user has.

Weights that the user has: a file by name and digest, read as data, never fetched.
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
from ccvae_eval.metrics.matchers.interface import LENGTH, DescribedPoints, Matches, mutual_matches

SHORTEST_DIGEST = 8


def verified_tensors(matcher: str, key: str, file: str, digest_key: str, digest: str) -> Mapping[str, Tensor]:
    """The tensors of a file of weights, if it is the one that was meant.

    Args:
        matcher: whose setting it is.
        key: the setting that names the file.
        file: the file; "" = none.
        digest_key: the setting that holds the digest.
        digest: the sha256 of the file, or its first eight digits or more.

    Raises:
        UsageError: no file, or no digest, is named.
        CheckpointError: the file cannot be read, or is another one.
    """
    if not file:
        raise UsageError(
            f"{matcher} needs weights",
            where=f"{matcher}.{key}",
            hint=f"Write {matcher},{key}=FILE,{digest_key}=DIGEST; none come with the package.",
        )
    bundle = read_bundle(Path(file))
    if len(digest) < SHORTEST_DIGEST:
        hint = f"This file's is {bundle.sha256}."
        raise UsageError(f"{matcher} needs the sha256 of its weights", where=f"{matcher}.{digest_key}", hint=hint)
    if not bundle.sha256.startswith(digest.lower()):
        why = f"their sha256 is {bundle.sha256}"
        raise CheckpointError("these are other weights than were asked for", where=file, why=why)
    return bundle.tensors


def with_weights(
    make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], model: str, where: str, derived: Set[str]
) -> nn.Module:
    """A network with the weights of a file, ready to evaluate.

    Args:
        make: makes the network, with weights that are replaced at once.
        tensors: the weights by name.
        model: whose weights they must be, for the message.
        where: the file.
        derived: names that the network works out by itself: the file need not have them.

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = make()
            found = network.load_state_dict(dict(tensors), strict=False)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"not the weights of {model}", where=where, why=str(error)) from None
    missing = set(found.missing_keys) - derived
    if missing or found.unexpected_keys:
        odd = sorted([*missing, *found.unexpected_keys])[0]
        raise CheckpointError(f"not the weights of {model}", where=where, why=f"{odd} does not fit")
    return network.eval()


SMALLEST = 16
"""Pixels on the shorter side: smaller images have no keypoints."""

DERIVED = {"dkd.hw_grid"}
"""Not in the file: kornia works it out."""


@dataclass(frozen=True)
class AlikedMatcher:
    """ALIKED (Zhao, Wu, Chen, Chen, Xu and Lee 2023) as kornia computes it, matched as ``sift`` is.

    The package carries no weights of others and downloads none: name a file, and its sha256, so that a run says which
    weights its numbers rest on. The file is read like any checkpoint: nothing in it is executed. Keypoints are those
    whose score exceeds ``threshold`` (the strongest K would be invented on a constant image). Images are brought to
    ``size`` pixels first and looked at one by one on the CPU, a few a second.

    A descriptor sees farther than ``guard``: the spill of this matcher is an upper bound.

    Args:
        weights: the file, as its authors publish it.
        sha256: of the file, or its first eight digits or more.
        model: the variant that the weights are of.
        threshold: the least score of a keypoint.
        size: pixels on the shorter side.
        ratio: the largest d1/d2 of a match.
        search: in 64ths of the shorter side: the loss of a lost point and of one found farther away.
        guard: in 64ths of the shorter side: how far from the region a point must lie to count as outside.
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
            UsageError: no file, or no digest, is named.
            CheckpointError: the file is another one, or holds other weights.
        """
        return with_weights(
            lambda: ALIKED(self.model, max_num_keypoints=-1, detection_threshold=self.threshold),
            self._tensors(), self.model, self.weights, DERIVED,
        )  # fmt: skip

    def _tensors(self) -> Mapping[str, Tensor]:
        return verified_tensors("aliked", "weights", self.weights, "sha256", self.sha256)

    def features(self, images: Images) -> list[DescribedPoints]:
        """Keypoints and descriptors of each image; a blank image has none."""
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
        described = found.descriptors.double().numpy()
        norms = np.linalg.norm(described, axis=1, keepdims=True)
        return DescribedPoints(points.float().numpy(), described / np.maximum(norms, 1e-12))

    def match(self, first: Sequence[DescribedPoints], second: Sequence[DescribedPoints]) -> Matches:
        """Mutual nearest neighbours that pass the ratio test; K is the greatest number of keypoints in the batch."""
        return mutual_matches(first, second, self.ratio)
