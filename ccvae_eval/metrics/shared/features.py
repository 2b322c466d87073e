"""Features fitted to variety: how thick the glasses are, how wide the smile is, as a regression reads it.

A descriptor of images, trained on none: mean colours and oriented edges of the squares of a lattice.

What images are compared by, other than pixel by pixel: a descriptor of ours, or an extractor of the user's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.errors import PluginError, UnsupportedError, UsageError, suggestion
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import DataSet, HasVariety
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.matchers.interface import grey
from ccvae_eval.plugins.registry import Registry
from ccvae_eval.statistics.threads import one_thread


@dataclass(frozen=True)
class HogFeatures:
    """Mean colour and oriented edges of the squares of a lattice: for any images, trained on none.

    As in histograms of oriented gradients (Dalal and Triggs 2005): each pixel's slope counts for the two nearest of
    ``bins`` directions, by its size; sums are over squares, and roots are taken so that strong edges do not outweigh
    all else. Blind to where in a square something lies, so that a small shift counts less than with pixels.

    Args:
        squares: of the lattice on a side.
        bins: directions between 0 and 180 degrees.

    >>> HogFeatures().features(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 704])
    """

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


IMAGES = 8192
"""Images that are learnt from, of the split ``judge``: no metric measures on those unless it is told to."""
EVERY = 4
"""One in so many of them is held out, to see what can be read at all."""
AT_ONCE = 256
SQUARES = 16
"""On a side, of which the mean colours are looked at."""
STRENGTH = 100.0
"""Of the ridge penalty. (Measured on ``faces`` at 64 pixels: from 30 to 300 an R2 differs by some hundredths.)"""
LEAST = 0.3
"""The least R2, on held-out images, of a parameter that becomes a feature: any other is noise, which a division by
its own deviation would make as large as the rest."""
FEWEST = 50
"""Images that show a characteristic, below which its variety is not fitted."""


@dataclass(frozen=True, eq=False)
class VarietyFeatures:
    """The variety parameters of all characteristics, each as a ridge regression reads it from a picture.

    Args:
        r2: by ``characteristic.parameter``, the share of its variance that is read on held-out images; V of them.
        slopes: shape (F, V), float64.
        intercepts: shape (V,), float64.
    """

    r2: dict[str, float]
    slopes: Tensor
    intercepts: Tensor

    def features(self, images: Images) -> Tensor:
        r"""The parameters as they are read, shape :math:`(N, V)`, float64, on the CPU.

        Of a characteristic that does not show: whatever the regression makes of the picture.
        """
        seen = looked_at(images)
        # no matrix product: a row's bits would depend on its place in the batch
        return torch.stack([(seen * slope).sum(1) for slope in self.slopes.T], 1) + self.intercepts


def looked_at(images: Images) -> Tensor:
    r"""What a regression sees: mean colours of 16 x 16 squares, and edges; shape :math:`(N, F)`, float64."""
    colours = functional.adaptive_avg_pool2d(images, SQUARES).flatten(1)
    return torch.cat([colours, HogFeatures().features(images)], 1).double().cpu()


def variety_features(data: DataSet) -> VarietyFeatures:
    r"""Regressions of each variety parameter on pictures, in closed form and so the same on every run.

    Each is fitted to the images in which its characteristic shows (a categorical one: all its classes together), by
    :math:`\min_w |v - X w - b|^2 + 100 |w|^2` with standardised columns of X. What it reads on images held out decides
    whether it becomes a feature. Some ten seconds on one core, once in a process.

    Args:
        data: drawn images; their split ``judge`` is learnt from.

    Raises:
        UnsupportedError: the data do not know what varies in them, or nothing of it can be read.
    """
    return _fitted(_Source(data.digest, data))


@dataclass(frozen=True, slots=True)
class _Source:
    """Data by their digest: the same one, the same regressions."""

    digest: str
    data: DataSet = field(compare=False)


@lru_cache(maxsize=2)
def _fitted(source: _Source) -> VarietyFeatures:
    data = source.data
    if not isinstance(data, HasVariety):
        raise UnsupportedError("features of variety need drawn images, which know their variety", where=data.spec)
    ids = data.split("judge")[:IMAGES]
    blocks = [ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)]
    seen = torch.cat([looked_at(data.batch(block).images) for block in blocks]).numpy() if blocks else np.empty((0, 0))
    labels, learns = data.labels_of(ids), np.arange(len(ids)) % EVERY != 0
    r2: dict[str, float] = {}
    columns = []
    for label in data.schema:
        values, names = labels[:, data.schema.index(label.name)], data.variety_names(label.name)
        shows: Bools = values == 1 if label.kind == "binary" else ~np.isnan(values)
        if not names or label.kind == "continuous" or shows.sum() < FEWEST:
            continue
        parameters = data.variety(ids, label.name)
        fit = _ridge(seen[shows & learns], parameters[shows & learns])
        rest = shows & ~learns
        share = _explained(parameters[rest], seen[rest] @ fit[:-1] + fit[-1])
        for v in np.flatnonzero(share >= LEAST):
            r2[f"{label.name}.{names[v]}"] = float(share[v])
            columns.append(fit[:, v])
    if not columns:
        raise UnsupportedError("no variety can be read off these images", where=data.spec)
    fits = torch.from_numpy(np.stack(columns, 1))
    return VarietyFeatures(r2, fits[:-1], fits[-1])


def _ridge(points: Floats, targets: Floats) -> Floats:
    """Coefficients of the points as they are, and below them the intercepts, shape (F + 1, V)."""
    mean, deviation = points.mean(0), points.std(0)
    unit = np.where(deviation > 0, deviation, 1.0)
    x = (points - mean) / unit
    with one_thread():
        found = np.linalg.solve(x.T @ x + STRENGTH * np.eye(x.shape[1]), x.T @ (targets - targets.mean(0)))
    slopes = found / unit[:, None]
    return np.concatenate([slopes, (targets.mean(0) - mean @ slopes)[None]])


def _explained(targets: Floats, told: Floats) -> Floats:
    """The share of each target's variance that is told, shape (V,); that of a constant one is 0."""
    variance = targets.var(0)
    left = np.square(targets - told).mean(0)
    return np.where(variance > 0, 1 - left / np.where(variance > 0, variance, 1.0), 0.0)


PROBED = 2
EDGES, VARIETY = "edges", "variety"
OURS = (EDGES, VARIETY)

extractors = Registry("features")


@runtime_checkable
class Features(Protocol):
    """An extractor: made without arguments, registered in the group ``features`` (a plugin file or an entry point).

    It must be pure: the same images, the same numbers in every bit, whatever the batch (it sees 32 rows at a time).
    """

    def features(self, images: Images) -> Tensor:
        r"""One vector for each image, shape :math:`(N, F)`; images are :math:`(N, C, H, W)` in [0, 1]."""
        ...


def require_features(name: str, others: Collection[str], where: str) -> None:
    """Refuses a name before anything is measured.

    Raises:
        UsageError: it is none of ``others``, none of ours and no registered extractor.
    """
    known = (*others, *OURS, *extractors)
    if name not in known and name not in extractors:
        raise UsageError(f"features {name!r} are unknown", where=where, hint=suggestion(name, filter(None, known)))


def extractor_named(name: str, subject: Subject) -> Features:
    """Our descriptor, regressions on the variety of the subject's data, or a registered extractor.

    Raises:
        UsageError: an unknown name.
        UnsupportedError: "variety", of data that do not know theirs.
        PluginError: an extractor that does not give one vector of numbers for each image.
    """
    if name == EDGES:
        return HogFeatures()
    if name == VARIETY:
        return variety_features(subject.data)
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
