"""Result table: turns one number per image into the rows and means of a measurement.

A metric describes each value as an image statistic (``Mean``, ``Proportion``, ``MeanProportion``, ``RatioOfSums``),
an estimate or ``Undefined(reason)`` and adds it to a ``ResultTable``, which computes the estimate from the run's
resamples, adds the means over characteristics, and stores the per-image terms as evidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY, LargeArray, LargeArrays
from ccvae_eval.core.results import (
    BY,
    GAP,
    WORST,
    Estimate,
    Measurement,
    Reason,
    Value,
    mean_value,
    spec_at,
    too_few_images,
    undefined,
)
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.evaluation.deprecated import deprecated_method
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.model.interface import LabelSchema
from ccvae_eval.statistics.intervals import (
    Resampled,
    gap_between,
    mean_estimate,
    mean_over,
    mean_proportion_estimate,
    proportion_estimate,
    ratio_estimate,
    undefined_estimate,
    worst_of,
)
from ccvae_eval.statistics.resampling import ResampleWeights

At = Mapping[str, str | int | float]
NO_CONDITION: At = MappingProxyType({})

GIVEN, ASSIGNED, UNASSIGNED = "given", "assigned", "unassigned"
"""Notes on characteristics: their source, or that no latent dimension was assigned to them."""
ALL_GIVEN = "not measured: the encoder is given the labels"

COLUMN = "column"
"""Key in ``at`` of a single latent dimension; the characteristic's own row is the mean over such rows."""


def joined_notes(*parts: str) -> str:
    """Joins the parts that are not empty.

    >>> joined_notes("given", "", "one-vs-rest")
    'given; one-vs-rest'
    """
    return "; ".join(part for part in parts if part)


LEAST_IN_CLASS = 20
"""Images that a class of the label of ``--by`` needs for values of its own."""
ONE_CLASS = "fewer than two classes have enough images"

NO_CHARACTERISTIC = ""
"""Name under which a :class:`ColumnStore` keeps columns that belong to no single characteristic."""

NO_REGION = "the region is empty or too large in every image"
REGIONLESS = "has no region"
NO_LABEL = "every label is missing"
NO_JUDGE = "needs a judge"
NOT_SEPARATED = "classes not separated"
NOT_RELATED = "the codes do not depend linearly on the label"
ONE_VALUE = "the label has one value in these images"
UNCHANGED = "nothing changed in any image"
UNCHANGED_INSIDE = "nothing changes inside the region"
UNMOVED = "nothing moves inside the region"
NOT_PREDICTED = f"{UNASSIGNED}: no latent dimension predicts it above chance"


class ImageStatistic(Protocol):
    """A value that is a ratio of two sums over images; the evidence stores the terms of both sums.

    The evidence also stores the influence of each image, if the statistic has one (``HasInfluence``).
    """

    def terms(self) -> tuple[Floats, Floats]:
        """Numerator and denominator of each image, shape (N,), NaN = the image does not enter."""
        ...

    def estimate(self, weights: ResampleWeights) -> Resampled: ...


@runtime_checkable
class HasInfluence(Protocol):
    """An image statistic whose variance does not follow from its terms, such as a ROC area."""

    def influence(self) -> Floats:
        """Influence of each image on the value, shape (N,), mean 0 over the images that enter; NaN for the others."""
        ...


@runtime_checkable
class Restrictable(ImageStatistic, Protocol):
    """An image statistic with a value on some of the images."""

    def within(self, images: Bools) -> ImageStatistic | Undefined:
        """The statistic of the images in a mask, shape (N,), or the reason why they have none."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Mean over images of one number each, shape (N,); NaN = the image does not enter."""

    values: Floats

    def terms(self) -> tuple[Floats, Floats]:
        return self.values, np.where(np.isnan(self.values), np.nan, 1.0)

    def within(self, images: Bools) -> Mean:
        return replace(self, values=among(images, self.values))

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

    def within(self, images: Bools) -> RatioOfSums:
        return RatioOfSums(among(images, self.numerator), among(images, self.denominator))

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return ratio_estimate(self.numerator, self.denominator, weights)


@dataclass(frozen=True, slots=True)
class Undefined:
    """Takes the place of a statistic that has no number; the reason is a sentence for the reader."""

    reason: str


NO_OTHER_LABEL = Undefined("there is no other label to compare")

S = TypeVar("S")


def unless(why: str, statistic: S) -> S | Undefined:
    """The statistic, or ``Undefined(why)`` if there is a reason."""
    return Undefined(why) if why else statistic


@dataclass
class ColumnStore:
    """Columns with one row for each image, by characteristic and key; NaN where an image has no number.

    Args:
        images: number of images N.
        columns: column of each key, by characteristic, shape (N, ...); those of many images are in a temporary file.
        seen: mask of the images that were put, shape (N,).
    """

    images: int
    columns: dict[str, dict[str, Floats | LargeArray]] = field(default_factory=dict)
    seen: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.seen = np.zeros(self.images, bool)

    def put(self, name: str, rows: slice | Ids | Bools, found: Mapping[str, Floats]) -> None:
        """Fills some rows of the columns of one characteristic."""
        self.seen[rows] = True
        columns = self.columns.setdefault(name, {})
        for key, column in found.items():
            if key not in columns:
                columns[key] = self._empty(column.shape[1:])
            columns[key][rows] = column

    def _empty(self, shape: tuple[int, ...]) -> Floats | LargeArray:
        if self.images <= MAX_IN_MEMORY:
            return np.full((self.images, *shape), np.nan)
        stored = (column for columns in self.columns.values() for column in columns.values())
        file = next((column for column in stored if isinstance(column, LargeArray)), None)
        found = LargeArray((self.images, *shape), np.float64, file)
        for start in range(0, self.images, MAX_IN_MEMORY):
            found[start : start + MAX_IN_MEMORY] = np.nan
        return found

    def merge(self, other: ColumnStore) -> None:
        """Adds the rows of other images.

        Raises:
            UsageError: an image is in both stores.
        """
        both = np.flatnonzero(self.seen & other.seen)
        if len(both):
            raise UsageError(f"blocks of images must not overlap: {len(both)} images are in both, first row {both[0]}")
        for name, columns in other.columns.items():
            for key in columns:
                self.put(name, other.seen, {key: other.get(name, key)[other.seen]})

    def __contains__(self, address: tuple[str, str]) -> bool:
        return address[1] in self.columns.get(address[0], {})

    def get(self, name: str, key: str, count: int | None = None) -> Floats:
        """Return a column, or its first ``count`` rows; all NaN if it was never filled."""
        column = self.columns.get(name, {}).get(key)
        return np.full(self.images, np.nan)[:count] if column is None else column[:count]

    def stored(self, name: str, key: str) -> Floats | LargeArray:
        """Return a column that was filled; one with many rows is not read into memory."""
        return self.columns[name][key]

    def under(self, name: str, start: str) -> Mapping[str, Floats]:
        """Return the columns whose keys begin with ``start``, by the rest of the key."""
        found = {k.removeprefix(start): c for k, c in self.columns.get(name, {}).items() if k.startswith(start)}
        in_memory = {key: column for key, column in found.items() if isinstance(column, np.ndarray)}
        return in_memory if len(in_memory) == len(found) else LargeArrays(found)


def among(images: Bools, values: Floats | Bools) -> Floats:
    """The values of the images in the mask, NaN for all others."""
    return np.where(images, values, np.nan)


def mean_of(values: Floats, images: Bools | None = None) -> float | None:
    """Mean of the values of the images in the mask (None: where defined), for a chance level; None without images."""
    chosen = ~np.isnan(values) if images is None else images
    return float(values[chosen].mean()) if chosen.any() else None


@dataclass(frozen=True, slots=True)
class _Row:
    value: Value
    found: Resampled
    mean_at: At | None


def require_classes(by: str, schema: LabelSchema) -> None:
    """Refuses a label whose classes cannot be shown apart."""
    label = schema[by]
    if label.kind == "continuous":
        raise UsageError(f"label {by!r} is continuous and has no classes", where="--by")
    reserved = next((name for name in label.classes if name.rpartition(":")[2] in (WORST, GAP)), None)
    if reserved is not None:
        hint = f"Rename or merge it: --rename '{by}=...' (ccvae-eval explain folder)."
        raise UsageError(f"class {reserved!r} of label {by!r} has a reserved name", where="--by", hint=hint)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The images by class of the label of ``--by``.

    Args:
        label: name of the label.
        images: mask of the images of each class, shape (N,); an image without the label is in none.
    """

    label: str
    images: Mapping[str, Bools]

    def at(self, group: str) -> At:
        """The coordinate of a class, or of ``worst`` or ``gap``."""
        return {BY: f"{self.label}:{group}"}


class Sample(Protocol):
    """What a result table needs to know about the images: a :class:`~ccvae_eval.evaluation.subject.Subject` has it.

    The members are the number of images, the characteristics whose latent dimensions the encoder computes from the
    labels, whether latent dimensions were assigned to labels by the evaluation, and the images of each class of the
    label of ``--by``.
    """

    def __len__(self) -> int: ...

    @property
    def given(self) -> frozenset[str]: ...

    @property
    def assigned(self) -> bool: ...

    @property
    def groups(self) -> Groups | None: ...


@dataclass
class ResultTable:
    """Collects the values of a metric, and their means over characteristics, which are averaged resample by resample.

    Each row counts the images that do not enter it as excluded. With ``--by``, a row whose statistic has a value on
    some of the images is followed by one row for each class, at ``by=LABEL:CLASS``.

    Args:
        metric: the metric.
        subject: the images, with the characteristics that were given or assigned.
        weights: the run's resamples.
        given_counts: True if given characteristics, whose latent dimensions were computed from the labels, enter the
            means. They do for the effect of a latent dimension on the image, but not for its information about the
            label.
        given: the given characteristics; None = those of the subject's model.
        findings: names of values with given characteristics in their means although ``given_counts`` is False, such as
            the information in other latent dimensions about a given label.
    """

    metric: Metric
    subject: Sample
    weights: ResampleWeights
    given_counts: bool = True
    given: frozenset[str] | None = None
    findings: frozenset[str] = frozenset()
    evidence: MutableMapping[str, NDArray[np.generic]] = field(init=False)
    _rows: list[_Row] = field(default_factory=list, init=False)
    _dimensions: dict[tuple[str, str, str], list[tuple[Resampled, float | None]]] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        self.evidence = {} if len(self.subject) <= MAX_IN_MEMORY else LargeArrays()

    @property
    def _given(self) -> frozenset[str]:
        return self.subject.given if self.given is None else self.given

    def estimated(
        self, name: str, characteristic: str | None, statistic: ImageStatistic, at: At = NO_CONDITION
    ) -> Resampled:
        """The estimate of an image statistic, whose terms are stored as evidence under its address."""
        place = [] if characteristic is None else [characteristic]
        address = "/".join([name, *place, *(f"{key}={value}" for key, value in at.items())])
        for term, column in zip(("numerator", "denominator"), statistic.terms(), strict=True):
            self.evidence[f"{address}/{term}"] = column
        if isinstance(statistic, HasInfluence):
            self.evidence[f"{address}/influence"] = statistic.influence()
        return statistic.estimate(self.weights)

    def add(
        self,
        name: str,
        characteristic: str | None,
        statistic: ImageStatistic | Resampled | Estimate | Undefined | str,
        at: At = NO_CONDITION,
        *,
        mean_at: At | None = NO_CONDITION,
        chance: float | None = None,
        reference: float | None = None,
        why: str = "",
        note: str = "",
        excluded: int | None = None,
    ) -> Resampled:
        """Adds one row and returns its estimate.

        Args:
            name, characteristic, at, note: as in ``Value``. A row without a characteristic describes the whole image
                and enters no mean.
            statistic: an image statistic, an estimate with or without resamples, or ``Undefined(reason)``. The
                reason alone, as text, is deprecated.
            mean_at: the ``at`` of the mean over characteristics that the row enters; None = no mean. The row of a
                single latent dimension enters its characteristic's row instead, and a given characteristic enters only
                as ``given_counts`` and ``findings`` allow.
            chance, reference: values for comparison; dropped if the value is undefined.
            why: reason in case the value is undefined.
            excluded: number of images (or parts of a mean) left out; None = the images that do not enter.
        """
        if isinstance(statistic, str):
            message = "a text as statistic is deprecated, use Undefined(reason)"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            statistic = Undefined(statistic)
        if isinstance(statistic, Undefined):
            found, why = undefined_estimate(self.weights.draws, statistic.reason), statistic.reason
        elif isinstance(statistic, Resampled):
            found = statistic
        elif isinstance(statistic, Estimate):
            found = Resampled(statistic, np.full(self.weights.draws, np.nan))
        else:
            found = self.estimated(name, characteristic, statistic, at)
        split_at = mean_at if characteristic is not None else NO_CONDITION
        if not found.defined:
            found = undefined_estimate(self.weights.draws, why or found.note, found.estimate.n)
            chance = reference = None
        if COLUMN in at and characteristic is not None:
            if mean_at is not None:
                key = name, characteristic, str(at.get(BY, ""))
                self._dimensions.setdefault(key, []).append((found, chance))
            mean_at = None
        given = characteristic in self._given
        if characteristic is None or (given and not self.given_counts and name not in self.findings):
            mean_at = None
        assigned = self.subject.assigned and characteristic and not found.note.startswith(UNASSIGNED)
        kind = GIVEN if given else ASSIGNED if assigned else ""
        notes, in_mean = joined_notes(kind, note, found.note), mean_at is not None
        left_out = self._images_at(at) - found.estimate.n if excluded is None else excluded
        value = Value(name, found.estimate, characteristic, dict(at), left_out, chance, reference, notes, in_mean)
        self._rows.append(_Row(value, found, mean_at))
        groups = self.subject.groups
        if groups is not None and split_at is not None and BY not in at and isinstance(statistic, Restrictable):
            entering = ~np.isnan(statistic.terms()).any(axis=0)
            for group, images in groups.images.items():
                here, count = groups.at(group), int((entering & images).sum())
                rare = Undefined(too_few_images(count, LEAST_IN_CLASS, str(here[BY])))
                self.add(
                    name, characteristic, statistic.within(images) if count >= LEAST_IN_CLASS else rare,
                    {**at, **here}, mean_at={**split_at, **here}, why=why, note=note,
                    excluded=int(images.sum()) - count,
                )  # fmt: skip
        return found

    def _images_at(self, at: At) -> int:
        """Number of images that a row describes: those of its class, or all."""
        groups = self.subject.groups
        if groups is None or BY not in at:
            return len(self.subject)
        return next(int(images.sum()) for group, images in groups.images.items() if groups.at(group)[BY] == at[BY])

    enter = deprecated_method("enter", "add")

    def undefined(
        self, characteristic: str | None, why: str, names: Iterable[str] | None = None, at: At = NO_CONDITION
    ) -> None:
        """Adds some values of a characteristic, by default all, as undefined for one reason."""
        for name in self.metric.values if names is None else names:
            self.add(name, characteristic, Undefined(why), at, mean_at=at)

    def measurement(
        self, notes: Sequence[str], pictures: Mapping[str, NDArray[np.generic]], descriptive: Collection[str] = ()
    ) -> Measurement:
        """The measurement with all rows.

        Args:
            notes, pictures: as in ``Measurement``.
            descriptive: names of values that describe the sample; the status is ``undefined`` if every row of all other
                values is.
        """
        self._add_means_over_dimensions()
        specs = self.metric.values
        names = sorted({row.value.name for row in self._rows}, key=list(specs).index)
        values = tuple(
            _clipped(value, spec_at(specs[name], value.at).range) for name in names for value in self._values(name)
        )
        counted = [row.value for row in self._rows if row.value.name not in descriptive]
        undefined = not any(value.estimate.defined for value in counted)
        reasons = dict.fromkeys(value.note for value in counted if value.note)
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

    def _add_means_over_dimensions(self) -> None:
        for (name, characteristic, group), rows in self._dimensions.items():
            mean = mean_over([found for found, _ in rows], self.weights.level)
            chances = [chance for _, chance in rows if chance is not None]
            chance = float(np.mean(chances)) if chances else None
            note = f"mean over {len(rows)} latent dimensions" if mean.defined else ""
            at: At = {BY: group} if group else NO_CONDITION
            self.add(name, characteristic, mean, at, mean_at=at, chance=chance, why=rows[0][0].note, note=note)
        self._dimensions.clear()

    def _values(self, name: str) -> list[Value]:
        """The values of one name: the means over characteristics, then the rows."""
        rows = _in_every_class([row for row in self._rows if row.value.name == name])
        groups: dict[tuple[tuple[str, str | int | float], ...], list[_Row]] = {}
        for row in rows:
            if row.mean_at is not None:
                groups.setdefault(tuple(sorted(row.mean_at.items())), []).append(row)
        means = [self._mean(name, dict(at), group) for at, group in groups.items()]
        if not groups and all(row.value.characteristic in self._given for row in rows):
            undefined = undefined_estimate(self.weights.draws, "").estimate
            means = [Value(name, undefined, note=ALL_GIVEN)]
        values = [*means, *(row.value for row in rows)]
        by = self.subject.groups
        return values if by is None else values + self._summaries(by, values)

    def _summaries(self, groups: Groups, values: Sequence[Value]) -> list[Value]:
        """The worst class and the gap between the classes, of each value that has classes."""
        families: dict[tuple[object, ...], list[Value]] = {}
        for value in values:
            if BY in value.at:
                rest = sorted((key, x) for key, x in value.at.items() if key != BY)
                families.setdefault((value.characteristic, *rest), []).append(value)
        return [summary for family in families.values() for summary in self._summary(groups, family)]

    def _summary(self, groups: Groups, classes: Sequence[Value]) -> Iterator[Value]:
        first, level = classes[0], self.weights.level
        defined = [value for value in classes if value.estimate.defined]
        lacking = [str(value.at[BY]) for value in classes if not value.estimate.defined]
        higher = self.metric.values[first.name].higher_is_better
        without, parts = f"without {', '.join(lacking)}" if lacking else "", [value.estimate for value in defined]
        found = {what: (undefined(), ONE_CLASS) for what in (WORST, GAP)}
        if len(parts) > 1:
            worst = worst_of(parts, higher_is_better=bool(higher), level=level)
            which = next(str(v.at[BY]) for v in defined if v.estimate.value == worst.value)
            found = {
                WORST: (worst, joined_notes(which, without)), GAP: (gap_between(parts, level), without)
            }  # fmt: skip
        for what, (estimate, note) in found.items():
            if what == GAP or higher is not None:
                at = {**first.at, **groups.at(what)}
                yield Value(first.name, estimate, first.characteristic, at, len(lacking), note=note)

    def _mean(self, name: str, at: At, rows: list[_Row]) -> Value:
        left_out = undefined_estimate(self.weights.draws, "undefined for another class")
        founds = [row.found if row.value.in_mean or not row.found.defined else left_out for row in rows]
        mean = mean_over(founds, self.weights.level)
        reasons = {found.note for found in founds}
        reason = mean.note if mean.defined else reasons.pop() if len(reasons) == 1 else ""
        values = [replace(row.value, estimate=found.estimate) for row, found in zip(rows, founds, strict=True)]
        value = mean_value(name, values, mean.estimate)
        return replace(value, at=at, note=joined_notes(value.note, reason))


def _in_every_class(rows: Sequence[_Row]) -> list[_Row]:
    """The rows of one value, of which those by class enter a mean only if all classes have the characteristic.

    Otherwise the means of two classes would cover different characteristics. A class without any value does not count.
    """

    def mean_of_classes(row: _Row) -> tuple[object, ...]:
        return tuple(sorted((key, x) for key, x in (row.mean_at or {}).items() if key != BY))

    split = [row for row in rows if BY in (row.mean_at or {})]
    used = {(mean_of_classes(row), row.value.at[BY]) for row in split if row.found.defined}
    lacking = {
        (mean_of_classes(row), row.value.characteristic)
        for row in split
        if not row.found.defined and (mean_of_classes(row), row.value.at[BY]) in used
    }
    return [
        replace(row, value=replace(row.value, in_mean=False))
        if BY in (row.mean_at or {}) and (mean_of_classes(row), row.value.characteristic) in lacking
        else row
        for row in rows
    ]


def _clipped(value: Value, ends: tuple[float | None, float | None]) -> Value:
    """The value with its interval clipped to its range, which basic intervals of means can exceed."""
    least, greatest = (-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1])
    low, high = np.clip([value.estimate.low, value.estimate.high], least, greatest)
    return replace(value, estimate=replace(value.estimate, low=float(low), high=float(high)))
