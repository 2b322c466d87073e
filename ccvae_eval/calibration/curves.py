"""What came of a calibration: curves of values along dials, with the verdicts on those that are a value's own.

Why some values have no dial: every value is either calibrated or named here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from ccvae_eval.calibration.perturbations import Perturbation
from ccvae_eval.calibration.verdict import Reading, Verdict, judge, moved, questions_of, widening
from ccvae_eval.core.results import ValueSpec
from ccvae_eval.core.types import Floats, Plain

DESCRIPTIVE = "descriptive: it has no better"
CONTINUOUS = "of continuous labels: the oracle has none"
NO_DIAL = "it declares none"

REASONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("accuracy", "majority"): "a yardstick: it knows the labels alone",
        ("accuracy", "r2"): CONTINUOUS,
        ("accuracy", "absolute_error"): CONTINUOUS,
        ("density", "components"): "the matrix behind components_d and components_c, which are judged",
        ("disentanglement", "dci_size"): "it counts columns: no dial makes more of them",
        ("disentanglement", "information"): "the matrix behind the scores, which are judged",
        ("disentanglement", "factor_correlation"): "a property of the labels, not of the codes",
        ("drift", "displacement"): "of what is found again alone: the worse it gets, the less is found (see lost)",
        ("drift", "correct_matches"): "the matcher grid has none: its matches are correct by construction",
        ("reconstruction", "bound"): "the model's own: the oracle has none",
        ("reconstruction", "gap"): "of what a training saw: the oracle had none",
    }
)
"""By (metric, value); all others without a dial have no direction."""


def why_without(metric: str, value: str, spec: ValueSpec) -> str:
    """Why a value declares no dial.

    >>> why_without("mine", "size", ValueSpec("how large")), why_without("mine", "good", ValueSpec("x", "", True))
    ('descriptive: it has no better', 'it declares none')
    """
    usual = DESCRIPTIVE if spec.higher_is_better is None else NO_DIAL
    return REASONS.get((metric, value), usual)


NOT_YET = Verdict(None)


@dataclass(frozen=True, slots=True)
class Curve:
    """One row of a value along one dial.

    Args:
        metric, value, dial: which.
        row: which of the value's rows: its name, with what tells it apart from the others (``composition m=10``).
        own: whether the value declares the dial. If not, only the ends were measured, and nothing is judged.
        positions: from 0 to 1.
        readings: what was measured there.
        known: what is known there, NaN where nothing is.
        verdict: on the value, if the dial is its own.
        higher_is_better: of the value.
    """

    metric: str
    value: str
    row: str
    dial: Perturbation
    own: bool
    positions: tuple[float, ...]
    readings: tuple[Reading, ...]
    known: Floats
    verdict: Verdict = NOT_YET
    higher_is_better: bool | None = None

    @property
    def moved(self) -> float:
        """How far it goes from end to end, see :func:`ccvae_eval.calibration.verdict.moved`."""
        return moved(self.readings[0], self.readings[-1])

    def as_row(self) -> dict[str, Plain]:
        """The row as ``--json`` has it under ``calibration``; NaN is None."""
        first, last = self.readings[0], self.readings[-1]
        return {
            "metric": self.metric,
            "value": self.row,
            "dial": self.dial.name,
            "own": self.own,
            "passed": self.verdict.passed,
            "spearman": _plain(self.verdict.spearman),
            "at_zero": _plain(first.value),
            "at_end": _plain(last.value),
            "known_zero": _plain(float(self.known[0])),
            "known_end": _plain(float(self.known[-1])),
            "covers": _plain(self.verdict.covers),
        }

    def as_curve(self) -> dict[str, Plain]:
        """All steps, as ``--json`` has them under ``curves``, in the same order."""
        return {
            "metric": self.metric,
            "value": self.row,
            "dial": self.dial.name,
            "why": self.verdict.why,
            "strengths": [self.dial.strength(position) for position in self.positions],
            "values": [_plain(reading.value) for reading in self.readings],
            "low": [_plain(reading.low) for reading in self.readings],
            "high": [_plain(reading.high) for reading in self.readings],
            "known": [_plain(float(number)) for number in self.known],
        }


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of a calibration.

    Args:
        curves: own ones first, in the order of metrics, values and dials.
        facts: what it was made with: data, images, steps, seed, judge, model.
        without: values that no dial can be put on, as (metric, value), and why.
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
        """How many known points the plain intervals hold, of how many."""
        held = [
            reading.holds(float(known))
            for curve in self.judged
            for reading, known in zip(curve.readings, curve.known, strict=True)
            if not math.isnan(known) and not math.isnan(reading.low)
        ]
        return sum(held), len(held)

    def as_plain(self) -> dict[str, Plain]:
        return {
            **self.facts,
            "calibration": [curve.as_row() for curve in self.curves],
            "curves": [curve.as_curve() for curve in self.curves],
            "without": [{"metric": m, "value": v, "why": why} for (m, v), why in self.without.items()],
        }


def judged(curves: Sequence[Curve]) -> tuple[list[Curve], int]:
    """The same curves with verdicts on the own ones, at a level that holds for all of them together; how many
    questions that are."""
    questions = sum(questions_of(curve.readings, curve.known) for curve in curves if curve.own)
    wider = widening(questions)
    found = [
        replace(curve, verdict=judge(curve.readings, curve.known, curve.higher_is_better, wider=wider))
        if curve.own
        else curve
        for curve in curves
    ]
    return found, questions


def nothing_known(count: int) -> Floats:
    """Known values of a curve of which nothing is known, shape (positions,)."""
    return np.full(count, math.nan)
