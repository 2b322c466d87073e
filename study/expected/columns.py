"""Expected scores of a characteristic's latent dimensions, simulated with scikit-learn and SciPy.

Codes are sampled from the oracle's distribution for the measured labels; expected values are means over ``REPEATS``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtr
from scipy.stats import truncnorm, wasserstein_distance
from sklearn.linear_model import LinearRegression, LogisticRegression

from ccvae_eval.calibration.study_cells import Case
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.oracle.model import MEAN, REACH, SPREAD, Block
from study.expected.known import ExpectedValues

REPEATS, FOLDS = 3, 5
MORE_REPEATS = 10
"""Repeats for scores whose variance between samples of codes is as large as that of the metric."""
MOST_COLUMNS = 5
"""Most latent dimensions for nearest neighbours; with more, they use a linear score."""

IntArray = NDArray[np.int64]


def _drawn(block: Block, classes: IntArray, generator: np.random.Generator) -> Floats:
    """Sampled codes of one characteristic, shape (N, D): u around its class mean, variety standard normal."""
    means = block.means()[classes]
    noise = truncnorm.rvs(-REACH, REACH, size=means.shape, random_state=generator)
    return np.concatenate([means + SPREAD * noise, generator.standard_normal((len(classes), len(block.variety)))], 1)


def _held_out(points: Floats, target: IntArray, folds: IntArray) -> Floats:
    """Cross-validated scores of a logistic regression, without intercept."""
    scores = np.empty(len(points))
    for fold in range(FOLDS):
        inside = folds != fold
        probe = LogisticRegression(max_iter=1000, tol=1e-8).fit(points[inside], target[inside])
        scores[~inside] = points[~inside] @ probe.coef_[0]
    return scores


def _neighbours(points: Floats, target: IntArray, k: int, generator: np.random.Generator) -> float:
    """Nearest-neighbour KL divergence of two classes of equal size, mean of both directions."""
    size = min(int(target.sum()), int((1 - target).sum()))
    one, other = (points[generator.permutation(np.flatnonzero(target == v))[:size]] for v in (1, 0))
    pooled = np.sqrt((points[target == 1].var(0, ddof=1) + points[target == 0].var(0, ddof=1)) / 2)
    one, other = one / pooled, other / pooled
    found = []
    for these, those in ((one, other), (other, one)):
        near, far = (
            np.asarray(cKDTree(tree).query(these, [place])[0])[:, 0] for tree, place in ((these, k + 1), (those, k))
        )
        found.append(math.log(size / (size - 1)) + points.shape[1] * float(np.log(far / near).mean()))
    return float(np.mean(found))


@lru_cache(maxsize=64)
def separation(block: Block, labels: bytes, k: int) -> Mapping[str, float]:
    """dprime, wasserstein, knn_kl and knn_kl_excess of the oracle's codes, mean over classes and ``MORE_REPEATS``.

    Args:
        block: the latent dimensions of the characteristic.
        labels: classes of the images, int64, as bytes.
        k: number of the neighbour.
    """
    classes = np.frombuffer(labels, np.int64)
    found: dict[str, list[float]] = {}
    binary = block.label.kind == "binary"
    for repeat in range(MORE_REPEATS):
        generator = numpy_stream(repeat, "columns", block.label.name)
        codes = _drawn(block, classes, generator)
        points = (codes - codes.mean(0)) / codes.std(0)
        folds = generator.permutation(np.arange(len(codes)) % FOLDS)
        for value in (1,) if binary else range(block.label.cardinality):
            target = (classes == value).astype(np.int64)
            scores = _held_out(points, target, folds)
            there, absent = scores[target == 1], scores[target == 0]
            apart = abs(there.mean() - absent.mean())
            many = codes.shape[1] > MOST_COLUMNS
            points_for_knn = scores[:, None] if many else codes
            divergence = _neighbours(points_for_knn, target, k, generator)
            null = _neighbours(points_for_knn, generator.permutation(target), k, generator)
            scored = {
                "dprime": apart / math.sqrt((there.var(ddof=1) + absent.var(ddof=1)) / 2),
                "wasserstein": wasserstein_distance(there, absent),
                "knn_kl": divergence,
                "knn_kl_excess": divergence - null,
            }
            for name, score in scored.items():
                found.setdefault(name, []).append(float(score))
    return {name: float(np.mean(scores)) for name, scores in found.items()}


def _classes(case: Case, name: str) -> IntArray:
    return np.asarray(case.subject.classes(name).numpy(), dtype=np.int64)


def _block(case: Case, name: str) -> Block:
    return case.cells[0].context.references.block(name)


def _separation_ends(case: Case) -> Floats:
    """The oracle's codes, and chance."""
    k = getattr(case.metric, "neighbours", 5)
    first = [separation(_block(case, n), _classes(case, n).tobytes(), k)[case.value] for n in case.names]
    return case.ends(float(np.mean(first)), 0.0 if case.value.endswith("excess") else case.chance())


def _explained(code: Floats, parameter: Floats, folds: IntArray) -> float:
    """Cross-validated R2 of a linear regression."""
    predicted = np.empty(len(code))
    mean = np.empty(len(code))
    for fold in range(FOLDS):
        inside = folds != fold
        predicted[~inside] = LinearRegression().fit(code[inside, None], parameter[inside]).predict(code[~inside, None])
        mean[~inside] = parameter[inside].mean()
    return 1 - float(((parameter - predicted) ** 2).sum() / ((parameter - mean) ** 2).sum())


@lru_cache(maxsize=64)
def concentrated(block: Block, labels: bytes, degrees: float) -> Mapping[str, float]:
    """DCI's D and C of a block for its variety, with consecutive dimensions of the variety rotated."""
    classes = np.frombuffer(labels, np.int64)
    classes = classes[classes == 1] if block.label.kind == "binary" else classes
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found: dict[str, list[float]] = {"components_d": [], "components_c": []}
    for repeat in range(REPEATS):
        generator = numpy_stream(repeat, "columns/variety", block.label.name)
        codes = _drawn(block, classes, generator)
        first = len(block.shown)
        parameters = ndtr(codes[:, first:])
        for a in range(first, codes.shape[1] - 1, 2):
            one, other = codes[:, a].copy(), codes[:, a + 1].copy()
            codes[:, a], codes[:, a + 1] = cos * one - sin * other, sin * one + cos * other
        for k in np.unique(classes):
            here = classes == k
            codes[here] -= codes[here].mean(0)
            parameters[here] -= parameters[here].mean(0)
        folds = generator.permutation(np.arange(len(codes)) % FOLDS)
        table = np.array([[_explained(c, p, folds) for p in parameters.T] for c in codes.T]).clip(0)
        for value, rows in (("components_d", table), ("components_c", table.T)):
            share = rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)
            entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(1) / math.log(rows.shape[1])
            found[value].append(float(((1 - entropy) * rows.sum(1)).sum() / rows.sum()))
    return {value: float(np.mean(scores)) for value, scores in found.items()}


def _variety_ends(case: Case) -> Floats:
    found = [
        np.mean([concentrated(_block(case, n), _classes(case, n).tobytes(), float(t))[case.value] for n in case.names])
        for t in case.strengths[[0, -1]]
    ]
    return case.ends(*map(float, found))


def _style_auc(case: Case) -> Floats:
    """Area of probes trained on as many style dimensions and images as the metric's: see :func:`fitted_areas`."""
    blocks = [_block(case, name) for name in case.names]
    classes = np.stack([_classes(case, name) for name in case.names], axis=1)
    return np.array([fitted_areas(blocks, classes, len(case.subject.layout.style), t) for t in case.strengths])


def fitted_areas(blocks: Sequence[Block], classes: IntArray, columns: int, degrees: float) -> float:
    r"""Mean ROC area of linear probes of style, for labels whose first dimension is rotated into style.

    The metric's interval is conditional on probes trained on four fifths of the images, so the expected value is the
    area of such probes, not of the optimal one. Each probe is trained on sampled codes; style is normal, so its area
    follows from its weights:

    .. math:: \Phi(2 m w_1 \sin\theta / \sqrt{2 \sum_j w_j^2 v_j})

    with the variances v of the dimensions within a class. For a categorical label the first class's u is rotated; it
    distinguishes another class only from the images of the first class.

    Args:
        blocks: latent dimensions of the labels.
        classes: classes of the images, shape (N, labels).
        columns: number of style dimensions.
        degrees: angle by which each label's first dimension is rotated into a style dimension of its own.
    """
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    found: list[list[float]] = [[] for _ in blocks]
    for repeat in range(REPEATS):
        generator = numpy_stream(repeat, "columns/style")
        codes = generator.standard_normal((len(classes), columns))
        for place, block in enumerate(blocks):
            codes[:, place] = sin * _drawn(block, classes[:, place], generator)[:, 0] + cos * codes[:, place]
        train = generator.permutation(len(codes))[: len(codes) * (FOLDS - 1) // FOLDS]
        deviation = codes.std(0)
        for place, block in enumerate(blocks):
            own, binary = classes[:, place], block.label.kind == "binary"
            variances = deviation**2
            variances[place] = (SPREAD * sin) ** 2 + cos**2
            first = 1.0 if binary else float((own == 0).mean())
            for value in (1,) if binary else range(block.label.cardinality):
                probe = LogisticRegression(max_iter=1000).fit(codes[train] / deviation, own[train] == value)
                weights = probe.coef_[0] / deviation
                up = 1 if binary or value == 0 else -1
                area = ndtr(up * 2 * MEAN * sin * weights[place] / math.sqrt(2 * (weights**2 @ variances)))
                share = 1.0 if up > 0 else first / (1 - float((own == value).mean()))
                found[place].append(0.5 + (float(area) - 0.5) * share)
    return float(np.mean([np.mean(areas) for areas in found]))


def _style_divergence(case: Case) -> Floats:
    """0 for independent style; the divergence after rotation has no closed form."""
    return case.ends(0.0, math.nan)


COLUMNS: Mapping[tuple[str, str, str], ExpectedValues] = {
    ("density", "style_knn_kl", "seep"): _style_divergence,
    ("density", "style_auc", "seep"): _style_auc,
    **{
        ("density", value, "shuffle"): _separation_ends
        for value in ("dprime", "wasserstein", "knn_kl", "knn_kl_excess")
    },
    **{("density", value, "stir"): _variety_ends for value in ("components_d", "components_c")},
}
"""By (metric, value, perturbation)."""
