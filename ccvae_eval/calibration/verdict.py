r"""Whether a value answers to its dial as it must.

At each position of a dial the value was measured, with its interval. It passes when

1. at both ends the known value lies in the interval, widened to a simultaneous level (below);
2. from the first end to the last nothing goes the wrong way by more than the widened half-widths of the two steps
   together, and Spearman's correlation of value and position is at least .99 over the steps at which the curve moves by
   more than the interval's widened half-width;
3. where more than the ends is known, the widened intervals cover it there too.

The curve of rule 2 is the known one where there is one; else the monotone curve nearest to the measured values
(isotonic regression). From the first step on, a step counts when it has moved by more than that from the last that
counted. (By more than a plain half-width, two steps that count may change places by chance.) Rank correlation over all
steps would punish a saturated dial for the noise on its plateau. A value that is known to stay where it is has no way
to go: every step must hold what is known.

Widening: one calibration asks many such questions of the same images. At 95 % each, one in twenty would fail for a
perfect value; intervals are widened as if normal so that all of one calibration hold at 95 % together (Bonferroni):
by 1.78 for a hundred questions. See docs/adr/004 for how often perfect values then fail, and what is still found out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from ccvae_eval.core.types import Floats

LEVEL = 0.95
LEAST_RANK_CORRELATION = 0.99
ROUNDING = 1e-5
"""Values are read off float32 pictures: closer than this is equal (the tolerance across devices, section 0)."""
UNMOVED = 1 / 255 / 100
"""A known curve that moves by less than this stays where it is: a hundredth of a grey level."""


def widening(questions: int) -> float:
    """How many times as wide intervals are so that so many of them hold at 95 % together.

    >>> round(widening(1), 2), round(widening(100), 2)
    (1.0, 1.78)
    """
    return float(ndtri(1 - (1 - LEVEL) / (2 * max(questions, 1))) / ndtri((1 + LEVEL) / 2))


def questions_of(readings: Sequence[Reading], known: Floats) -> int:
    """What a calibration asks of one curve: whether each known value is held, and whether it goes its way.

    >>> questions_of([Reading(0.0, 0.0, 0.0)] * 3, np.array([0.0, np.nan, 1.0]))
    3
    """
    return int((~np.isnan(known)).sum()) + 1 if all(reading.defined for reading in readings) else 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One value at one step: the mean over characteristics with its interval.

    Args:
        value, low, high: NaN where undefined.
        chance, reference: NaN where there is none.
        note: why it is undefined.
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
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def holds(self, known: float, wider: float = 1.0, beside: float = ROUNDING) -> bool:
        """Whether a known value lies in the interval, made so many times as wide, or beside it within rounding."""
        more = (wider - 1) * self.half + beside
        return self.low - more <= known <= self.high + more


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one value at one dial.

    Args:
        passed: None where it was not judged.
        spearman: over the steps that count; NaN where fewer than two do.
        covers: share of the positions with a known value at which the plain interval holds it; NaN without any.
        why: what failed, or why it was not judged; "" where all is well.
    """

    passed: bool | None
    spearman: float = math.nan
    covers: float = math.nan
    why: str = ""


def judge(
    readings: Sequence[Reading], known: Floats, higher_is_better: bool | None = None, *, wider: float = 1.0
) -> Verdict:
    """The verdict on a value at its own dial.

    Args:
        readings: at each position.
        known: the known value there, NaN where unknown, shape (positions,).
        higher_is_better: of the value; where its known ends do not say which way it must go, the worse one is right.
        wider: how many times as wide the intervals are made, see :func:`widening`.
    """
    undefined = [k for k, reading in enumerate(readings) if math.isnan(reading.value)]
    if undefined:
        if len(undefined) == len(readings):
            return Verdict(None, why=f"not judged: {readings[0].note}")
        why = f"undefined at {len(undefined)} of {len(readings)} steps: {readings[undefined[0]].note}"
        return Verdict(False, why=why)
    bare = [k for k, reading in enumerate(readings) if math.isnan(reading.low)]
    values = np.array([reading.value for reading in readings])
    direction = _direction(values, known, higher_is_better)
    if len(bare) == len(readings):
        spearman = direction * _rank_correlation(range(len(values)), values)
        return Verdict(None, spearman, why=f"not judged: {readings[0].note or 'it has no interval'}")
    if bare:
        return Verdict(False, why=f"no interval at {len(bare)} of {len(readings)} steps")
    told = [k for k in range(len(readings)) if not math.isnan(known[k])]
    covers = float(np.mean([readings[k].holds(known[k]) for k in told])) if told else math.nan
    expected, asked = known, told
    if still := _still(known):
        expected, asked = np.full(len(readings), known[0]), list(range(len(readings)))
    reasons = [
        f"at {place} {readings[k].value:.4g} [{readings[k].low:.4g}, {readings[k].high:.4g}], known {expected[k]:.4g}"
        for k, place in _places(asked, len(readings))
        if not readings[k].holds(expected[k], wider, UNMOVED if still else ROUNDING)
    ]
    if still:
        return Verdict(not reasons, math.nan, covers, "; ".join(reasons))
    counted = _counted(readings, known, direction, wider)
    spearman = math.nan
    if len(counted) > 1:
        spearman = direction * _rank_correlation(counted, values[counted])
    if len(counted) < 2:
        reasons.append("it does not move")
    elif spearman < LEAST_RANK_CORRELATION:
        reasons.append(f"rank correlation {spearman:.3f}")
    if wrong := _wrong_way(readings, direction, wider):
        reasons.append(wrong)
    return Verdict(not reasons, spearman, covers, "; ".join(reasons))


def _rank_correlation(order: Sequence[int], values: Floats) -> float:
    """Spearman's; 0 for values that are all the same."""
    return float(spearmanr(order, values).statistic) if np.ptp(values) > 0 else 0.0


def _still(known: Floats) -> bool:
    """Whether what is known, both ends at least, says that the dial does not touch the value."""
    if math.isnan(known[0]) or math.isnan(known[-1]):
        return False
    return float(np.nanmax(known) - np.nanmin(known)) <= UNMOVED


def _places(told: Sequence[int], count: int) -> list[tuple[int, str]]:
    names = {0: "the first end", count - 1: "the last end"}
    return [(k, names.get(k, f"step {k}")) for k in told]


def _direction(values: Floats, known: Floats, higher_is_better: bool | None) -> int:
    """+1 if the value must rise along the dial, -1 if it must fall."""
    if higher_is_better is not None and (math.isnan(known[0]) or math.isnan(known[-1])):
        return -1 if higher_is_better else 1
    ends = [known[k] if not math.isnan(known[k]) else values[k] for k in (0, -1)]
    return 1 if ends[1] >= ends[0] else -1


def _counted(readings: Sequence[Reading], known: Floats, direction: int, wider: float) -> list[int]:
    """The steps at which the curve has moved by more than a widened half-width since the last one that counted."""
    curve = known
    if np.isnan(known).any():
        values = np.array([reading.value for reading in readings])
        curve = IsotonicRegression(increasing=direction > 0).fit_transform(np.arange(len(values)), values)
    counted = [0]
    for k in range(1, len(readings)):
        if abs(curve[k] - curve[counted[-1]]) > max(
            wider * readings[k].half, wider * readings[counted[-1]].half, ROUNDING
        ):
            counted.append(k)
    return counted


def _wrong_way(readings: Sequence[Reading], direction: int, wider: float) -> str:
    """Where the value goes back by more than the widened half-widths of both steps; "" if nowhere."""
    for k in range(1, len(readings)):
        for j in range(k):
            back = direction * (readings[j].value - readings[k].value)
            if back > wider * (readings[j].half + readings[k].half) + ROUNDING:
                return f"from step {j} to step {k} it goes the wrong way by {back:.3g}"
    return ""


SEEN = widening(100)
"""How many half-widths of both ends a value must move to have seen a dial: some hundred pairs are looked at at once."""


def moved(first: Reading, last: Reading) -> float:
    """How far a value has moved, from end to end, in widened half-widths of both: above 1 it has seen the dial.

    NaN where either is undefined; infinite where it became defined or undefined on the way.
    """
    if math.isnan(first.value) and math.isnan(last.value):
        return math.nan
    if math.isnan(first.value) or math.isnan(last.value):
        return math.inf
    halves = [0.0 if math.isnan(reading.half) else reading.half for reading in (first, last)]
    distance = abs(last.value - first.value)
    return 0.0 if distance <= ROUNDING else distance / (SEEN * sum(halves) + ROUNDING)
