"""What images are compared by, other than pixel by pixel: a descriptor of ours, or an extractor of the user's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.errors import PluginError, UsageError, suggestion
from ccvae_eval.metrics.matchers.contract import grey
from ccvae_eval.registry import Registry
from ccvae_eval.subject import Subject
from ccvae_eval.types import Images

IMAGE_DIMENSIONS = 4
PROBED = 2
EDGES = "edges"

extractors = Registry("features")


@runtime_checkable
class Features(Protocol):
    """An extractor: made without arguments, registered in the group ``features`` (a plugin file or an entry point).

    It must be pure: the same images, the same numbers in every bit, whatever the batch (it sees 32 rows at a time).
    """

    def features(self, images: Images) -> Tensor:
        r"""One vector for each image, shape :math:`(N, F)`; images are :math:`(N, C, H, W)` in [0, 1]."""
        ...


@dataclass(frozen=True)
class Edges:
    """Mean colour and oriented edges of the squares of a lattice: for any images, trained on none.

    As in histograms of oriented gradients (Dalal and Triggs 2005): each pixel's slope counts for the two nearest of
    ``bins`` directions, by its size; sums are over squares, and roots are taken so that strong edges do not outweigh
    all else. Blind to where in a square something lies, so that a small shift counts less than with pixels.

    Args:
        squares: of the lattice on a side.
        bins: directions between 0 and 180 degrees.

    >>> Edges().features(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 704])
    """

    name: ClassVar[str] = EDGES

    squares: int = 8
    bins: int = 8

    def features(self, images: Images) -> Tensor:
        light = functional.pad(grey(images)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        across = (light[:, 1:-1, 2:] - light[:, 1:-1, :-2]) / 2
        down = (light[:, 2:, 1:-1] - light[:, :-2, 1:-1]) / 2
        place = torch.atan2(down, across) / torch.pi * self.bins
        centres = torch.arange(self.bins, device=images.device)[:, None, None]
        # how near each direction is, around the circle of 180 degrees
        apart = torch.remainder(place[:, None] - centres + self.bins / 2, self.bins) - self.bins / 2
        histogram = (1 - apart.abs()).clamp_min(0) * torch.hypot(across, down)[:, None]
        cells = functional.adaptive_avg_pool2d(torch.cat([images, histogram], 1), self.squares)
        colour, edges = cells[:, : images.shape[1]], cells[:, images.shape[1] :]
        return torch.cat([colour, edges.sqrt()], 1).flatten(1)


def require_features(name: str, others: Collection[str], where: str) -> None:
    """Refuses a name before anything is measured.

    Raises:
        UsageError: it is none of ``others``, not "edges" and no registered extractor.
    """
    known = (*others, EDGES, *extractors)
    if name not in known and name not in extractors:
        raise UsageError(f"features {name!r} are unknown", where=where, hint=suggestion(name, filter(None, known)))


def extractor_named(name: str, subject: Subject) -> Features:
    """Our descriptor, or a registered extractor.

    Raises:
        UsageError: an unknown name.
        PluginError: an extractor that does not give one vector of numbers for each image.
    """
    if name == EDGES:
        return Edges()
    made: Any = extractors[name]()
    where = f"features {name!r}"
    if not isinstance(made, Features):
        raise PluginError("an extractor has a method features(images)", where=where)
    images = subject.data.batch(subject.ids[:PROBED]).images.to(subject.device)
    found: Any = made.features(images)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise PluginError(f"features of {tuple(images.shape)} are {shape}, (N, F) is needed", where=where)
    return made
