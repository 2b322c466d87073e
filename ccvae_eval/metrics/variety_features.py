"""Features fitted to variety: how thick the glasses are, how wide the smile is, as a regression reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.data.contract import DataSet, HasVariety
from ccvae_eval.errors import UnsupportedError
from ccvae_eval.metrics.edges import Edges
from ccvae_eval.statistics.threads import one_thread
from ccvae_eval.types import Bools, Floats, Images

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
    return torch.cat([colours, Edges().features(images)], 1).double().cpu()


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
