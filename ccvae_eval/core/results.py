"""What a metric returns: values with an interval, a chance level, a reference and a count.

Undefined is NaN with a reason. It is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.types import Plain

Status = Literal["ok", "undefined", "unsupported", "failed"]

ORACLE = "the oracle, where the data are drawn"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval.

    Args:
        value: the point estimate; NaN = undefined.
        low, high: the interval; NaN where none can be given.
        n: how many images entered.
        method: how the interval was made ("bootstrap", "wilson", ...); "" where there is none.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    method: str = ""

    @property
    def defined(self) -> bool:
        return not math.isnan(self.value)


def undefined(n: int = 0) -> Estimate:
    """The estimate of a value that does not exist."""
    return Estimate(math.nan, n=n)


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """What a metric promises about one of its values; reports and ``explain`` read it.

    Args:
        summary: one line: what the number says.
        unit: "", "bits", "nats", "pixels", "share", ...
        higher_is_better: True, False, or None where there is no better.
        range: the least and the greatest possible value; None = unbounded.
        chance: the name of the null that gives the chance level; "" where there is none.
        needs_judge: whether the number rests on the judge.
        dials: names of the calibration dials that this value answers to.
        no_chance: why there is no chance level, where there is none.
        reference: the name of what gives the reference.
    """

    summary: str
    unit: str = ""
    higher_is_better: bool | None = None
    range: tuple[float | None, float | None] = (None, None)
    chance: str = ""
    needs_judge: bool = False
    dials: tuple[str, ...] = ()
    no_chance: str = ""
    reference: str = ORACLE


@dataclass(frozen=True, slots=True)
class Value:
    """One number of a measurement. (metric, name, characteristic, at) is unique in a run.

    Args:
        name: the value's name, a key of the metric's ``values``.
        estimate: the number.
        characteristic: whose; None = the mean over characteristics.
        at: what else it depends on (judged label, from/to class, dose, column, matcher).
        excluded: images (or, for a mean, characteristics) that were left out because the value is undefined for them.
        chance: the chance level as a number, None where the value has none.
        reference: what the oracle reaches on these data, None where unknown.
        note: why it is undefined, or what a reader must know ("assigned", "given").
        in_mean: whether the mean over characteristics is of this row too (if it is defined).
    """

    name: str
    estimate: Estimate
    characteristic: str | None = None
    at: Mapping[str, str | int | float] = field(default_factory=dict)
    excluded: int = 0
    chance: float | None = None
    reference: float | None = None
    note: str = ""
    in_mean: bool = False

    @property
    def key(self) -> tuple[str, str | None, tuple[tuple[str, str | int | float], ...]]:
        return self.name, self.characteristic, tuple(sorted(self.at.items()))


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a measurement is not ok: a code a program can match and a text a person can read."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one metric found out about one subject.

    Args:
        metric, version: which definition.
        settings: the metric's fields.
        values: the numbers; the first of each name with ``characteristic`` None is the mean over characteristics.
        headline: the name of the value to show if only one is shown.
        status, reason: whether it went well, and why not.
        evidence: per-image contributions, name -> array with one row for each image of the sample.
        pictures: what its figures are drawn from; kept in memory only, never written to run.json.
        notes: sentences for the reader (share of clipped ranks, excluded labels, ...).
        seconds: wall time, summed over its part of the pass.
    """

    metric: str
    version: int
    settings: Mapping[str, Plain]
    headline: str
    values: tuple[Value, ...] = ()
    status: Status = "ok"
    reason: Reason | None = None
    evidence: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    pictures: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def mean_value(name: str, values: list[Value], estimate: Estimate) -> Value:
    """The row for the mean over characteristics: counts the undefined ones, averages their chance and reference.

    Args:
        name: the value's name.
        values: the rows of the single characteristics.
        estimate: the mean, with its interval from the same resamples.
    """
    chances = [v.chance for v in values if v.chance is not None and v.estimate.defined]
    references = [v.reference for v in values if v.estimate.defined]
    known = [reference for reference in references if reference is not None]
    return Value(
        name,
        estimate,
        excluded=sum(not v.estimate.defined for v in values),
        chance=float(np.mean(chances)) if chances else None,
        reference=float(np.mean(known)) if known and len(known) == len(references) else None,
        note="" if estimate.defined else "undefined for every characteristic",
    )
