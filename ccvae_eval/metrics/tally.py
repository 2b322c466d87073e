"""From one number per image to a measurement: estimates from common resamples, their rows, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.measure import Measurement, Reason, Value
from ccvae_eval.metrics.contract import Metric, settings_of
from ccvae_eval.metrics.rows import NOWHERE, At, Rows
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
from ccvae_eval.subject import Subject
from ccvae_eval.types import Bools, Floats

COLUMN = "column"
"""What ``at`` calls one column of a block: a characteristic's own row is the mean over such rows."""


class PerImage(Protocol):
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
class Share(Mean):
    """The share of images where a 0/1 number, shape (N,), is 1; NaN = the image does not enter."""

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return share_estimate(self.values, weights)


@dataclass(frozen=True, slots=True, eq=False)
class MeanShare(Mean):
    """The mean over images of a share of each, or of its gain (``least`` -1); NaN = the image does not enter."""

    least: float = 0.0

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return bounded_estimate(self.values, weights, self.least)


@dataclass(frozen=True, slots=True, eq=False)
class Ratio:
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
class Tally:
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

    def estimated(self, name: str, characteristic: str | None, what: PerImage, at: At = NOWHERE) -> Resampled:
        """The estimate of a number per image, which goes into the evidence at its address."""
        whose = [] if characteristic is None else [characteristic]
        address = "/".join([name, *whose, *(f"{key}={value}" for key, value in at.items())])
        for term, column in zip(("numerator", "denominator"), what.terms(), strict=True):
            self.evidence[f"{address}/{term}"] = column
        return what.estimate(self.weights)

    def enter(
        self,
        name: str,
        characteristic: str | None,
        what: PerImage | Resampled | str,
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
            self.enter(name, characteristic, mean, chance=chance, why=columns[0][0].note, note=note)
        self._columns.clear()

    def undefined(self, characteristic: str, why: str) -> None:
        """Every value of a characteristic is undefined for one reason."""
        for name in self.metric.values:
            self.enter(name, characteristic, why)

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
