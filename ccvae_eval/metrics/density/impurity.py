r"""Leakage over all characteristics in one number: oracle impurity (OIS) and inter-concept leakage (ICL).

Both compare the codes with the labels themselves, so that the correlation of labels is no leakage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.evaluation.result_table import NO_OTHER_LABEL, ResultTable, Undefined
from ccvae_eval.metrics.shared.contrasts import Contrasts, mean_over_contrasts
from ccvae_eval.statistics.auc import auc_projection, projected_estimates
from ccvae_eval.statistics.information import Classes, equal_mass_bins, joint_entropies, robust_bins
from ccvae_eval.statistics.intervals import Resampled, centred_and_basic, estimate_from_draws
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.statistics.subsampling import MIN_SUBSAMPLE, RATE, subsampled

SUBSAMPLES = 100
BIAS_RATE = 0.5
"""The positive part of noise falls with the root of the number of images."""
SUBSAMPLE_SHUFFLES = 4
"""Permutations for the null of a subsample's size: their mean over the subsamples is subtracted."""

MAX_CELLS = 1 << 17
"""Cells of tables of counts that are filled together."""

Pair = tuple[str, str]


def add_oracle_impurity(
    table: ResultTable, names: Sequence[str], areas: Mapping[Pair, Resampled], contrasts: Mapping[str, Contrasts],
    classes: Mapping[str, Floats],
) -> None:  # fmt: skip
    r"""Add ``ois``, the distance of the areas of all labels from all codes to those from the labels themselves.

    .. math:: \frac{2}{K} \lVert A(z, y) - A(y, y) \rVert_F

    Args:
        table: receives the row.
        names: the K characteristics.
        areas: area of label j, predicted from the code of i over all images, by (i, j).
        contrasts: of each label.
        classes: class of each image by each label, shape (N,), NaN = missing.
    """
    pairs = [(i, j) for i in names for j in names]
    defined = len(names) > 1 and all(areas[pair].defined for pair in pairs)
    if not defined:
        table.add("ois", None, NO_OTHER_LABEL if len(names) < 2 else Undefined("an area is undefined"))
        return
    own = [_area_of_labels(classes[i], contrasts[j], table.weights) for i, j in pairs]
    # exact sums, which do not depend on the order of the characteristics
    value, chance = (
        2 / len(names) * float(np.sqrt(np.sort(np.square(parts)).sum()))
        for parts in (
            [areas[pair].value - known.value for pair, known in zip(pairs, own, strict=True)],
            [0.5 - known.value for known in own],
        )
    )
    off = np.stack([areas[pair].draws - known.draws for pair, known in zip(pairs, own, strict=True)])
    draws = 2 / len(names) * np.sqrt(np.sort(off**2, axis=0).sum(axis=0))
    n, level = min(areas[pair].estimate.n for pair in pairs), table.weights.level
    found = centred_and_basic(estimate_from_draws(value, draws, n, level, basic=True), level)
    table.add("ois", None, found, chance=chance)


def _area_of_labels(classes: Floats, contrasts: Contrasts, weights: ResampleWeights) -> Resampled:
    """Area of a label that a code of another label alone reaches: each image has the frequency in its class."""
    projections = []
    for target in contrasts.targets:
        known = ~(np.isnan(classes) | np.isnan(target))
        _, index = np.unique(classes[known], return_inverse=True)
        scores = np.full(len(target), np.nan)
        scores[known] = safe_ratio(np.bincount(index, target[known]), np.bincount(index))[index]
        projections.append(auc_projection(scores, target, least=1))
    return mean_over_contrasts(projected_estimates(projections, weights), weights.level)


def add_concept_leakage(
    table: ResultTable, views: Mapping[str, Sequence[Floats]], classes: Mapping[str, Floats], permutations: int
) -> None:
    r"""Add ``icl``, the information of codes about each other beyond that of their labels.

    .. math:: \frac{1}{K (K - 1)} \sum_{i \ne j} \max(0, N(z_i, z_j) - N(y_i, y_j)), \qquad
              N(a, b) = I(a; b) / \sqrt{H(a) H(b)}

    on equal-mass bins of the codes, with the correction of Miller and Madow, minus the mean over permutations.

    Args:
        table: receives the row.
        views: scores of each characteristic's code in one dimension, shape (N,) each, NaN = absent; several for a
            categorical label, over which information is averaged.
        classes: class of each image by each label, shape (N,), NaN = missing.
        permutations: for the null of information.
    """
    names, n = sorted(views), len(table.subject)
    if len(names) < 2:
        table.add("icl", None, NO_OTHER_LABEL)
        return
    bins = robust_bins(n)
    binned = [[_binned(view, bins) for view in views[name]] for name in names]
    labels = [[np.nan_to_num(classes[name], nan=-1).astype(np.int64)] for name in names]
    size, seed, every = int(n**RATE), table.weights.seed, np.arange(n)

    def leakage(rows: Ids, purpose: str, shuffles: int) -> float:
        """Mean excess over the pairs, on some rows."""
        orders = [numpy_stream(seed, purpose, k).permutation(len(rows)) for k in range(shuffles)]
        excess = np.subtract(_shared(binned, rows, orders), _shared(labels, rows, orders))
        return float(np.maximum(excess, 0.0).mean())

    value = leakage(every, "icl", permutations)
    if size < MIN_SUBSAMPLE:
        note = f"no interval: subsamples must have at least {MIN_SUBSAMPLE} images, got {size}"
        table.add("icl", None, Resampled(Estimate(value, n=n), np.full(table.weights.draws, np.nan), note))
        return
    drawn = (np.sort(numpy_stream(seed, "icl subsample", k).choice(n, size, replace=False)) for k in range(SUBSAMPLES))
    draws = np.array([leakage(rows, f"icl/{k}", SUBSAMPLE_SHUFFLES) for k, rows in enumerate(drawn)])
    found = subsampled(value, draws, size, n, table.weights.level, bias_rate=BIAS_RATE)
    # subsamples of a clipped value can all lie on one side of it
    low, high = min(found.estimate.low, value), max(found.estimate.high, value)
    table.add("icl", None, replace(found, estimate=replace(found.estimate, low=low, high=high)))


def _binned(view: Floats, bins: int) -> Classes:
    """Equal-mass bin of each image, -1 = absent."""
    present = ~np.isnan(view)
    found = np.full(len(view), -1, dtype=np.int64)
    found[present] = equal_mass_bins(view[present], bins)
    return found


def _shared(variables: Sequence[Sequence[Classes]], rows: Ids, orders: Sequence[Ids]) -> list[float]:
    """Normalised mutual information of each pair on some rows minus its mean under permutation.

    Args:
        variables: one or several views of each variable; the information of a pair is the mean over their views.
        rows: the images.
        orders: permutations of them; the second variable of a pair is permuted.
    """
    chosen = [[view[rows] for view in variable] for variable in variables]
    found = []
    for first, variable in enumerate(chosen):
        later = [view for other in chosen[first + 1 :] for view in other]
        columns = [view if order is None else view[order] for view in later for order in (None, *orders)]
        information = np.array([_normalised_information(one, columns) for one in variable])
        information = information.reshape(len(variable), len(later), 1 + len(orders)).mean(axis=0)
        excess = information[:, 0] - information[:, 1:].mean(axis=1)
        ends = np.cumsum([len(other) for other in chosen[first + 1 :]])
        found += [float(part.mean()) for part in np.split(excess, ends[:-1]) if len(part)]
    return found


def _normalised_information(first: Classes, others: Sequence[Classes]) -> Floats:
    """I / sqrt(H H) of a column of classes and each of some others, -1 = absent; 0 if either is constant."""
    found = [np.empty(0)]
    width, height = int(first.max()) + 1, max((int(other.max()) for other in others), default=0) + 1
    together = max(MAX_CELLS // max(width * height, len(first)), 1)
    for start in range(0, len(others), together):
        second = np.stack(others[start : start + together])
        tables = np.arange(len(second))[:, None] * width + first
        present = (first >= 0) & (second >= 0)
        counts = np.bincount((tables * height + second)[present], minlength=len(second) * width * height)
        one, other, both = joint_entropies(counts.reshape(len(second), width, height).astype(np.float64))
        scale = np.sqrt(np.maximum(one, 0.0) * np.maximum(other, 0.0))
        found.append(safe_ratio(one + other - both, scale, 0.0))  # scale is NaN without a common image
    return np.concatenate(found)
