"""Information in a characteristic's code about its variety (shape, size, colour), beyond the label itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.data.interface import HasVariety
from ccvae_eval.evaluation.result_table import COLUMN, At, ResultTable, Undefined
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.model.interface import supports
from ccvae_eval.statistics.intervals import Resampled, estimate_from_draws, mean_over, undefined_estimate
from ccvae_eval.statistics.probes import Folds, HeldOutPredictions, cross_fitted_regression
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights

PARAMETER = "parameter"
CONSTANT = 1e-12
PERMUTATIONS = 20
"""Permutations of the codes for the chance level of ``beyond``."""


@dataclass(frozen=True, slots=True, eq=False)
class VarietySample:
    """Variety parameters and codes of one characteristic, with within-class means subtracted.

    Args:
        names: names of the parameters.
        parameters: shape (N, V), NaN where the image does not show the attribute.
        codes: in the characteristic's latent dimensions, shape (N, d).
        columns: the characteristic's latent dimensions.
        n: number of images that show the attribute.
    """

    names: tuple[str, ...]
    parameters: Floats
    codes: Floats
    columns: tuple[int, ...]
    n: int


def variety_sample(subject: Subject, name: str, own: Floats, least: int) -> VarietySample | None:
    """Return codes and variety parameters of the images that show the attribute.

    All classes of a categorical label show it. Within-class means are subtracted, so that the label itself explains
    nothing. None for a continuous label, and for data without variety parameters.
    """
    data = subject.data
    label = subject.schema[name]
    if not supports(data, HasVariety) or name not in data.schema or label.kind == "continuous":
        return None
    names = data.variety_names(name)
    if not names:
        return None
    classes = subject.classes(name).numpy()
    shows: Bools = classes == 1 if label.kind == "binary" else classes >= 0
    parameters = np.where(shows[:, None], data.variety(subject.ids, name), np.nan)
    own = own.copy()
    for k in np.unique(classes[shows]):
        members = classes == k
        if int(members.sum()) < least:
            parameters[members] = np.nan
            continue
        parameters[members] -= parameters[members].mean(axis=0)
        own[members] -= own[members].mean(axis=0)
    return VarietySample(names, parameters, own, subject.layout[name], int((~np.isnan(parameters[:, 0])).sum()))


def add_beyond(table: ResultTable, name: str, sample: VarietySample, folds: Folds, least: int, strength: float) -> None:
    """Add ``beyond`` and, for several latent dimensions, ``components`` with their D and C."""
    if sample.n < least:
        table.add("beyond", name, Undefined(f"only {sample.n} images show it, {least} are needed"))
        return
    rows = ~np.isnan(sample.parameters[:, 0])
    found = _fitted(sample.codes, sample.parameters, folds, rows, strength)
    chance = _chance(table, sample, folds, rows, strength)
    parts = []
    for v, parameter in enumerate(sample.names):
        parts.append(found.r2(v, table.weights))
        table.add("beyond", name, parts[-1], {PARAMETER: parameter}, mean_at=None, chance=float(chance[v]))
    table.add("beyond", name, mean_over(parts, table.weights.level), chance=float(chance.mean()))
    if sample.codes.shape[1] > 1:
        _add_components(table, name, sample, folds, rows, strength)


def _chance(table: ResultTable, sample: VarietySample, folds: Folds, rows: Bools, strength: float) -> Floats:
    """Return the mean R2 of each parameter from permuted codes, shape (V,).

    The level is negative, about minus the number of latent dimensions over the number of images. R2 is relative to the
    mean of the other folds, as in ``HeldOutPredictions.r2``.
    """
    parts = []
    codes, parameters = sample.codes[rows], sample.parameters[rows]
    generator = numpy_stream(table.weights.seed, "beyond/chance", table.metric.name)
    for _ in range(PERMUTATIONS):
        order = generator.permutation(len(codes))
        held_out = cross_fitted_regression(codes[order], parameters, folds[rows], strength=strength)
        residual = ((parameters - held_out.predicted) ** 2).sum(axis=0)
        total = ((parameters - held_out.baseline) ** 2).sum(axis=0)
        parts.append(1 - safe_ratio(residual, total))
    return np.asarray(np.mean(parts, axis=0))


def _fitted(codes: Floats, parameters: Floats, folds: Folds, rows: Bools, strength: float) -> HeldOutPredictions:
    """Return held-out predictions for the images that show the attribute, NaN for all others."""
    inside = cross_fitted_regression(codes[rows], parameters[rows], folds[rows], strength=strength)
    spread = np.full((3, *parameters.shape), np.nan)
    spread[:, rows] = inside.targets, inside.predicted, inside.baseline
    return HeldOutPredictions(*spread)


def _add_components(
    table: ResultTable, name: str, sample: VarietySample, folds: Folds, rows: Bools, strength: float
) -> None:
    cells: list[list[Resampled]] = []
    for index, column in enumerate(sample.columns):
        found = _fitted(sample.codes[:, [index]], sample.parameters, folds, rows, strength)
        cells.append([found.r2(v, table.weights) for v in range(len(sample.names))])
        for parameter, cell in zip(sample.names, cells[-1], strict=True):
            at: At = {COLUMN: column, PARAMETER: parameter}
            table.add("components", name, cell, at, mean_at=None, chance=0.0)
    for value, axis in (("components_d", 1), ("components_c", 0)):
        table.add(value, name, _concentration(cells, axis, sample.n, table.weights))


def _concentration(cells: list[list[Resampled]], axis: int, n: int, weights: ResampleWeights) -> Resampled:
    """Return D (axis 1) or C (axis 0) of a matrix of R2, with its resamples."""
    if len(cells[0] if axis == 1 else cells) < 2:
        return undefined_estimate(weights.draws, "one parameter" if axis == 1 else "one latent dimension", n)
    if not all(cell.defined for row in cells for cell in row):
        return undefined_estimate(weights.draws, "a constant parameter", n)
    point = np.array([[[cell.value for cell in row] for row in cells]])
    draws = np.moveaxis(np.array([[cell.draws for cell in row] for row in cells]), 2, 0)
    return estimate_from_draws(float(concentration(point, axis)[0]), concentration(draws, axis), n, weights.level)


def concentration(importance: Floats, axis: int) -> Floats:
    r"""Return D or C of Eastwood and Williams (2018): concentration of a matrix along an axis, weighted by sums.

    .. math:: D = \sum_j \frac{R_j}{\sum R} \Big(1 + \sum_k p_{jk} \log_K p_{jk}\Big), \quad p_{jk} = R_{jk} / R_j

    Args:
        importance: shape :math:`(B, d, V)`; negative entries count as 0.
        axis: 1 = D, each latent dimension over the V parameters; 0 = C, each parameter over the d latent dimensions.

    Returns:
        Shape :math:`(B,)`, in [0, 1]; NaN where the whole matrix is 0.

    >>> concentration(np.eye(2)[None], 1), concentration(np.ones((1, 2, 2)), 0)
    (array([1.]), array([0.]))
    """
    table = np.clip(importance, 0.0, None)
    table = table if axis == 1 else table.transpose(0, 2, 1)
    sums = table.sum(axis=2)
    share = table / np.where(sums > CONSTANT, sums, 1.0)[:, :, None]
    logs = np.log(np.where(share > 0, share, 1.0)) / np.log(table.shape[2])
    each = 1 + (share * logs).sum(axis=2)
    whole = sums.sum(axis=1)
    return safe_ratio((each * sums).sum(axis=1), whole, above=CONSTANT)
