"""Expected values on perturbed oracles, in closed form or as expectations over the distribution of the codes.

Each function returns the expected value at every position along a perturbation, NaN where it is unknown. They share no
code with the metrics except the perturbations themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtr, softmax
from sklearn.metrics import mutual_info_score

from ccvae_eval.calibration.code_faults import characteristic_pairs, noisy_log_posterior
from ccvae_eval.calibration.decoder_faults import Wobbling, permuted_points, ramp
from ccvae_eval.calibration.study_cells import Case, reading_of
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.oracle.model import MEAN, SPREAD
from ccvae_eval.statistics.ratios import class_frequencies

SAMPLES = 200_000
"""Samples behind a Monte Carlo expectation."""


ExpectedValues = Callable[[Case], Floats]


def _shuffled_auc(case: Case) -> Floats:
    """1 - p/2: ROC area of separated classes with a share p of random codes."""
    return np.asarray(1 - case.positions / 2)


def _rotated_auc(degrees: Floats) -> Floats:
    r"""ROC area of a label in the other latent dimension of a rotated pair.

    .. math:: \Phi(d / \sqrt2), \quad d = 2 m \sin\theta / s
    """
    return np.asarray(ndtr(2 * MEAN * np.sin(np.radians(degrees)) / SPREAD / math.sqrt(2)))


def _cross_auc(case: Case) -> Floats:
    """ROC area of the optimal probe: within a class of i, its dimension encodes the partner's label and no other."""
    layout, names = case.subject.layout, case.names
    binary = [name for name in names if case.subject.schema[name].kind == "binary"]
    partners = 2 * len(characteristic_pairs(layout, binary))
    excess = _rotated_auc(case.strengths) - 0.5
    return np.asarray(0.5 + excess * partners / len(names) / (len(names) - 1))


def _binary_shares(case: Case) -> dict[str, float]:
    """Share of the images with each binary label."""
    names = case.cells[0].characteristics
    binary = [name for name in names if case.subject.schema[name].kind == "binary"]
    return {name: float((case.subject.classes(name) == 1).double().mean()) for name in binary}


def _impurity(case: Case) -> Floats:
    """Distance of the areas of two rotated dimensions, each over a mixture of the other's label, to 1 and to 0.5.

    At the start it is the noise of the areas, which depends on the probes.
    """
    shares = list(_binary_shares(case).values())
    squares = 0.0
    for pair in zip(shares[::2], shares[1::2], strict=False):
        for p, perfect in ((q, known) for q in pair for known in (1.0, 0.5)):
            mixture = ((-1, p * (1 - p)), (0, p * p + (1 - p) ** 2), (1, p * (1 - p)))
            shift = 2 * MEAN * math.sqrt(0.5) / SPREAD / math.sqrt(2)
            squares += (sum(w * ndtr(shift * (1 + k)) for k, w in mixture) - perfect) ** 2
    return case.ends(math.nan, 2 / len(case.cells[0].characteristics) * math.sqrt(squares))


def _concept_leakage(case: Case) -> Floats:
    """Mean over samples of codes, rotated in pairs, on 20 bins of equal mass; the labels are independent."""
    shares, bins, n = list(_binary_shares(case).values()), 20, len(case.subject)
    count, ends = len(case.cells[0].characteristics), []
    for degrees in (0.0, 45.0):
        sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        means = []
        for repeat in range(10):
            generator = numpy_stream(repeat, "known/icl")
            codes = generator.standard_normal((n, count))
            codes[:, : len(shares)] *= SPREAD
            codes[:, : len(shares)] += MEAN * (2 * (generator.random((n, len(shares))) < shares) - 1)
            for a in range(0, len(shares) - 1, 2):
                codes[:, [a, a + 1]] = codes[:, [a, a + 1]] @ np.array([[cos, sin], [-sin, cos]])
            cells = codes.argsort(0).argsort(0) * bins // n
            pairs = [(i, j) for i in range(count) for j in range(i)]
            orders = [generator.permutation(n) for _ in range(5)]
            null = np.mean([mutual_info_score(cells[:, 0], cells[order, 1]) for order in orders])
            excess = [mutual_info_score(cells[:, i], cells[:, j]) - null for i, j in pairs]
            means.append(np.mean(np.maximum(excess, 0)) / math.log(bins))
        ends.append(float(np.mean(means)))
    return case.ends(*ends)


def _accuracy(case: Case) -> Floats:
    cardinalities = np.array([case.subject.schema[name].cardinality for name in case.names], dtype=np.float64)
    return np.asarray([1 - t * np.mean(1 - 1 / cardinalities) for t in case.positions])


def _error_rate(case: Case) -> Floats:
    return 1 - _accuracy(case)


def _calibration_error(case: Case) -> Floats:
    """E|stated - true| probability given the noisy observation; for several classes, of the predicted class."""
    found = []
    for name in case.names:
        k = case.subject.schema[name].cardinality
        shares = class_frequencies(case.subject.classes(name).numpy(), k)
        generator = numpy_stream(0, "temper/brute", name)
        classes = generator.choice(k, SAMPLES, p=shares)
        log_p = noisy_log_posterior(classes, generator.standard_normal((SAMPLES, k)), shares)
        true = softmax(log_p, axis=1)
        rows, predicted = np.arange(SAMPLES), np.full(SAMPLES, 1) if k == 2 else log_p.argmax(1)
        found.append([np.abs(softmax(t * log_p, axis=1) - true)[rows, predicted].mean() for t in case.strengths])
    curve = np.mean(found, axis=0)
    # at T = 1 the value is its bias for calibrated probabilities of this number of images
    return np.asarray([case.reference(), *curve[1:]])


def _evenness(case: Case) -> Floats:
    return np.array([_evenness_of(ramp(_points(case), 1 - s)) for s in case.strengths])


def _points(case: Case) -> Floats:
    return np.linspace(0, 1, getattr(case.metric, "steps", Wobbling.POINTS))


def _evenness_of(curve: Floats) -> float:
    steps = np.abs(np.diff(curve))
    return float(steps.mean() / steps.max())


def _monotone(case: Case) -> Floats:
    """Mean over random permutations of a share of the points of an even traversal."""
    generator = numpy_stream(0, "wobble/brute")
    found = []
    for share in case.strengths:
        orders = np.stack([permuted_points(float(share), generator, Wobbling.POINTS) for _ in range(SAMPLES // 20)])
        found.append(np.mean(np.abs(orders[:, -1] - orders[:, 0]) / np.abs(np.diff(orders, axis=1)).sum(1)))
    return np.array(found)


def _spread_score(case: Case) -> Floats:
    """Expectation of min(r, 1/r) for an estimated ratio r of 1: a folded standard error below 1; 0 at the end."""
    errors = [reading_of(case.tables[0], "spread_ratio", name).half_width / 1.96 for name in case.names]
    return case.ends(1 - math.sqrt(2 / math.pi) * float(np.nanmean(errors)), 0.0)


def _kept(case: Case) -> Floats:
    """A sample of another class changes every other label; a sample of the image's own class changes none."""
    ends = []
    for name in case.names:
        reference = reading_of(case.tables[0], case.row, name).reference
        binary = case.subject.schema[name].kind == "binary"
        ends.append(reference * float((case.subject.classes(name) == 1).double().mean()) if binary else 0.0)
    return case.ends(case.reference(), float(np.mean(ends)))


def _extra(case: Case) -> Floats:
    """Each of two rotated dimensions depends on its partner's label; unrotated ones on no foreign label."""
    return case.ends(0.0, 2.0 * (len(_binary_shares(case)) // 2))


CODES: Mapping[tuple[str, str, str], ExpectedValues] = {
    ("density", "auc", "shuffle"): _shuffled_auc,
    ("density", "overlap", "shuffle"): lambda case: case.ends(0.0, case.chance()),
    ("density", "js", "shuffle"): lambda case: case.ends(1.0, case.chance()),
    ("density", "beyond", "shuffle"): lambda case: case.ends(3 / math.pi, case.chance()),
    ("density", "prior_gap", "shift"): lambda case: case.ends(case.reference(), case.strengths[-1]),
    ("density", "cross_auc", "mix"): _cross_auc,
    ("measurement", "distance", "mix"): _extra,
    ("measurement", "extra", "mix"): _extra,
    ("measurement", "missing", "shuffle"): lambda case: case.ends(0.0, case.chance()),
    ("accuracy", "balanced_accuracy", "mislabel"): _accuracy,
    ("accuracy", "accuracy", "mislabel"): _accuracy,
    ("accuracy", "auc", "mislabel"): _shuffled_auc,
    ("accuracy", "brier", "mislabel"): _error_rate,
    ("accuracy", "calibration_error", "temper"): _calibration_error,
    ("locality", "evenness", "jump"): _evenness,
    ("locality", "monotone", "wobble"): _monotone,
    ("diversity", "spread", "collapse"): lambda case: case.ends(case.reference(), 0.0),
    ("diversity", "spread_ratio", "collapse"): lambda case: case.ends(1.0, 0.0),
    ("diversity", "spread_score", "collapse"): _spread_score,
    ("diversity", "kept", "leak"): _kept,
}
"""By (metric, value, perturbation)."""
TOGETHER: Mapping[tuple[str, str, str], ExpectedValues] = {
    ("density", "ois", "mix"): _impurity,
    ("density", "icl", "mix"): _concept_leakage,
}
"""Values of all characteristics together."""
