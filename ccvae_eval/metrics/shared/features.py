"""Image features other than pixels: a built-in descriptor, regressions on variety, and extractors of plugins.

``edges`` is an untrained descriptor of mean colours and oriented edges. ``variety`` predicts the variety parameters of
drawn images (frame width of the glasses, width of the smile) by ridge regression. Plugins register further extractors.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.errors import PluginError, UnsupportedError, UsageError, suggestion
from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import DataSet, HasVariety
from ccvae_eval.evaluation.result_table import NO_JUDGE
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.judge import Judge
from ccvae_eval.metrics.matchers.interface import grey
from ccvae_eval.model.interface import supports
from ccvae_eval.plugins.attribution import CREATION, plugin_call
from ccvae_eval.plugins.registry import Registry
from ccvae_eval.statistics.ratios import safe_ratio

AUTO, JUDGED, PIXELS = OF_IMAGES = ("auto", "judge", "pixels")
"""Names of features of whole images: the judge's, pooled pixels, or the judge's if there is a judge, else pixels."""
POOLED = 8
"""Side of the grid to which images are average-pooled where pixels are the features."""
EDGES, VARIETY = "edges", "variety"
BUILTIN = (EDGES, VARIETY)

TRIAL_IMAGES = 2
"""Images on which a plugin's extractor is tried before it is used."""
FITTING_IMAGES = 8192
"""Images of the split ``judge`` that regressions are fitted to; metrics do not evaluate that split by default."""
HELD_OUT_EVERY = 4
"""One image in so many is held out, to find out which parameters can be predicted."""
BATCH = 256
COLOUR_CELLS = 16
"""Cells on a side whose mean colours enter the regressions."""
RIDGE_PENALTY = 100.0
LEAST_R2 = 0.3
"""Least held-out R2 of a parameter that becomes a feature. Below it a feature is mostly noise, which dividing by its
standard deviation would scale up to the size of the others."""
LEAST_IMAGES = 50
"""Least number of images that show a characteristic; with fewer, its variety parameters are not fitted."""

extractors = Registry("features")
_fitted: dict[str, VarietyFeatures] = {}
"""Regressions of each data set, by its digest."""


@runtime_checkable
class Features(Protocol):
    """A feature extractor, created without arguments and registered in the group ``features``.

    It must be pure: the same image gives the same bits, whatever the other images of its batch.
    """

    def features(self, images: Images) -> Tensor:
        r"""Return one vector for each image, shape :math:`(N, F)`; images are :math:`(N, C, H, W)` in [0, 1]."""
        ...


@dataclass(frozen=True)
class HogFeatures:
    """Mean colours and oriented edges of the cells of a grid; needs no training and suits any images.

    As in histograms of oriented gradients (Dalal and Triggs 2005), each pixel's gradient votes for the two nearest of
    ``bins`` directions with its magnitude. Votes are averaged over cells, and square roots keep strong edges from
    dominating. Positions within a cell are ignored, so a small shift changes the features less than the pixels.

    Args:
        squares: cells of the grid on a side.
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
        direction = torch.atan2(down, across) / torch.pi * self.bins
        centres = torch.arange(self.bins, device=images.device)[:, None, None]
        # distances on the circle of 180 degrees, in bins
        distance = torch.remainder(direction[:, None] - centres + self.bins / 2, self.bins) - self.bins / 2
        histogram = (1 - distance.abs()).clamp_min(0) * torch.hypot(across, down)[:, None]
        cells = functional.adaptive_avg_pool2d(torch.cat([images, histogram], 1), self.squares)
        colour, edges = cells[:, : images.shape[1]], cells[:, images.shape[1] :]
        return torch.cat([colour, edges.sqrt()], 1).flatten(1)


@dataclass(frozen=True, eq=False)
class VarietyFeatures:
    """The variety parameters of all characteristics, as ridge regressions predict them from an image.

    Args:
        r2: held-out R2 of each of the V parameters, by ``characteristic.parameter``.
        slopes: shape (F, V), float64.
        intercepts: shape (V,), float64.
    """

    r2: dict[str, float]
    slopes: Tensor
    intercepts: Tensor

    def features(self, images: Images) -> Tensor:
        r"""Return the predicted parameters, shape :math:`(N, V)`, float64, on the CPU.

        For a characteristic that an image does not show, the prediction is meaningless but defined.
        """
        inputs = regression_inputs(images)
        # no matrix product: its bits for one row could depend on the position in the batch
        return torch.stack([(inputs * slope).sum(1) for slope in self.slopes.T], 1) + self.intercepts


def regression_inputs(images: Images) -> Tensor:
    r"""Return the inputs of the regressions: mean colours of 16 x 16 cells, and edges; :math:`(N, F)`, float64."""
    colours = functional.adaptive_avg_pool2d(images, COLOUR_CELLS).flatten(1)
    return torch.cat([colours, HogFeatures().features(images)], 1).double().cpu()


def variety_features(data: DataSet) -> VarietyFeatures:
    r"""Fit a ridge regression of each variety parameter on images, in closed form.

    .. math:: \min_{w, b} |v - X w - b|^2 + 100 |w|^2

    with standardised columns of X, over the images that show the characteristic (of a categorical label: all classes
    together). Parameters with a held-out R2 of at least 0.3 become features. Fits are kept for the process.

    Args:
        data: drawn images; the regressions are fitted to their split ``judge``.

    Raises:
        UnsupportedError: if the data set has no variety parameters, or if none of them can be predicted.
    """
    if data.digest not in _fitted:
        _fitted[data.digest] = _fit(data)
    return _fitted[data.digest]


def _fit(data: DataSet) -> VarietyFeatures:
    if not supports(data, HasVariety):
        raise UnsupportedError("features='variety' needs drawn images with variety parameters", where=data.spec)
    ids = data.split("judge")[:FITTING_IMAGES]
    blocks = [ids[first : first + BATCH] for first in range(0, len(ids), BATCH)]
    inputs = [regression_inputs(data.batch(block).images) for block in blocks]
    points = torch.cat(inputs).numpy() if inputs else np.empty((0, 0))
    labels, training = data.labels_of(ids), np.arange(len(ids)) % HELD_OUT_EVERY != 0
    r2, columns = {}, []
    for label in data.schema:
        values, names = labels[:, data.schema.index(label.name)], data.variety_names(label.name)
        shows: Bools = values == 1 if label.kind == "binary" else ~np.isnan(values)
        if not names or label.kind == "continuous" or shows.sum() < LEAST_IMAGES:
            continue
        parameters = data.variety(ids, label.name)
        fit = _ridge(points[shows & training], parameters[shows & training])
        held_out = shows & ~training
        explained = _explained(parameters[held_out], points[held_out] @ fit[:-1] + fit[-1])
        for v in np.flatnonzero(explained >= LEAST_R2):
            r2[f"{label.name}.{names[v]}"] = float(explained[v])
            columns.append(fit[:, v])
    if not columns:
        raise UnsupportedError("no variety parameter can be predicted from these images", where=data.spec)
    fits = torch.from_numpy(np.stack(columns, 1))
    return VarietyFeatures(r2, fits[:-1], fits[-1])


def _ridge(points: Floats, targets: Floats) -> Floats:
    """Return the slopes for unstandardised inputs and, as the last row, the intercepts; shape (F + 1, V)."""
    mean, deviation = points.mean(0), points.std(0)
    unit = np.where(deviation > 0, deviation, 1.0)
    x = (points - mean) / unit
    with one_thread():
        found = np.linalg.solve(x.T @ x + RIDGE_PENALTY * np.eye(x.shape[1]), x.T @ (targets - targets.mean(0)))
    slopes = found / unit[:, None]
    return np.concatenate([slopes, (targets.mean(0) - mean @ slopes)[None]])


def _explained(targets: Floats, predicted: Floats) -> Floats:
    """Return the R2 of each target, shape (V,); 0 for a constant one."""
    variance = targets.var(0)
    residual = np.square(targets - predicted).mean(0)
    return 1 - safe_ratio(residual, variance, 1.0)


def require_features(name: str, others: Collection[str], where: str) -> None:
    """Check the name of features before anything is computed.

    Raises:
        UsageError: if it is neither in ``others`` nor built in nor a registered extractor.
    """
    known = (*others, *BUILTIN, *extractors)
    if name not in known and name not in extractors:
        raise UsageError(f"unknown features {name!r}", where=where, hint=suggestion(name, filter(None, known)))


def extractor_named(name: str, subject: Subject) -> Features:
    """Return a built-in or registered extractor.

    Raises:
        UsageError: if the name is unknown.
        UnsupportedError: for "variety", if the subject's data have no variety parameters.
        PluginError: if the extractor does not return one vector for each image.
    """
    if name == EDGES:
        return HogFeatures()
    if name == VARIETY:
        return variety_features(subject.data)
    entry, kind = extractors.find(name), extractors[name]
    with plugin_call(entry, "feature extractor", CREATION):
        made: Any = kind()
    where = f"features {name!r}"
    if not isinstance(made, Features):
        raise PluginError("an extractor must have a method features(images)", where=where)
    images = subject.data.batch(subject.ids[:TRIAL_IMAGES]).images.to(subject.device)
    with plugin_call(entry, "feature extractor", f"features(images), images of shape {tuple(images.shape)}"):
        found: Any = made.features(images)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        given = tuple(images.shape)
        raise PluginError(f"output for images of shape {given} must have shape (N, F), got {shape}", where=where)
    return made


class ImageFeatures:
    """Features of images, by which sets of images are compared.

    Args:
        name: judge, pixels, a built-in or registered extractor, or auto: the judge's if there is a judge, else pixels.
        subject: has the judge, and the images on which an extractor is tried.

    Attributes:
        name: of the features; never auto.
        undefined: the reason if there are none; "" otherwise.
    """

    def __init__(self, name: str, subject: Subject) -> None:
        judge = subject.judge if isinstance(subject.judge, Judge) else None
        self.name = name if name != AUTO else (PIXELS if judge is None else JUDGED)
        self.undefined = NO_JUDGE if self.name == JUDGED and judge is None else ""
        self._judge = judge
        self._extractor = None if self.name in OF_IMAGES else extractor_named(self.name, subject)

    def of(self, images: Images) -> Floats:
        """The features of some images, shape (N, F), float64."""
        if self._extractor is not None:
            with torch.no_grad():
                found: Tensor = self._extractor.features(images)
        elif self.name == JUDGED:
            assert self._judge is not None, self.undefined
            found = self._judge.features(images)
        else:
            # pooling is slower on a channels-last layout
            found = functional.adaptive_avg_pool2d(images.contiguous().double(), POOLED).flatten(1)
        return np.asarray(found.double().cpu().numpy())
