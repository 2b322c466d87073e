"""What values must be on the saboteurs: in closed form, or by brute force from the renderer.

Each function gives the known value at every position of a dial, NaN where it is not known. They share no code with
the metrics beyond the points of the path and the target classes; pictures come from the renderer, sums from NumPy,
average precision from scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtr, softmax

from ccvae_eval.calibration.code_faults import class_shares, own_pairs
from ccvae_eval.calibration.decoder_faults import Wobbling, ramp, wobbled
from ccvae_eval.calibration.prediction_faults import hazy
from ccvae_eval.calibration.study_cells import Case, reading_of
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.oracle.code import MEAN, SPREAD

BRUTE = 200_000
"""Draws of a brute-force expectation."""


Known = Callable[[Case], Floats]


def _area(case: Case) -> Floats:
    """Classes that lie apart, a share p of the codes at random: the area falls along a straight line."""
    return np.asarray(1 - case.positions / 2)


def _turned(degrees: Floats) -> Floats:
    r"""Area of a column in which a label's u, turned by an angle, lies beside another label's.

    .. math:: \Phi(d / \sqrt2), \quad d = 2 m \sin\theta / s
    """
    return np.asarray(ndtr(2 * MEAN * np.sin(np.radians(degrees)) / SPREAD / math.sqrt(2)))


def _cross(case: Case) -> Floats:
    """Within a class of i, its column tells its partner's label; nothing else tells anything.

    That is the best reader's area. One that is fitted to these few columns of 1,500 images misses it by some .001.
    """
    layout, names = case.subject.layout, case.names
    binary = [name for name in names if case.subject.schema[name].kind == "binary"]
    partners = 2 * len(own_pairs(layout, binary))
    told = _turned(case.strengths) - 0.5
    return np.asarray(0.5 + told * partners / len(names) / (len(names) - 1))


def _right(case: Case) -> Floats:
    return np.asarray([1 - t * np.mean(1 - 1 / case.cardinalities()) for t in case.positions])


def _wrong(case: Case) -> Floats:
    return 1 - _right(case)


def _uncalibrated(case: Case) -> Floats:
    """E|stated - true| of what the haze lets see; for several classes, of the one that is named."""
    found = []
    for name in case.names:
        k = case.subject.schema[name].cardinality
        shares = class_shares(case.subject.classes(name).numpy(), k)
        generator = numpy_stream(0, "temper/brute", name)
        classes = generator.choice(k, BRUTE, p=shares)
        told = hazy(classes, generator.standard_normal((BRUTE, k)), shares)
        true = softmax(told, axis=1)
        rows, named = np.arange(BRUTE), np.full(BRUTE, 1) if k == 2 else told.argmax(1)
        found.append([np.abs(softmax(t * told, axis=1) - true)[rows, named].mean() for t in case.strengths])
    curve = np.mean(found, axis=0)
    # honest, it scores what honest probabilities score at this number of images
    return np.asarray([case.reference(), *curve[1:]])


def _evenness(case: Case) -> Floats:
    return np.array([_even(ramp(_stations(case), 1 - s)) for s in case.strengths])


def _stations(case: Case) -> Floats:
    return np.linspace(0, 1, getattr(case.metric, "steps", Wobbling.STATIONS))


def _even(course: Floats) -> float:
    steps = np.abs(np.diff(course))
    return float(steps.mean() / steps.max())


def _monotone(case: Case) -> Floats:
    """An even path with a share of its stations permuted, by brute force."""
    generator = numpy_stream(0, "wobble/brute")
    found = []
    for share in case.strengths:
        orders = np.stack([wobbled(float(share), generator, Wobbling.STATIONS) for _ in range(BRUTE // 20)])
        found.append(np.mean(np.abs(orders[:, -1] - orders[:, 0]) / np.abs(np.diff(orders, axis=1)).sum(1)))
    return np.array(found)


def _spread_score(case: Case) -> Floats:
    """min(r, 1/r) of a ratio whose truth is 1: one folded standard error below it, on average."""
    errors = [reading_of(case.tables[0], "spread_ratio", name).half / 1.96 for name in case.names]
    return case.ends(1 - math.sqrt(2 / math.pi) * float(np.nanmean(errors)), 0.0)


def _kept(case: Case) -> Floats:
    """A draw that changes the class turns every other label over; one of the image's own class leaves them."""
    ends = []
    for name in case.names:
        reference = reading_of(case.tables[0], case.row, name).reference
        binary = case.subject.schema[name].kind == "binary"
        ends.append(reference * float((case.subject.classes(name) == 1).double().mean()) if binary else 0.0)
    return case.ends(case.reference(), float(np.mean(ends)))


CODES: Mapping[tuple[str, str, str], Known] = {
    ("density", "auc", "shuffle"): _area,
    ("density", "overlap", "shuffle"): lambda case: case.ends(0.0, case.chance()),
    ("density", "js", "shuffle"): lambda case: case.ends(1.0, case.chance()),
    ("density", "beyond", "shuffle"): lambda case: case.ends(3 / math.pi, case.chance()),
    ("density", "prior_gap", "shift"): lambda case: case.ends(case.reference(), case.strengths[-1]),
    ("density", "cross_auc", "mix"): _cross,
    ("accuracy", "balanced_accuracy", "mislabel"): _right,
    ("accuracy", "accuracy", "mislabel"): _right,
    ("accuracy", "auc", "mislabel"): _area,
    ("accuracy", "brier", "mislabel"): _wrong,
    ("accuracy", "calibration_error", "temper"): _uncalibrated,
    ("locality", "evenness", "jump"): _evenness,
    ("locality", "monotone", "wobble"): _monotone,
    ("diversity", "spread", "collapse"): lambda case: case.ends(case.reference(), 0.0),
    ("diversity", "spread_ratio", "collapse"): lambda case: case.ends(1.0, 0.0),
    ("diversity", "spread_score", "collapse"): _spread_score,
    ("diversity", "kept", "leak"): _kept,
}
"""Closed forms, and expectations over the laws of the codes; by (metric, value, dial)."""
