"""Comparison of models: is one better than another, or is the difference noise?

Runs of single models are compared image by image, from their evidence: no model is loaded. A mean over images is
tested by sign flips of the paired differences, any other value by the studentised paired bootstrap
(:mod:`ccvae_eval.statistics.paired`). Groups of training seeds are compared by Welch's t on the values of the seeds.

The means over characteristics are one family of tests, and the single characteristics another. P-values are adjusted
within each family (Holm 1979); confidence intervals are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import import_module
from itertools import combinations, islice
from string import ascii_uppercase

import numpy as np

from ccvae_eval.comparison.comparable import name_of, require_comparable, require_seeds
from ccvae_eval.core.errors import InputError, UsageError, suggestion
from ccvae_eval.core.results import BY, GAP, Measurement, Value, spec_at, summary_of
from ccvae_eval.core.typed import plain
from ccvae_eval.core.types import Floats, Ids, Plain
from ccvae_eval.evaluation.run import Address, Run, numbers_at
from ccvae_eval.statistics.paired import (
    DRAWS,
    MIN_IMAGES,
    UNDEFINED,
    Contributions,
    Difference,
    holm,
    sign_flip_p_values,
    standard_error,
    studentised_intervals,
    weighted_sum,
    welch,
)
from ccvae_eval.statistics.resampling import ResampleWeights

LEVEL = 0.05
MIN_SEEDS = 3
IMAGES, SEEDS = "images", "training seeds"
NOT_COMPARED = "not compared"
WITH_INFLUENCE = {("accuracy", "auc"), ("accuracy", "balanced_accuracy"), ("density", "auc")}
"""Values whose tests need the influence of every image, which early versions did not store."""
NO_EVIDENCE = "it has no contributions of single images; compare training seeds instead (--group)"
INCONSISTENT = 1e-6
"""Relative difference from the value in run.json above which the evidence does not belong to the value."""


@dataclass(frozen=True, slots=True)
class ComparedValue:
    """One value of two models.

    Args:
        address: which value; without a characteristic, the mean over characteristics.
        models: labels of the two models, such as ("A", "B").
        first, second: the value of each, on the images (and characteristics) that are defined for both.
        difference: first minus second.
        adjusted_p: p-value adjusted for the family of the value.
        family: number of tests in that family.
        higher_is_better: direction of the value; None if neither is better.
        note: why the difference is undefined, or a caveat.
    """

    address: Address
    models: tuple[str, str]
    first: float
    second: float
    difference: Difference
    adjusted_p: float = math.nan
    family: int = 1
    higher_is_better: bool | None = None
    note: str = ""

    @property
    def compared(self) -> bool:
        """True if there is a difference; ``note`` says why not."""
        return not math.isnan(self.difference.value)

    @property
    def equal(self) -> bool:
        """True if the models do not differ in any image or training seed."""
        return self.difference.value == 0 and self.difference.standard_error == 0

    @property
    def smallest_detectable(self) -> float:
        """Difference found with a power of 80% at the level that Holm's method asks of the smallest p-value."""
        return self.difference.smallest_detectable(LEVEL / self.family)

    @property
    def higher(self) -> str | None:
        """Label of the model with the significantly higher value; None without evidence of a difference."""
        if not self.adjusted_p < LEVEL:
            return None
        return self.models[0] if self.difference.value > 0 else self.models[1]

    @property
    def better(self) -> str | None:
        """Label of the significantly better model; None without evidence of a difference or without a direction."""
        if self.higher is None or self.higher_is_better is None:
            return None
        return self.higher if self.higher_is_better else next(m for m in self.models if m != self.higher)

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not self.compared:
            return f"{NOT_COMPARED}: {self.note}"
        if self.equal:
            return "no evidence of a difference (equal throughout)"
        if math.isnan(self.adjusted_p):
            return "no evidence of a difference (too few images differ for a test)"
        if self.higher is None:
            return f"no evidence of a difference (smallest detectable {self.smallest_detectable:.2g})"
        return f"{self.better} better" if self.better else f"{self.higher} higher"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more models, value by value and pair by pair.

    Args:
        models: label -> what it is, such as "A" -> the path of a checkpoint.
        values: the means over characteristics first, then the single characteristics.
        unit: what varies between repetitions: "images" or "training seeds".
        notes: sentences for the reader.
    """

    models: Mapping[str, str]
    values: tuple[ComparedValue, ...]
    unit: str
    notes: tuple[str, ...] = ()

    @property
    def means(self) -> tuple[ComparedValue, ...]:
        """The values that belong to no single characteristic."""
        return tuple(value for value in self.values if value.address.characteristic is None)

    @property
    def singles(self) -> tuple[ComparedValue, ...]:
        """The values of single characteristics."""
        return tuple(value for value in self.values if value.address.characteristic is not None)

    def __getitem__(self, key: str | tuple[str, str, str]) -> ComparedValue:
        """The value at ``metric.value[@characteristic]``; of more than two models ``[address, first, second]``.

        Raises:
            UsageError: the comparison has no such value.
        """
        address, *pair = (key,) if isinstance(key, str) else key
        place = Address.parse(address)
        found = [v for v in self.values if v.address == place and (not pair or list(v.models) == pair)]
        if len(found) > 1:
            raise UsageError(f"{address} has {len(found)} pairs of models", hint=f"Name one: [{address!r}, 'A', 'B'].")
        if not found:
            known = {str(v.address) for v in self.values}
            raise UsageError(f"the comparison has no value {str(place)!r}", hint=suggestion(str(place), known))
        return found[0]

    def __str__(self) -> str:
        """The table of the command, without colours."""
        return str(import_module("ccvae_eval.comparison.table").text(self))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def best(self, address: Address) -> str | None:
        """Label of the model that is significantly better than every other one at an address; None if there is none."""
        wins = [value.better for value in self.values if value.address == address]
        return next((m for m in self.models if wins.count(m) == len(self.models) - 1), None)

    def as_plain(self) -> dict[str, Plain]:
        """The comparison as plain data; NaN becomes None."""
        return {
            "models": dict(self.models),
            "unit": self.unit,
            "level": LEVEL,
            "notes": list(self.notes),
            "values": [
                {
                    "address": str(v.address),
                    "models": list(v.models),
                    "first": plain(v.first),
                    "second": plain(v.second),
                    "difference": plain(v.difference.value),
                    "low": plain(v.difference.low),
                    "high": plain(v.difference.high),
                    "p": plain(v.difference.p),
                    "adjusted_p": plain(v.adjusted_p),
                    "family": v.family,
                    "smallest_detectable": plain(v.smallest_detectable),
                    "n": v.difference.n,
                    "verdict": v.verdict,
                    "note": v.note,
                }
                for v in self.values
            ],
        }


def compare(
    *models: Run | Mapping[str, Sequence[Run]],
    values: Sequence[str] | None = None,
    characteristics: Sequence[str] | None = None,
) -> Comparison:
    """Compares models: ``compare(a, b)``, or ``compare({"ours": [r1, r2, r3], "csvae": [...]})`` over training seeds.

    Args:
        *models: two or more runs with evidence, of the same images, seed, judge, regions and settings; or one mapping
            from the name of each method to its runs, one for each training seed, at least three.
        values: addresses ``metric.value[@characteristic]``; default: the headline of every metric that all runs have.
            An address without a characteristic stands for the mean and for every single characteristic.
        characteristics: compare only these single characteristics, and means over them.

    Raises:
        UsageError: the runs are not comparable; the message names what differs and the command that makes them agree.
    """
    if len(models) == 1 and isinstance(models[0], Mapping):
        return _compare_groups(models[0], values, characteristics)
    runs = [model for model in models if isinstance(model, Run)]
    if len(runs) < len(models) or not 2 <= len(runs) <= len(ascii_uppercase):
        raise UsageError(
            f"two to {len(ascii_uppercase)} runs can be compared, got {len(models)}",
            hint="Runs of one method with several training seeds are one group.",
        )
    labelled = dict(zip(ascii_uppercase, runs, strict=False))
    for (one, a), (other, b) in combinations(labelled.items(), 2):
        require_comparable(a, b, one, other)
    for run in runs:
        if not run.ids:
            hint = "Keep evidence.npz beside run.json, or evaluate the checkpoint again."
            raise UsageError("the run has no evidence", where=name_of(run), hint=hint)
    addresses = _addresses(runs, values)
    found: list[ComparedValue] = []
    for metric in dict.fromkeys(address.metric for address in addresses):
        own = [address for address in addresses if address.metric == metric]
        for (one, a), (other, b) in combinations(labelled.items(), 2):
            found += _compared(a, b, (one, other), own, characteristics)
    names = {label: name_of(run) for label, run in labelled.items()}
    return Comparison(names, _adjusted(_distinct(found) if characteristics is None else found), IMAGES, _notes(runs))


def _addresses(runs: Sequence[Run], values: Sequence[str] | None) -> list[Address]:
    """The addresses to compare.

    Raises:
        UsageError: the runs have no metric in common, or one of them lacks a requested metric or value.
    """
    if values is not None:
        places = [Address.parse(text) for text in values]
        for place in places:
            for run in runs:
                run.find(place)
        return [replace(place, end="") for place in places]
    common = [m for m in runs[0] if all(any(o.metric == m.metric for o in run) for run in runs[1:])]
    if not common:
        raise UsageError("the runs have no metric in common", hint="Evaluate all with the same --metric options.")
    return [Address(m.metric, m.headline) for m in common]


def _notes(runs: Sequence[Run]) -> tuple[str, ...]:
    counts = Counter(m.metric for run in runs for m in run)
    partial = sorted(metric for metric, count in counts.items() if count < len(runs))
    return (f"not in every run: {', '.join(partial)}",) if partial else ()


def _distinct(values: Sequence[ComparedValue]) -> Sequence[ComparedValue]:
    """The values without those that repeat a mean, because it covers the only characteristic."""
    if len({value.address.characteristic for value in values} - {None}) != 1:
        return values
    means = {(v.address, v.models): v.difference for v in values if v.address.characteristic is None}

    def of_mean(v: ComparedValue) -> Difference | None:
        return means.get((replace(v.address, characteristic=None), v.models))

    return [v for v in values if v.address.characteristic is None or v.difference != of_mean(v)]


def _adjusted(values: Sequence[ComparedValue]) -> tuple[ComparedValue, ...]:
    """The values with p-values adjusted in the families of means and of single characteristics; means first."""
    rows: list[ComparedValue] = []
    for single in (False, True):
        family = [value for value in values if (value.address.characteristic is not None) == single]
        p_values = [value.difference.p for value in family]
        size = max(1, sum(not math.isnan(p) for p in p_values))
        rows += [replace(v, adjusted_p=p, family=size) for v, p in zip(family, holm(p_values), strict=True)]
    return tuple(rows)


# --- image by image ---------------------------------------------------------------------------------------------

_Pair = tuple[Contributions, Contributions]


@dataclass(frozen=True, slots=True)
class _Side:
    """One metric of one run, its rows aligned with the images of both runs."""

    label: str
    run: Run
    measurement: Measurement
    places: Ids
    images: int

    def contributions(self, value: Value, only: Collection[str | None] = ()) -> Contributions | str:
        """The evidence of a value; the reason if there is none.

        Args:
            value: a value of the run.
            only: the characteristics that a worst class or gap of a mean covers; empty = all of them.
        """
        if summary_of(value.at):
            every = self.averaged(value)
            found = self._of_classes(value, only or every)
            if only and set(only) != every:
                return found
        else:
            found = self._of_images(value)
        if isinstance(found, str):
            return found
        if not math.isclose(found.value, value.estimate.value, rel_tol=INCONSISTENT, abs_tol=INCONSISTENT):
            return f"the evidence of {self.label} gives {found.value:.6g}, the run states {value.estimate.value:.6g}"
        return found

    def _of_images(self, value: Value) -> Contributions | str:
        at = (f"{key}={x}" for key, x in value.at.items())
        address = "/".join(part for part in (value.name, value.characteristic, *at) if part)
        numerator, denominator, influence = (
            self._column(f"{address}/{part}") for part in ("numerator", "denominator", "influence")
        )
        if numerator is None or denominator is None:
            return NO_EVIDENCE
        if influence is None and (self.measurement.metric, value.name) in WITH_INFLUENCE:
            return self.outdated
        return Contributions(numerator, denominator, influence)

    def _class_rows(self, value: Value) -> list[list[Value]]:
        """The defined rows of each class of a worst class or gap; those that a mean over characteristics averages."""
        own = [
            v for v in self.measurement.values
            if v.name == value.name and set(v.at) == {BY} and not summary_of(v.at) and v.estimate.defined
        ]  # fmt: skip
        classes = [v for v in own if v.characteristic == value.characteristic]
        if value.characteristic is not None:
            return [[v] for v in classes]
        # the mean of a class has no evidence of its own
        return [[v for v in own if v.at == mean.at and v.in_mean] or [mean] for mean in classes]

    def averaged(self, value: Value) -> set[str | None]:
        """The characteristics that the mean of a worst class or gap covers."""
        return {v.characteristic for rows in self._class_rows(value) for v in rows}

    def _of_classes(self, value: Value, only: Collection[str | None]) -> Contributions | str:
        """The contributions to the worst class or to the gap, with the classes that are extreme in this run."""
        rows = [[v for v in rows if v.characteristic in only] for rows in self._class_rows(value)]
        found = {id(v): self._of_images(v) for of_class in rows for v in of_class}
        if reasons := [each for each in found.values() if isinstance(each, str)]:
            return reasons[0]
        means = [
            weighted_sum(
                [(1 / len(of_class), each) for v in of_class if isinstance(each := found[id(v)], Contributions)]
            )
            for of_class in rows
        ]
        means.sort(key=lambda mean: mean.value)
        if summary_of(value.at) == GAP:
            return weighted_sum([(1.0, means[-1]), (-1.0, means[0])])
        spec = self.run.specs.get(self.measurement.metric, {}).get(value.name)
        return means[0 if spec is None or spec.higher_is_better else -1]

    @property
    def outdated(self) -> str:
        """The reason if the evidence has no influences."""
        return f"the evidence of {self.label} was written by an earlier version; evaluate the checkpoint again"

    def _column(self, key: str) -> Floats | None:
        if key not in self.measurement.evidence:
            return None
        own = self.measurement.evidence[key]
        if own.shape != self.places.shape or own.dtype.kind not in "biuf":
            what = f"the evidence {key!r} must be a number for each of {len(self.places)} images"
            raise InputError(what, where=self.label, why=f"it has the shape {own.shape} and the type {own.dtype}")
        column = np.full(self.images, np.nan)
        column[self.places] = own
        return column


def _sides(first: Run, second: Run, labels: tuple[str, str], metric: str) -> tuple[_Side, _Side]:
    """Both runs on the union of their images: a model without characteristics is evaluated on half of them."""
    ids = [np.asarray(run.ids.get(metric, np.empty(0, dtype=np.int64))) for run in (first, second)]
    union = np.union1d(*ids)
    one, other = (
        _Side(label, run, run.measurement(metric), np.searchsorted(union, own), len(union))
        for label, run, own in zip(labels, (first, second), ids, strict=True)
    )
    return one, other


def _compared(
    first: Run,
    second: Run,
    labels: tuple[str, str],
    addresses: Sequence[Address],
    characteristics: Sequence[str] | None,
) -> list[ComparedValue]:
    """The values of one metric: for each address the mean, then every characteristic."""
    metric = addresses[0].metric
    a, b = _sides(first, second, labels, metric)
    found: list[ComparedValue] = []
    tests: list[tuple[ComparedValue, list[_Pair]]] = []
    for address in addresses:
        spec = first.specs.get(metric, {}).get(address.name)
        better = None if spec is None else spec_at(spec, address.at).higher_is_better
        for place, values, pairs, note in _questions(a, b, address, characteristics):
            row = ComparedValue(place, labels, *values, UNDEFINED, higher_is_better=better, note=note)
            if pairs:
                tests.append((row, pairs))
            found.append(row)
    tested = _tested(tests, first.header.seed, a.images)
    return [tested.get((row.address, row.models), row) for row in found]


def _questions(
    a: _Side, b: _Side, address: Address, characteristics: Sequence[str] | None
) -> Iterator[tuple[Address, tuple[float, float], list[_Pair], str]]:
    """Yields for each row its address, both values, the pairs of contributions it averages, and a note."""
    rows = (
        a.run.table(address.metric, address.name, address.by), b.run.table(address.metric, address.name, address.by)
    )  # fmt: skip
    names = [c for c in rows[0] if c is not None and c in rows[1]]
    if characteristics is not None:
        names = [name for name in names if name in characteristics]
    found = {name: _pair(a, b, rows[0][name], rows[1][name]) for name in names}
    if address.characteristic is None:
        yield _mean_question(a, b, address, found, rows)
    for name in names if address.characteristic is None else [address.characteristic]:
        pair = found.get(name, "not in both runs")
        values = (rows[0][name].estimate.value, rows[1][name].estimate.value)
        note = pair if isinstance(pair, str) else ""
        yield replace(address, characteristic=name), values, [] if isinstance(pair, str) else [pair], note


def _mean_question(
    a: _Side,
    b: _Side,
    address: Address,
    found: Mapping[str, _Pair | str],
    rows: tuple[Mapping[str | None, Value], Mapping[str | None, Value]],
) -> tuple[Address, tuple[float, float], list[_Pair], str]:
    """The mean over the characteristics that are comparable, or the value of the whole image."""
    values = tuple(row[None].estimate.value if None in row else math.nan for row in rows)
    both = (values[0], values[1])
    if summary_of(address.at) and None in rows[0] and None in rows[1]:
        sets = a.averaged(rows[0][None]), b.averaged(rows[1][None])
        shared = sets[0] & sets[1] & {None, *found}
        pair: _Pair | str = "no characteristic is in both runs"
        if shared:
            pair = _pair(a, b, rows[0][None], rows[1][None], shared)
        count = len(sets[0] | sets[1])
        note = f"mean over {len(shared)} of {count} characteristics" if shared and len(shared) < count else ""
        return (address, both, [], pair) if isinstance(pair, str) else (address, both, [pair], note)
    averaged = [name for name in found if rows[0][name].in_mean and rows[1][name].in_mean]
    if not averaged and None in rows[0] and None in rows[1]:
        whole = _pair(a, b, rows[0][None], rows[1][None])
        return (address, both, [], whole) if isinstance(whole, str) else (address, both, [whole], "")
    pairs = [pair for name in averaged if not isinstance(pair := found[name], str)]
    reasons = dict.fromkeys(pair for name in averaged if isinstance(pair := found[name], str))
    if not pairs:
        status = (f"{m.status} in {side.label}: {m.reason.text}" for side in (a, b) if (m := side.measurement).reason)
        return address, both, [], "; ".join(reasons) or "; ".join(status) or "not in both runs"
    missing = [name for name in averaged if isinstance(found[name], str)]
    note = f"mean over {len(pairs)} of {len(averaged)} characteristics, without {', '.join(missing)}" if missing else ""
    return address, both, pairs, note


def _pair(a: _Side, b: _Side, first: Value, second: Value, only: Collection[str | None] = ()) -> _Pair | str:
    """Both contributions to one value on the images that enter both; the reason if they cannot be compared.

    A worst class or gap of a mean covers the characteristics in ``only``; empty = all.
    A value with an influence of its own, such as a ROC area, is not restricted: each model has its own images.
    """
    reasons: dict[str, list[str]] = {}
    for side, v in ((a, first), (b, second)):
        if not v.estimate.defined:
            reasons.setdefault(_why(v), []).append(side.label)
    if reasons:
        return "; ".join(f"undefined in {' and '.join(labels)}{why}" for why, labels in reasons.items())
    if _methods(first.note) != _methods(second.note):
        ways = (f"{side.label}: {v.note or 'as defined'}" for side, v in ((a, first), (b, second)))
        return f"measured in two ways ({'; '.join(ways)})"
    one, other = a.contributions(first, only), b.contributions(second, only)
    if isinstance(one, str) or isinstance(other, str):
        return one if isinstance(one, str) else str(other)
    both = one.entering & other.entering
    disjoint = summary_of(first.at) != "" and min(one.entering.sum(), other.entering.sum()) >= MIN_IMAGES
    if both.sum() < MIN_IMAGES and not disjoint:  # the worst classes of two models may be different ones
        return f"{int(both.sum())} images enter both values, {MIN_IMAGES} are needed"
    if (one.own_influence is None) != (other.own_influence is None):
        return a.outdated if one.own_influence is None else b.outdated
    if one.own_influence is not None:
        return one, other
    one, other = one.only(both), other.only(both)
    return "the denominators sum to 0" if math.isnan(one.value) or math.isnan(other.value) else (one, other)


def _why(value: Value) -> str:
    """Reason and remedy of a value without a number."""
    remedy = f" -> {value.remedy}" if value.remedy.startswith("--") else ""
    return f": {value.note}{remedy}" if value.note else ""


def _methods(note: str) -> set[str]:
    """How a value was measured, where a note begins with a method: "1-SSIM: 2 textured points ..." -> "1-SSIM"."""
    return {part.partition(": ")[0] for part in note.split("; ") if ": " in part}


def _tested(
    tests: Sequence[tuple[ComparedValue, list[_Pair]]], seed: int, images: int
) -> dict[tuple[Address, tuple[str, str]], ComparedValue]:
    """The rows with their tests; all tests share the resamples, and all sign-flip tests the signs."""
    firsts = [float(np.mean([one.value for one, _ in pairs])) for _, pairs in tests]
    seconds = [float(np.mean([other.value for _, other in pairs])) for _, pairs in tests]
    differences = [one - other for one, other in zip(firsts, seconds, strict=True)]
    influences = [np.mean([one.influence() - other.influence() for one, other in pairs], axis=0) for _, pairs in tests]
    intervals = studentised_intervals(differences, influences, ResampleWeights(seed, images, draws=DRAWS))
    flips = {
        k: np.mean([one.shares() - other.shares() for one, other in pairs], axis=0)
        for k, (_, pairs) in enumerate(tests)
        if all(one.is_mean and other.is_mean for one, other in pairs)
    }
    flipped = sign_flip_p_values(np.stack(list(flips.values()), axis=1), seed) if flips else np.empty(0)
    p_values = dict(zip(flips, flipped.tolist(), strict=True))
    found = {}
    for k, (row, pairs) in enumerate(tests):
        low, high, p = intervals[k]
        entering = np.any([one.entering | other.entering for one, other in pairs], axis=0)
        difference = Difference(
            differences[k], low, high, p_values.get(k, p), standard_error(influences[k]), int(entering.sum())
        )
        found[row.address, row.models] = replace(row, first=firsts[k], second=seconds[k], difference=difference)
    return found


# --- training seeds ---------------------------------------------------------------------------------------------


def _compare_groups(
    groups: Mapping[str, Sequence[Run]], values: Sequence[str] | None, characteristics: Sequence[str] | None
) -> Comparison:
    """Methods compared over training seeds: each run is one seed, the unit of the test."""
    if len(groups) < 2:
        raise UsageError(f"at least two groups are needed, got {len(groups)}")
    for name, runs in groups.items():
        if len(runs) < MIN_SEEDS:
            raise UsageError(f"group {name!r} must have at least {MIN_SEEDS} runs, got {len(runs)}")
        require_seeds(name, [(name_of(run), run) for run in runs])
    every = [(name, run) for name, runs in groups.items() for run in runs]
    for name, run in every[1:]:
        require_comparable(every[0][1], run, f"{every[0][0]} ({name_of(every[0][1])})", f"{name} ({name_of(run)})")
    runs = [run for _, run in every]
    found: list[ComparedValue] = []
    for address in _addresses(runs, values):
        spec = runs[0].specs.get(address.metric, {}).get(address.name)
        better = None if spec is None else spec_at(spec, address.at).higher_is_better
        for place in _seed_addresses(runs, address, characteristics):
            column = iter(numbers_at(runs, place, characteristics))
            numbers = {name: list(islice(column, len(own))) for name, own in groups.items()}
            for one, other in combinations(groups, 2):
                defined = not any(map(math.isnan, (*numbers[one], *numbers[other])))
                difference = welch(numbers[one], numbers[other]) if defined else UNDEFINED
                note = "" if not math.isnan(difference.value) else "undefined for some training seed"
                means = [float(np.mean(numbers[name])) for name in (one, other)]
                found.append(ComparedValue(place, (one, other), means[0], means[1], difference,
                                           higher_is_better=better, note=note))  # fmt: skip
    names = {name: f"{len(runs)} training seeds" for name, runs in groups.items()}
    return Comparison(names, _adjusted(_distinct(found) if characteristics is None else found), SEEDS, _notes(runs))


def _seed_addresses(runs: Sequence[Run], address: Address, characteristics: Sequence[str] | None) -> list[Address]:
    """The rows of an address: the mean, then every characteristic of the first run; or the single one it names."""
    if address.characteristic is not None:
        return [address]
    names = [c for c in runs[0].table(address.metric, address.name, address.by) if c is not None]
    wanted = [name for name in names if characteristics is None or name in characteristics]
    return [address, *(replace(address, characteristic=name) for name in wanted)]
