"""Does the code of a characteristic hold more than its label: the shape, size, colour of the glasses?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.data.interface import HasVariety
from ccvae_eval.evaluation.result_table import COLUMN, At, ResultTable
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.statistics.intervals import Resampled, mean_over, missing, resampled
from ccvae_eval.statistics.probes import Folds, HeldOutPredictions, cross_fitted_regression
from ccvae_eval.statistics.resampling import ResampleWeights

PARAMETER = "parameter"
CONSTANT = 1e-12
PERMUTATIONS = 20
"""Codes given to other images, behind the chance level of ``beyond``."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The variety of one characteristic where it shows.

    Args:
        names: of the parameters.
        parameters: shape (N, V), NaN where the attribute does not show; within-class means subtracted.
        codes: the characteristic's columns, shape (N, d), within-class means subtracted.
        n: images in which it shows.
    """

    names: tuple[str, ...]
    parameters: Floats
    codes: Floats
    n: int


def shown_variety(subject: Subject, name: str, codes: Floats, least: int) -> Shown | None:
    """Codes and variety parameters of the images that have the attribute, None where the data know of no variety.

    For a categorical label every class shows: codes and parameters are then taken within its classes, so that the
    label itself explains nothing.
    """
    data = subject.data
    label = subject.schema[name]
    if not isinstance(data, HasVariety) or name not in data.schema or label.kind == "continuous":
        return None
    names = data.variety_names(name)
    if not names:
        return None
    classes = subject.classes(name).numpy()
    shows: Bools = classes == 1 if label.kind == "binary" else classes >= 0
    parameters = np.where(shows[:, None], data.variety(subject.ids, name), np.nan)
    own = codes[:, list(subject.layout[name])].copy()
    for k in np.unique(classes[shows]):
        here = classes == k
        if int(here.sum()) < least:
            parameters[here] = np.nan
            continue
        parameters[here] -= parameters[here].mean(axis=0)
        own[here] -= own[here].mean(axis=0)
    return Shown(names, parameters, own, int((~np.isnan(parameters[:, 0])).sum()))


def enter_beyond(tally: ResultTable, name: str, shown: Shown, folds: Folds, least: int, strength: float) -> None:
    """``beyond`` and, for a block of several columns, ``components`` with their D and C."""
    if shown.n < least:
        tally.add("beyond", name, f"only {shown.n} images show it, {least} are needed")
        return
    rows = ~np.isnan(shown.parameters[:, 0])
    found = _fitted(shown.codes, shown.parameters, folds, rows, strength)
    chance = _chance(tally, shown, folds, rows, strength)
    parts = []
    for v, parameter in enumerate(shown.names):
        parts.append(found.r2(v, tally.weights))
        tally.add("beyond", name, parts[-1], {PARAMETER: parameter}, mean_at=None, chance=float(chance[v]))
    tally.add("beyond", name, mean_over(parts, tally.weights.level), chance=float(chance.mean()))
    if shown.codes.shape[1] > 1:
        _enter_components(tally, name, shown, folds, rows, strength)


def _chance(tally: ResultTable, shown: Shown, folds: Folds, rows: Bools, strength: float) -> Floats:
    """The R2 of each parameter from the codes of other images that show it, shape (V,): below 0, by about the number
    of columns over the number of images, since what is learnt from them is wrong. As ``HeldOutPredictions.r2`` has it, against
    the mean of the other folds (against the mean of all it is .003 less at 768 images)."""
    subject, parts = tally.subject, []
    codes, parameters = shown.codes[rows], shown.parameters[rows]
    generator = numpy_stream(subject.seed, "beyond/chance", tally.metric.name)
    for _ in range(PERMUTATIONS):
        order = generator.permutation(len(codes))
        told = cross_fitted_regression(codes[order], parameters, folds[rows], strength=strength)
        with np.errstate(divide="ignore", invalid="ignore"):
            left, total = ((parameters - told_by) ** 2 for told_by in (told.predicted, told.baseline))
            parts.append(1 - left.sum(axis=0) / total.sum(axis=0))
    return np.asarray(np.mean(parts, axis=0))


def _fitted(codes: Floats, parameters: Floats, folds: Folds, rows: Bools, strength: float) -> HeldOutPredictions:
    """Regressions on the images in which the attribute shows; all others are NaN."""
    inside = cross_fitted_regression(codes[rows], parameters[rows], folds[rows], strength=strength)
    spread = []
    for part in (inside.targets, inside.predicted, inside.baseline):
        whole = np.full(parameters.shape, np.nan)
        whole[rows] = part
        spread.append(whole)
    return HeldOutPredictions(*spread)


def _enter_components(tally: ResultTable, name: str, shown: Shown, folds: Folds, rows: Bools, strength: float) -> None:
    columns = tally.subject.layout[name]
    cells: list[list[Resampled]] = []
    for place, column in enumerate(columns):
        alone = _fitted(shown.codes[:, [place]], shown.parameters, folds, rows, strength)
        cells.append([alone.r2(v, tally.weights) for v in range(len(shown.names))])
        for parameter, cell in zip(shown.names, cells[-1], strict=True):
            at: At = {COLUMN: column, PARAMETER: parameter}
            tally.add("components", name, cell, at, mean_at=None, chance=0.0)
    for value, axis in (("components_d", 1), ("components_c", 0)):
        tally.add(value, name, _concentration(cells, axis, shown.n, tally.weights))


def _concentration(cells: list[list[Resampled]], axis: int, n: int, weights: ResampleWeights) -> Resampled:
    """Eastwood and Williams' D (axis 1: over parameters) or C (axis 0: over columns) of a matrix of R2."""
    if len(cells[0] if axis == 1 else cells) < 2:
        return missing(weights.draws, "one parameter" if axis == 1 else "one column", n)
    if not all(cell.defined for row in cells for cell in row):
        return missing(weights.draws, "a constant parameter", n)
    point = np.array([[[cell.value for cell in row] for row in cells]])
    draws = np.moveaxis(np.array([[cell.draws for cell in row] for row in cells]), 2, 0)
    return resampled(float(concentration(point, axis)[0]), concentration(draws, axis), n, weights.level)


def concentration(importance: Floats, axis: int) -> Floats:
    r"""How much each row (axis 1) or column (axis 0) of a matrix is concentrated in one place, weighted by its sum.

    .. math:: D = \sum_j \frac{R_j}{\sum R} \Big(1 + \sum_k p_{jk} \log_K p_{jk}\Big), \quad p_{jk} = R_{jk} / R_j

    Args:
        importance: shape :math:`(B, d, V)`; negative entries count as 0.
        axis: 1 = each row over the V parameters (D), 0 = each column over the d columns (C).

    Returns:
        shape :math:`(B,)`, in [0, 1]; NaN where the whole matrix is 0: nothing is held at all.

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
    weighted = (each * sums).sum(axis=1) / np.where(whole > CONSTANT, whole, 1.0)
    return np.where(whole > CONSTANT, weighted, np.nan)
