r"""Result of a calibration: curves of values along perturbations, and verdicts on them.

A value gets a verdict along each perturbation that it declares. (A value that declares none is listed with the reason.)
At each position along the perturbation it was measured, with its confidence interval. It passes if

1. at both ends the expected value lies in the interval, widened to a simultaneous level (below);
2. no step goes in the wrong direction by more than the sum of the widened half-widths of the two positions, and
   Spearman's correlation of value and position is at least 0.99 over the positions between which the curve moves by
   more than a widened half-width;
3. at every other position with an expected value the widened interval contains it.

The curve of rule 2 is the expected one where it is given everywhere, else the isotonic regression of the measured
values. From the first position on, a position counts if the curve has moved by more than a widened half-width since
the last one that counted, so that noise on a plateau does not lower the correlation. A value that is expected to stay
constant has no order: every position must contain the expected value.

Widening: a calibration checks many expected values on the same images, and at 95% each, one in twenty would fail for a
perfect value. All intervals are widened, as if normal, so that they hold together at 95% (Bonferroni): by 1.78 for a
hundred checks. See docs/adr/004 for the power of these rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from scipy.special import ndtri
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from ccvae_eval.calibration.perturbations import Perturbation
from ccvae_eval.core.results import ValueSpec
from ccvae_eval.core.types import Floats, Plain

LEVEL = 0.95
LEAST_RANK_CORRELATION = 0.99
ROUNDING = 1e-5
"""Tolerance of equality: values are computed from float32 images (docs/metrics.md, section 0)."""
CONSTANT_TOLERANCE = 1 / 255 / 100
"""Largest range of an expected curve that is constant: a hundredth of a grey level."""


def widening(checks: int) -> float:
    """Factor by which intervals are widened so that this number of them holds together at 95%.

    >>> round(widening(1), 2), round(widening(100), 2)
    (1.0, 1.78)
    """
    return float(ndtri(1 - (1 - LEVEL) / (2 * max(checks, 1))) / ndtri((1 + LEVEL) / 2))


def check_count(readings: Sequence[Reading], expected: Floats) -> int:
    """Number of checks of one curve: one for each expected value, and one for its order.

    >>> check_count([Reading(0.0, 0.0, 0.0)] * 3, np.array([0.0, np.nan, 1.0]))
    3
    """
    return int((~np.isnan(expected)).sum()) + 1 if all(reading.defined for reading in readings) else 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One value at one position: the mean over characteristics with its confidence interval.

    Args:
        value, low, high: NaN where undefined.
        chance, reference: chance level and reference; NaN if the value has none.
        note: reason where it is undefined.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan
    reference: float = math.nan
    note: str = ""

    @property
    def defined(self) -> bool:
        return not math.isnan(self.value)

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def contains(self, expected: float, wider: float = 1.0, tolerance: float = ROUNDING) -> bool:
        """True if the interval, widened by a factor and a tolerance, contains the expected value."""
        margin = (wider - 1) * self.half_width + tolerance
        return self.low - margin <= expected <= self.high + margin


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one value along one perturbation.

    Args:
        passed: None where it cannot be judged.
        spearman: rank correlation over the positions that count; NaN for fewer than two.
        covers: share of the expected values that lie in the plain interval; NaN without any.
        why: the failed rules, or the reason why it cannot be judged; "" if it passed.
    """

    passed: bool | None
    spearman: float = math.nan
    covers: float = math.nan
    why: str = ""


def judge(
    readings: Sequence[Reading], expected: Floats, higher_is_better: bool | None = None, *, wider: float = 1.0
) -> Verdict:
    """Judge a value along one of its own perturbations, by the rules of this module.

    Args:
        readings: the value at each position.
        expected: the expected value at each position, NaN where there is none, shape (positions,).
        higher_is_better: direction of the value. Without expected values at both ends it must get worse.
        wider: factor by which the intervals are widened, see :func:`widening`.
    """
    undefined = [k for k, reading in enumerate(readings) if math.isnan(reading.value)]
    if undefined:
        if len(undefined) == len(readings):
            return Verdict(None, why=f"not judged: {readings[0].note}")
        why = f"undefined at {len(undefined)} of {len(readings)} steps: {readings[undefined[0]].note}"
        return Verdict(False, why=why)
    without_interval = [k for k, reading in enumerate(readings) if math.isnan(reading.low)]
    values = np.array([reading.value for reading in readings])
    direction = _direction(values, expected, higher_is_better)
    if len(without_interval) == len(readings):
        spearman = direction * _rank_correlation(range(len(values)), values)
        return Verdict(None, spearman, why=f"not judged: {readings[0].note or 'it has no interval'}")
    if without_interval:
        return Verdict(False, why=f"no interval at {len(without_interval)} of {len(readings)} steps")
    checked = [k for k in range(len(readings)) if not math.isnan(expected[k])]
    covers = float(np.mean([readings[k].contains(expected[k]) for k in checked])) if checked else math.nan
    target = expected
    if constant := _is_constant(expected):
        target, checked = np.full(len(readings), expected[0]), list(range(len(readings)))
    ends = {0: "the first end", len(readings) - 1: "the last end"}
    reasons = [
        f"at {ends.get(k, f'step {k}')} {r.value:.4g} [{r.low:.4g}, {r.high:.4g}], expected {target[k]:.4g}"
        for k, r in enumerate(readings)
        if k in checked and not r.contains(target[k], wider, CONSTANT_TOLERANCE if constant else ROUNDING)
    ]
    if constant:
        return Verdict(not reasons, math.nan, covers, "; ".join(reasons))
    distinct, spearman = _distinct_positions(readings, expected, direction, wider), math.nan
    if len(distinct) < 2:
        reasons.append("it does not respond")
    elif (spearman := direction * _rank_correlation(distinct, values[distinct])) < LEAST_RANK_CORRELATION:
        reasons.append(f"rank correlation {spearman:.3f}")
    if wrong := _wrong_way(readings, direction, wider):
        reasons.append(wrong)
    return Verdict(not reasons, spearman, covers, "; ".join(reasons))


def _rank_correlation(order: Sequence[int], values: Floats) -> float:
    """Spearman's rank correlation; 0 for constant values."""
    return float(spearmanr(order, values).statistic) if np.ptp(values) > 0 else 0.0


def _is_constant(expected: Floats) -> bool:
    """True if the expected values, with both ends, are constant."""
    if math.isnan(expected[0]) or math.isnan(expected[-1]):
        return False
    return float(np.nanmax(expected) - np.nanmin(expected)) <= CONSTANT_TOLERANCE


def _direction(values: Floats, expected: Floats, higher_is_better: bool | None) -> int:
    """+1 if the value must rise along the perturbation, -1 if it must fall."""
    if higher_is_better is not None and (math.isnan(expected[0]) or math.isnan(expected[-1])):
        return -1 if higher_is_better else 1
    ends = [expected[k] if not math.isnan(expected[k]) else values[k] for k in (0, -1)]
    return 1 if ends[1] >= ends[0] else -1


def _distinct_positions(readings: Sequence[Reading], expected: Floats, direction: int, wider: float) -> list[int]:
    """Positions at which the curve has moved by more than a widened half-width since the last one that counted."""
    curve = expected
    if np.isnan(expected).any():
        values = np.array([reading.value for reading in readings])
        curve = IsotonicRegression(increasing=direction > 0).fit_transform(np.arange(len(values)), values)
    distinct = [0]
    for k in range(1, len(readings)):
        half_widths = (wider * readings[j].half_width for j in (k, distinct[-1]))
        if abs(curve[k] - curve[distinct[-1]]) > max(*half_widths, ROUNDING):
            distinct.append(k)
    return distinct


def _wrong_way(readings: Sequence[Reading], direction: int, wider: float) -> str:
    """The step in the wrong direction by more than the widened half-widths of both positions; "" without one."""
    for k in range(1, len(readings)):
        for j in range(k):
            wrong = direction * (readings[j].value - readings[k].value)
            if wrong > wider * (readings[j].half_width + readings[k].half_width) + ROUNDING:
                return f"from step {j} to step {k} it moves in the wrong direction by {wrong:.3g}"
    return ""


SIMULTANEOUS_WIDENING = widening(100)
"""Factor of the half-widths that the movement of a responding value exceeds; about a hundred pairs are compared."""


def movement(first: Reading, last: Reading) -> float:
    """Distance between both ends in widened half-widths; above 1 the value responds to the perturbation.

    NaN where both ends are undefined; infinite where one is.
    """
    if math.isnan(first.value) and math.isnan(last.value):
        return math.nan
    if math.isnan(first.value) or math.isnan(last.value):
        return math.inf
    half_widths = [0.0 if math.isnan(reading.half_width) else reading.half_width for reading in (first, last)]
    distance = abs(last.value - first.value)
    return 0.0 if distance <= ROUNDING else distance / (SIMULTANEOUS_WIDENING * sum(half_widths) + ROUNDING)


DESCRIPTIVE = "descriptive: neither direction is better"
CONTINUOUS = "for continuous labels, which the oracle lacks"
NOT_DECLARED = "it declares none"

REASONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("accuracy", "majority"): "a baseline: it depends on the labels only",
        ("accuracy", "r2"): CONTINUOUS,
        ("accuracy", "absolute_error"): CONTINUOUS,
        ("density", "components"): "the matrix behind components_d and components_c, which are judged",
        ("disentanglement", "dci_size"): "it counts latent dimensions, which no perturbation adds",
        ("disentanglement", "information"): "the matrix behind the scores, which are judged",
        ("disentanglement", "factor_correlation"): "a property of the labels, not of the codes",
        ("intervention", "identity_cosine"): "only with features of faces, which no built-in extractor has",
        ("drift", "displacement"): "only over points found again, which become fewer as it gets worse (see lost)",
        ("drift", "correct_matches"): "undefined for the matcher grid, whose matches are correct by construction",
        ("reconstruction", "bound"): "defined by the model; the oracle defines none",
        ("reconstruction", "gap"): "needs training images; the oracle is not trained",
    }
)
"""By (metric, value); all other values without a perturbation have no direction."""


def reason_without_perturbation(metric: str, value: str, spec: ValueSpec) -> str:
    """Reason why a value declares no perturbation.

    >>> reason_without_perturbation("mine", "size", ValueSpec("size"))
    'descriptive: neither direction is better'
    """
    default = DESCRIPTIVE if spec.higher_is_better is None else NOT_DECLARED
    return REASONS.get((metric, value), default)


NOT_JUDGED = Verdict(None)


@dataclass(frozen=True, slots=True)
class Curve:
    """One row of a value along one perturbation.

    Args:
        metric, value: the value.
        row: the row of the value: its name and the keys that distinguish it from other rows (``composition m=10``).
        perturbation: the perturbation.
        own: True if the value declares the perturbation; otherwise only the ends were measured, and nothing is judged.
        positions: positions along the perturbation, from 0 to 1.
        readings: the measured value at each position.
        expected: the expected value at each position, NaN where there is none.
        verdict: the verdict, if the perturbation is the value's own.
        higher_is_better: direction of the value.
    """

    metric: str
    value: str
    row: str
    perturbation: Perturbation
    own: bool
    positions: tuple[float, ...]
    readings: tuple[Reading, ...]
    expected: Floats
    verdict: Verdict = NOT_JUDGED
    higher_is_better: bool | None = None

    @property
    def moved(self) -> float:
        """Distance between both ends, see :func:`ccvae_eval.calibration.verdict.movement`."""
        return movement(self.readings[0], self.readings[-1])

    @property
    def _address(self) -> dict[str, Plain]:
        return {"metric": self.metric, "value": self.row, "dial": self.perturbation.name}

    def as_row(self) -> dict[str, Plain]:
        """The row under ``calibration`` in the JSON document; NaN is None."""
        verdict = self.verdict
        numbers = {
            "spearman": verdict.spearman,
            "at_zero": self.readings[0].value,
            "at_end": self.readings[-1].value,
            "known_zero": float(self.expected[0]),
            "known_end": float(self.expected[-1]),
            "covers": verdict.covers,
        }
        plain = {key: _plain(number) for key, number in numbers.items()}
        return {**self._address, "own": self.own, "passed": verdict.passed, **plain}

    def as_curve(self) -> dict[str, Plain]:
        """All positions, under ``curves`` in the JSON document."""
        return {
            **self._address,
            "why": self.verdict.why,
            "strengths": [self.perturbation.strength(position) for position in self.positions],
            "values": [_plain(reading.value) for reading in self.readings],
            "low": [_plain(reading.low) for reading in self.readings],
            "high": [_plain(reading.high) for reading in self.readings],
            "known": [_plain(float(number)) for number in self.expected],
        }


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Result of a calibration.

    Args:
        curves: curves of own perturbations first, in the order of metrics, values and perturbations.
        facts: data, model, images, steps, seed, characteristics, judge, and the number of checks ("questions").
        without: reason for each (metric, value) that declares no perturbation.
    """

    curves: tuple[Curve, ...]
    facts: Mapping[str, Plain]
    without: Mapping[tuple[str, str], str]

    @property
    def own(self) -> tuple[Curve, ...]:
        return tuple(curve for curve in self.curves if curve.own)

    @property
    def judged(self) -> tuple[Curve, ...]:
        return tuple(curve for curve in self.own if curve.verdict.passed is not None)

    @property
    def failed(self) -> tuple[Curve, ...]:
        return tuple(curve for curve in self.own if curve.verdict.passed is False)

    @property
    def covered(self) -> tuple[int, int]:
        """Number of expected values inside the plain intervals, and number of expected values."""
        inside = [
            reading.contains(float(expected))
            for curve in self.judged
            for reading, expected in zip(curve.readings, curve.expected, strict=True)
            if not math.isnan(expected) and not math.isnan(reading.low)
        ]
        return sum(inside), len(inside)

    def as_plain(self) -> dict[str, Plain]:
        return {
            **self.facts,
            "calibration": [curve.as_row() for curve in self.curves],
            "curves": [curve.as_curve() for curve in self.curves],
            "without": [{"metric": m, "value": v, "why": why} for (m, v), why in self.without.items()],
        }


def with_verdicts(curves: Sequence[Curve]) -> tuple[list[Curve], int]:
    """The curves with verdicts at a level that holds for all of them together, and the number of checks."""
    checks = sum(check_count(curve.readings, curve.expected) for curve in curves if curve.own)
    wider = widening(checks)

    def with_verdict(c: Curve) -> Curve:
        return replace(c, verdict=judge(c.readings, c.expected, c.higher_is_better, wider=wider)) if c.own else c

    return [with_verdict(curve) for curve in curves], checks


def no_expectation(count: int) -> Floats:
    """Expected values of a curve without any, shape (positions,)."""
    return np.full(count, math.nan)
