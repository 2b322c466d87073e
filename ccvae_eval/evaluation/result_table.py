"""Result table: turns one number per image into the rows and means of a measurement.

A metric describes each value as an image statistic (``Mean``, ``Proportion``, ``MeanProportion``, ``RatioOfSums``) and
adds it to a ``ResultTable``, which computes the estimate from the run's resamples, adds the means over
characteristics, and stores the per-image terms as evidence.
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
from ccvae_eval.evaluation.deprecated import deprecated_method
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.statistics.intervals import (
    Resampled,
    mean_estimate,
    mean_over,
    mean_proportion_estimate,
    proportion_estimate,
    ratio_estimate,
    undefined_estimate,
)
from ccvae_eval.statistics.resampling import ResampleWeights

At = Mapping[str, str | int | float]
NO_CONDITION: At = MappingProxyType({})

GIVEN, ASSIGNED, UNASSIGNED = "given", "assigned", "unassigned"
"""Notes on characteristics: their source, or that no latent dimension was assigned to them."""

COLUMN = "column"
"""Key in ``at`` of a single latent dimension; the characteristic's own row is the mean over such rows."""


def joined_notes(*parts: str) -> str:
    """Joins the parts that are not empty.

    >>> joined_notes("given", "", "one-vs-rest")
    'given; one-vs-rest'
    """
    return "; ".join(part for part in parts if part)


class ImageStatistic(Protocol):
    """A value that is a ratio of two sums over images; the evidence stores the terms of both sums."""

    def terms(self) -> tuple[Floats, Floats]:
        """Numerator and denominator of each image, shape (N,), NaN = the image does not enter."""
        ...

    def estimate(self, weights: ResampleWeights) -> Resampled: ...


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Mean over images of one number each, shape (N,); NaN = the image does not enter."""

    values: Floats

    def terms(self) -> tuple[Floats, Floats]:
        return self.values, np.where(np.isnan(self.values), np.nan, 1.0)

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return mean_estimate(self.values, weights)


@dataclass(frozen=True, slots=True, eq=False)
class Proportion(Mean):
    """Proportion of images with value 1; values 0, 1 or NaN = the image does not enter, shape (N,)."""

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return proportion_estimate(self.values, weights)


@dataclass(frozen=True, slots=True, eq=False)
class MeanProportion(Mean):
    """Mean over images of one number each in [``least``, 1], shape (N,); NaN = the image does not enter."""

    least: float = 0.0

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return mean_proportion_estimate(self.values, weights, self.least)


@dataclass(frozen=True, slots=True, eq=False)
class RatioOfSums:
    """Ratio of two sums over images, terms of shape (N,); NaN = the image does not enter."""

    numerator: Floats
    denominator: Floats

    def terms(self) -> tuple[Floats, Floats]:
        return self.numerator, self.denominator

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return ratio_estimate(self.numerator, self.denominator, weights)


def among(images: Bools, values: Floats | Bools) -> Floats:
    """The values of the images in the mask, NaN for all others."""
    return np.where(images, values, np.nan)


def mean_of(values: Floats, images: Bools) -> float | None:
    """Mean of the values of the images in the mask, for a chance level; None without such images."""
    return float(values[images].mean()) if images.any() else None


@dataclass(frozen=True, slots=True)
class _Row:
    value: Value
    found: Resampled
    mean_at: At | None


@dataclass
class ValueRows:
    """Rows of a measurement, and their means over characteristics, which are averaged resample by resample.

    Args:
        subject: the subject; it states which characteristics were given or assigned.
        draws: number of resamples of an undefined value.
        level: confidence level.
        given_counts: True if given characteristics, whose latent dimensions were computed from the labels, enter the
            means. They do for the effect of a latent dimension on the image, but not for its information about the
            label.
        given: the given characteristics; None = those of the subject's model.
        findings: names of values with given characteristics in their means although ``given_counts`` is False, such as
            the information in other latent dimensions about a given label.
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
        at: At = NO_CONDITION,
        mean_at: At | None = NO_CONDITION,
        chance: float | None = None,
        reference: float | None = None,
        excluded: int = 0,
        note: str = "",
    ) -> None:
        """Adds one row.

        Args:
            name, characteristic, at, chance, reference, excluded, note: as in ``Value``. A row without a
                characteristic describes the whole image and enters no mean.
            found: the estimate with its resamples.
            mean_at: the ``at`` of the mean that the row enters; None = no mean. Given characteristics enter only as
                ``given_counts`` and ``findings`` allow.
        """
        given = characteristic in self._given
        kind = GIVEN if given else ASSIGNED if self.subject.assigned and characteristic else ""
        if characteristic is None:
            mean_at = None
        notes = joined_notes(kind, note, found.note)
        if given and not self.given_counts and name not in self.findings:
            mean_at = None
        estimate, in_mean = found.estimate, mean_at is not None
        value = Value(name, estimate, characteristic, dict(at), excluded, chance, reference, notes, in_mean)
        self._rows.append(_Row(value, found, mean_at))

    def undefined(self, name: str, characteristic: str, why: str, *, at: At = NO_CONDITION, excluded: int = 0) -> None:
        """Adds an undefined row with its reason."""
        self.add(name, characteristic, undefined_estimate(self.draws, why), at=at, mean_at=at, excluded=excluded)

    def values(self) -> tuple[Value, ...]:
        """All values: for each name the means, then the rows."""
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
            return [Value(name, undefined_estimate(self.draws, "").estimate, note="every characteristic was given")]
        means = []
        for at, group in groups.items():
            mean = mean_over([row.found for row in group], self.level)
            value = mean_value(name, [row.value for row in group], mean.estimate)
            note = joined_notes(value.note, mean.note if mean.defined else _reason(group))
            means.append(replace(value, at=dict(at), note=note))
        return means


def _reason(group: list[_Row]) -> str:
    """Reason why all rows are undefined, if they have the same one; else ""."""
    reasons = {row.found.note for row in group}
    return reasons.pop() if len(reasons) == 1 else ""


@dataclass
class ResultTable:
    """Collects the values of a metric; each row counts the images that do not enter it as excluded.

    Args:
        metric: the metric.
        subject: the subject.
        weights: the run's resamples.
        given_counts, given, findings: see ``ValueRows``.
    """

    metric: Metric
    subject: Subject
    weights: ResampleWeights
    given_counts: bool = True
    given: frozenset[str] | None = None
    findings: frozenset[str] = frozenset()
    rows: ValueRows = field(init=False)
    evidence: dict[str, NDArray[np.generic]] = field(default_factory=dict, init=False)
    _dimensions: dict[tuple[str, str], list[tuple[Resampled, float | None]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.rows = ValueRows(
            self.subject, self.weights.draws, self.weights.level, self.given_counts, self.given, self.findings
        )

    def estimated(
        self, name: str, characteristic: str | None, statistic: ImageStatistic, at: At = NO_CONDITION
    ) -> Resampled:
        """The estimate of an image statistic, whose terms are stored as evidence under its address."""
        place = [] if characteristic is None else [characteristic]
        address = "/".join([name, *place, *(f"{key}={value}" for key, value in at.items())])
        for term, column in zip(("numerator", "denominator"), statistic.terms(), strict=True):
            self.evidence[f"{address}/{term}"] = column
        return statistic.estimate(self.weights)

    def add(
        self,
        name: str,
        characteristic: str | None,
        statistic: ImageStatistic | Resampled | str,
        at: At = NO_CONDITION,
        *,
        mean_at: At | None = NO_CONDITION,
        chance: float | None = None,
        reference: float | None = None,
        why: str = "",
        note: str = "",
    ) -> Resampled:
        """Adds one row and returns its estimate.

        Args:
            name, characteristic, at, note: as in ``ValueRows.add``.
            statistic: an image statistic, or an estimate, or the reason why the value is undefined.
            mean_at: the ``at`` of the mean over characteristics that the row enters; None = no mean. The row of a
                single latent dimension enters its characteristic's row instead.
            chance, reference: values for comparison; dropped if the value is undefined.
            why: reason in case the value is undefined.
        """
        if isinstance(statistic, str):
            found, why = undefined_estimate(self.weights.draws, statistic), statistic
        elif isinstance(statistic, Resampled):
            found = statistic
        else:
            found = self.estimated(name, characteristic, statistic, at)
        if not found.defined:
            found = undefined_estimate(self.weights.draws, why or found.note, found.estimate.n)
            chance = reference = None
        if COLUMN in at and characteristic is not None:
            if mean_at is not None:
                self._dimensions.setdefault((name, characteristic), []).append((found, chance))
            mean_at = None
        excluded = len(self.subject) - found.estimate.n
        self.rows.add(
            name, characteristic, found, at=at, mean_at=mean_at, chance=chance, reference=reference,
            excluded=excluded, note=note,
        )  # fmt: skip
        return found

    enter = deprecated_method("enter", "add")

    def _add_means_over_dimensions(self) -> None:
        for (name, characteristic), rows in self._dimensions.items():
            mean = mean_over([found for found, _ in rows], self.weights.level)
            chances = [chance for _, chance in rows if chance is not None]
            chance = float(np.mean(chances)) if chances else None
            note = f"mean over {len(rows)} latent dimensions" if mean.defined else ""
            self.add(name, characteristic, mean, chance=chance, why=rows[0][0].note, note=note)
        self._dimensions.clear()

    def undefined(self, characteristic: str, why: str) -> None:
        """Adds every value of a characteristic as undefined for one reason."""
        for name in self.metric.values:
            self.add(name, characteristic, why)

    def measurement(self, notes: Sequence[str], pictures: Mapping[str, NDArray[np.generic]]) -> Measurement:
        """The measurement with all rows; its status is ``undefined`` if every row is."""
        self._add_means_over_dimensions()
        order = list(self.metric.values)
        rows = sorted(self.rows.values(), key=lambda value: order.index(value.name))
        values = tuple(_clipped(value, self.metric.values[value.name].range) for value in rows)
        undefined = not any(value.estimate.defined for value in values)
        reasons = dict.fromkeys(v.note for v in values if v.characteristic is not None)
        reasons = reasons or dict.fromkeys(v.note for v in values)
        return Measurement(
            self.metric.name,
            self.metric.version,
            settings_of(self.metric),
            self.metric.headline,
            values,
            "undefined" if undefined else "ok",
            Reason("undefined", "; ".join(reasons)) if undefined else None,
            self.evidence,
            pictures,
            tuple(notes),
        )


def _clipped(value: Value, ends: tuple[float | None, float | None]) -> Value:
    """The value with its interval clipped to its range, which basic intervals of means can exceed."""
    least, greatest = (-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1])
    low, high = np.clip([value.estimate.low, value.estimate.high], least, greatest)
    return replace(value, estimate=replace(value.estimate, low=float(low), high=float(high)))
