"""What a characteristic's own columns must score, simulated from the oracle's law with scikit-learn and SciPy.

Codes are drawn for the labels of the images that were measured; what is known is the mean over ``REPEATS`` of them.
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
from ccvae_eval.oracle.code import MEAN, REACH, SPREAD, Block
from study.expected.known import Known

REPEATS, FOLDS = 3, 5
MORE_REPEATS = 10
"""Of what deviates as much from one set of codes to the next as it does within the metric's interval."""
MOST_COLUMNS = 5
"""Nearest neighbours look at no more: beyond, at a linear score."""

Whole = NDArray[np.int64]


def _drawn(block: Block, classes: Whole, generator: np.random.Generator) -> Floats:
    """Codes (N, columns) of one characteristic: u around the mean of its class, v standard normal."""
    means = block.means()[classes]
    noise = truncnorm.rvs(-REACH, REACH, size=means.shape, random_state=generator)
    return np.concatenate([means + SPREAD * noise, generator.standard_normal((len(classes), len(block.variety)))], 1)


def _held_out(points: Floats, target: Whole, folds: Whole) -> Floats:
    """Scores of a logistic regression on the images of the other folds, without its intercept."""
    scores = np.empty(len(points))
    for fold in range(FOLDS):
        inside = folds != fold
        reader = LogisticRegression(max_iter=1000, tol=1e-8).fit(points[inside], target[inside])
        scores[~inside] = points[~inside] @ reader.coef_[0]
    return scores


def _neighbours(points: Floats, target: Whole, k: int, generator: np.random.Generator) -> float:
    """The nearest-neighbour divergence of two classes of equal size, mean of both directions."""
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
    """dprime, wasserstein, knn_kl and knn_kl_excess of the oracle's columns, mean over the classes that are asked for.

    The mean over ``MORE_REPEATS``: knn_kl of three columns of 1,536 images deviates by .1 from one set to the next.

    Args:
        block: whose columns.
        labels: classes of the images, int64, as bytes.
        k: which neighbour.
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
            seen = scores[:, None] if many else codes
            told = _neighbours(seen, target, k, generator)
            null = _neighbours(seen, generator.permutation(target), k, generator)
            scored = {
                "dprime": apart / math.sqrt((there.var(ddof=1) + absent.var(ddof=1)) / 2),
                "wasserstein": wasserstein_distance(there, absent),
                "knn_kl": told,
                "knn_kl_excess": told - null,
            }
            for name, score in scored.items():
                found.setdefault(name, []).append(float(score))
    return {name: float(np.mean(scores)) for name, scores in found.items()}


def _classes(case: Case, name: str) -> Whole:
    return np.asarray(case.subject.classes(name).numpy(), dtype=np.int64)


def _block(case: Case, name: str) -> Block:
    return case.cells[0].bench.originals.block(name)


def _apart(case: Case) -> Floats:
    """The oracle's law; and chance."""
    k = getattr(case.metric, "neighbours", 5)
    first = [separation(_block(case, n), _classes(case, n).tobytes(), k)[case.value] for n in case.names]
    return case.ends(float(np.mean(first)), 0.0 if case.value.endswith("excess") else case.chance())


def _explained(code: Floats, parameter: Floats, folds: Whole) -> float:
    """Held-out R2 of a line."""
    told = np.empty(len(code))
    mean = np.empty(len(code))
    for fold in range(FOLDS):
        inside = folds != fold
        told[~inside] = LinearRegression().fit(code[inside, None], parameter[inside]).predict(code[~inside, None])
        mean[~inside] = parameter[inside].mean()
    return 1 - float(((parameter - told) ** 2).sum() / ((parameter - mean) ** 2).sum())


@lru_cache(maxsize=64)
def concentrated(block: Block, labels: bytes, degrees: float) -> Mapping[str, float]:
    """D and C of the columns of a block against its variety, the variety's columns turned two and two."""
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


def _stirred(case: Case) -> Floats:
    found = [
        np.mean([concentrated(_block(case, n), _classes(case, n).tobytes(), float(t))[case.value] for n in case.names])
        for t in case.strengths[[0, -1]]
    ]
    return case.ends(*map(float, found))


def _seeping(case: Case) -> Floats:
    """What readers score that were fitted to as many style columns of as many images: see :func:`fitted_areas`."""
    blocks = [_block(case, name) for name in case.names]
    classes = np.stack([_classes(case, name) for name in case.names], axis=1)
    return np.array([fitted_areas(blocks, classes, len(case.subject.layout.style), t) for t in case.strengths])


def fitted_areas(blocks: Sequence[Block], classes: Whole, columns: int, degrees: float) -> float:
    r"""Mean area that linear readers of style reach, for every label whose first column was turned into style.

    A metric's interval is conditional on readers that were fitted to four fifths of the images; what they score, not
    what the best reader would (.007 more of 21 columns of 1,536 images, and far outside what an interval allows for). A
    reader is fitted to drawn codes; its area follows from its weights, style being normal:

    .. math:: \Phi(2 m w_1 \sin\theta / \sqrt{2 \sum_j w_j^2 v_j})

    v are the columns' variances within a class. Of a categorical label the first class's u is turned; it tells the
    other classes as far as those of the rest that are the first class.

    Args:
        blocks: the labels.
        classes: of the images, shape (N, labels).
        columns: of style.
        degrees: by which each label's first column is turned into a style column of its own.
    """
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    found: list[list[float]] = [[] for _ in blocks]
    for repeat in range(REPEATS):
        generator = numpy_stream(repeat, "columns/style")
        codes = generator.standard_normal((len(classes), columns))
        for place, block in enumerate(blocks):
            codes[:, place] = sin * _drawn(block, classes[:, place], generator)[:, 0] + cos * codes[:, place]
        read = generator.permutation(len(codes))[: len(codes) * (FOLDS - 1) // FOLDS]
        deviation = codes.std(0)
        for place, block in enumerate(blocks):
            own, binary = classes[:, place], block.label.kind == "binary"
            variances = deviation**2
            variances[place] = (SPREAD * sin) ** 2 + cos**2
            first = 1.0 if binary else float((own == 0).mean())
            for value in (1,) if binary else range(block.label.cardinality):
                reader = LogisticRegression(max_iter=1000).fit(codes[read] / deviation, own[read] == value)
                weights = reader.coef_[0] / deviation
                up = 1 if binary or value == 0 else -1
                area = ndtr(up * 2 * MEAN * sin * weights[place] / math.sqrt(2 * (weights**2 @ variances)))
                told = 1.0 if up > 0 else first / (1 - float((own == value).mean()))
                found[place].append(0.5 + (float(area) - 0.5) * told)
    return float(np.mean([np.mean(areas) for areas in found]))


def _silent(case: Case) -> Floats:
    """Style of its own says nothing; how far turned labels lie apart in all of it has no closed form."""
    return case.ends(0.0, math.nan)


COLUMNS: Mapping[tuple[str, str, str], Known] = {
    ("density", "style_knn_kl", "seep"): _silent,
    ("density", "style_auc", "seep"): _seeping,
    **{("density", value, "shuffle"): _apart for value in ("dprime", "wasserstein", "knn_kl", "knn_kl_excess")},
    **{("density", value, "stir"): _stirred for value in ("components_d", "components_c")},
}
"""By (metric, value, dial)."""
