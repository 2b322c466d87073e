"""From one number per image to a measurement: estimates from common resamples, their rows, and the evidence.

From resampled numbers of single characteristics to the rows of a measurement, with their means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.results import Measurement, Reason, Value, mean_value
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.statistics.intervals import (
    Resampled,
    bounded_estimate,
    mean_estimate,
    mean_over,
    missing,
    ratio_estimate,
    share_estimate,
)
from ccvae_eval.statistics.resampling import ResampleWeights

At = Mapping[str, str | int | float]
NOWHERE: At = MappingProxyType({})

GIVEN, ASSIGNED, UNASSIGNED = "given", "assigned", "unassigned"


def sentence(*parts: str) -> str:
    """The parts that say something, one after the other.

    >>> sentence("given", "", "one-vs-rest")
    'given; one-vs-rest'
    """
    return "; ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class _Row:
    value: Value
    found: Resampled
    mean_at: At | None


@dataclass
class Rows:
    """Values in the making; what stands in the same mean is averaged resample by resample.

    Args:
        subject: whose; it says which characteristics were given or assigned.
        draws: how many resamples an undefined value has.
        level: of the intervals.
        given: characteristics that are marked as given; None = those of the subject's model.
        given_counts: whether what was given enters the means. It does where the value is no information about the
            label: what a column does to the image is a finding, whoever wrote the column.
        findings: values for which it does, where it does not for the others: what other columns tell of a given label.
    """

    subject: Subject
    draws: int
    level: float = 0.95
    given_counts: bool = False
    given: frozenset[str] | None = None
    findings: frozenset[str] = frozenset()
    _rows: list[_Row] = field(default_factory=list)

    @property
    def _given(self) -> frozenset[str]:
        return self.subject.given if self.given is None else self.given

    def add(
        self,
        name: str,
        characteristic: str | None,
        found: Resampled,
        *,
        at: At = NOWHERE,
        mean_at: At | None = NOWHERE,
        chance: float | None = None,
        reference: float | None = None,
        excluded: int = 0,
        note: str = "",
    ) -> None:
        """Adds one row.

        Args:
            name, characteristic, at, chance, reference, excluded, note: as in ``Value``. A row without a
                characteristic is about the whole image and enters no mean.
            found: the number with its resamples.
            mean_at: the ``at`` of the mean that it enters; None = none, as for what was given (unless that counts).
        """
        given = characteristic in self._given
        kind = GIVEN if given else ASSIGNED if self.subject.assigned and characteristic else ""
        if characteristic is None:
            mean_at = None
        said = sentence(kind, note, found.note)
        if given and not self.given_counts and name not in self.findings:
            mean_at = None
        estimate, in_mean = found.estimate, mean_at is not None
        value = Value(name, estimate, characteristic, dict(at), excluded, chance, reference, said, in_mean)
        self._rows.append(_Row(value, found, mean_at))

    def undefined(self, name: str, characteristic: str, why: str, *, at: At = NOWHERE, excluded: int = 0) -> None:
        """Adds a row that has no number, and says why."""
        self.add(name, characteristic, missing(self.draws, why), at=at, mean_at=at, excluded=excluded)

    def values(self) -> tuple[Value, ...]:
        """The means, each before the rows of its name."""
        names = dict.fromkeys(row.value.name for row in self._rows)
        found: list[Value] = []
        for name in names:
            rows = [row for row in self._rows if row.value.name == name]
            found += self._means(name, rows)
            found += [row.value for row in rows]
        return tuple(found)

    def _means(self, name: str, rows: list[_Row]) -> list[Value]:
        groups: dict[tuple[tuple[str, str | int | float], ...], list[_Row]] = {}
        for row in rows:
            if row.mean_at is not None:
                groups.setdefault(tuple(sorted(row.mean_at.items())), []).append(row)
        if not groups and all(row.value.characteristic in self._given for row in rows):
            return [Value(name, missing(self.draws, "").estimate, note="every characteristic was given")]
        means = []
        for at, group in groups.items():
            mean = mean_over([row.found for row in group], self.level)
            value = mean_value(name, [row.value for row in group], mean.estimate)
            note = sentence(value.note, mean.note if mean.defined else _reason(group))
            means.append(replace(value, at=dict(at), note=note))
        return means


def _reason(group: list[_Row]) -> str:
    """Why none of the rows has a number, if it is the same for all."""
    reasons = {row.found.note for row in group}
    return reasons.pop() if len(reasons) == 1 else ""


COLUMN = "column"
"""What ``at`` calls one column of a block: a characteristic's own row is the mean over such rows."""


class ImageStatistic(Protocol):
    """A value as a sum over images divided by another: what the evidence keeps."""

    def terms(self) -> tuple[Floats, Floats]:
        """Numerator and denominator of each image, NaN where the image does not enter."""
        ...

    def estimate(self, weights: ResampleWeights) -> Resampled: ...


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """The mean over images of one number each, shape (N,); NaN = the image does not enter."""

    values: Floats

    def terms(self) -> tuple[Floats, Floats]:
        return self.values, np.where(np.isnan(self.values), np.nan, 1.0)

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return mean_estimate(self.values, weights)


@dataclass(frozen=True, slots=True, eq=False)
class Proportion(Mean):
    """The share of images where a 0/1 number, shape (N,), is 1; NaN = the image does not enter."""

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return share_estimate(self.values, weights)


@dataclass(frozen=True, slots=True, eq=False)
class MeanProportion(Mean):
    """The mean over images of a share of each, or of its gain (``least`` -1); NaN = the image does not enter."""

    least: float = 0.0

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return bounded_estimate(self.values, weights, self.least)


@dataclass(frozen=True, slots=True, eq=False)
class RatioOfSums:
    """The ratio of two sums over images, each of shape (N,); NaN = the image does not enter."""

    numerator: Floats
    denominator: Floats

    def terms(self) -> tuple[Floats, Floats]:
        return self.numerator, self.denominator

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return ratio_estimate(self.numerator, self.denominator, weights)


def among(images: Bools, values: Floats | Bools) -> Floats:
    """The values of some images, NaN for all others."""
    return np.where(images, values, np.nan)


def mean_of(values: Floats, images: Bools) -> float | None:
    """A chance level: the mean of a number over some images; None where there is no such image."""
    return float(values[images].mean()) if images.any() else None


@dataclass
class ResultTable:
    """Collects a metric's numbers. Each row counts as excluded the images that do not enter it.

    Args:
        metric: whose values these are.
        subject: whose images.
        weights: the run's resamples.
        given_counts, given, findings: see ``Rows``.
    """

    metric: Metric
    subject: Subject
    weights: ResampleWeights
    given_counts: bool = True
    given: frozenset[str] | None = None
    findings: frozenset[str] = frozenset()
    rows: Rows = field(init=False)
    evidence: dict[str, NDArray[np.generic]] = field(default_factory=dict, init=False)
    _columns: dict[tuple[str, str], list[tuple[Resampled, float | None]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.rows = Rows(
            self.subject, self.weights.draws, self.weights.level, self.given_counts, self.given, self.findings
        )

    def estimated(self, name: str, characteristic: str | None, what: ImageStatistic, at: At = NOWHERE) -> Resampled:
        """The estimate of a number per image, which goes into the evidence at its address."""
        whose = [] if characteristic is None else [characteristic]
        address = "/".join([name, *whose, *(f"{key}={value}" for key, value in at.items())])
        for term, column in zip(("numerator", "denominator"), what.terms(), strict=True):
            self.evidence[f"{address}/{term}"] = column
        return what.estimate(self.weights)

    def add(
        self,
        name: str,
        characteristic: str | None,
        what: ImageStatistic | Resampled | str,
        at: At = NOWHERE,
        *,
        mean_at: At | None = NOWHERE,
        chance: float | None = None,
        reference: float | None = None,
        why: str = "",
        note: str = "",
    ) -> Resampled:
        """One row; returns its estimate.

        Args:
            name, characteristic, at, note: as in ``Rows.add``.
            mean_at: the ``at`` of the mean over characteristics that it enters, None = none. The row of a single
                column enters its characteristic's row instead.
            what: the number of each image, or the estimate, or the reason why there is none.
            chance, reference: what to compare it with; dropped where the value is undefined.
            why: the reason, if it turns out to be undefined.
        """
        if isinstance(what, str):
            found, why = missing(self.weights.draws, what), what
        else:
            found = what if isinstance(what, Resampled) else self.estimated(name, characteristic, what, at)
        if not found.defined:
            found = missing(self.weights.draws, why or found.note, found.estimate.n)
            chance = reference = None
        if COLUMN in at and characteristic is not None:
            if mean_at is not None:
                self._columns.setdefault((name, characteristic), []).append((found, chance))
            mean_at = None
        excluded = len(self.subject) - found.estimate.n
        self.rows.add(
            name, characteristic, found, at=at, mean_at=mean_at, chance=chance, reference=reference,
            excluded=excluded, note=note,
        )  # fmt: skip
        return found

    def _enter_means_over_columns(self) -> None:
        for (name, characteristic), columns in self._columns.items():
            mean = mean_over([found for found, _ in columns], self.weights.level)
            chances = [chance for _, chance in columns if chance is not None]
            chance = float(np.mean(chances)) if chances else None
            note = f"mean over {len(columns)} columns" if mean.defined else ""
            self.add(name, characteristic, mean, chance=chance, why=columns[0][0].note, note=note)
        self._columns.clear()

    def undefined(self, characteristic: str, why: str) -> None:
        """Every value of a characteristic is undefined for one reason."""
        for name in self.metric.values:
            self.add(name, characteristic, why)

    def measurement(self, notes: Sequence[str], pictures: Mapping[str, NDArray[np.generic]]) -> Measurement:
        """All rows; its status is ``undefined`` if none of them has a number."""
        self._enter_means_over_columns()
        order = list(self.metric.values)
        rows = sorted(self.rows.values(), key=lambda value: order.index(value.name))
        values = tuple(_within(value, self.metric.values[value.name].range) for value in rows)
        nothing = not any(value.estimate.defined for value in values)
        whys = dict.fromkeys(v.note for v in values if v.characteristic is not None)
        whys = whys or dict.fromkeys(v.note for v in values)
        return Measurement(
            self.metric.name,
            self.metric.version,
            settings_of(self.metric),
            self.metric.headline,
            values,
            "undefined" if nothing else "ok",
            Reason("undefined", "; ".join(whys)) if nothing else None,
            self.evidence,
            pictures,
            tuple(notes),
        )


def _within(value: Value, ends: tuple[float | None, float | None]) -> Value:
    """The row with its interval cut to the value's range: reflected intervals of means may reach beyond it."""
    least, greatest = (-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1])
    low, high = np.clip([value.estimate.low, value.estimate.high], least, greatest)
    return replace(value, estimate=replace(value.estimate, low=float(low), high=float(high)))
