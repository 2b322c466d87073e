"""The tables of a recipe, from the runs of its cells; means over training seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Estimate, Value, ValueSpec
from ccvae_eval.core.types import Plain
from ccvae_eval.evaluation.run import Run
from ccvae_eval.recipes.recipe import ANY, GridPoint, RecipeCell, TableSpec
from ccvae_eval.recipes.work import PreparedRecipe, result_of, training_of
from ccvae_eval.rendering.grids import Entry, Grid
from ccvae_eval.statistics.paired import over_seeds

TRAINING = "training."
NO_INTERVAL = ("no interval", "no confidence interval")
"""Beginnings of the notes that explain a missing interval."""


def grids_of(prepared: PreparedRecipe) -> list[Grid]:
    """The recipe's tables from the existing results; an entry without a result is undefined and says why."""
    runs = [(cell, result_of(prepared, cell)) for cell in prepared.cells]
    return [_grid(prepared, table, runs) for table in prepared.recipe.tables]


def _grid(prepared: PreparedRecipe, table: TableSpec, runs: Sequence[tuple[RecipeCell, Run | None]]) -> Grid:
    recipe = prepared.recipe
    points = list(recipe.points())
    excluded = _undefined_somewhere([run for _, run in runs if run is not None], table)
    rows = []
    for experiment in recipe.experiments:
        published = table.published.get(experiment.name, (None,) * len(points))
        entries = []
        for point, number in zip(points, published, strict=True):
            here = [(cell, run) for cell, run in runs if (cell.experiment, cell.point) == (experiment.name, point)]
            estimate, chance, note = _entry(prepared, here, table, excluded)
            entries.append(Entry(estimate, number, chance, note))
        rows.append((experiment.name, tuple(entries)))
    axes = [axis.removeprefix("set.") for axis in recipe.axes]
    spec = _spec(prepared, table)
    return Grid(
        table.title,
        tuple(", ".join(_column_name(value) for _, value in point) for point in points),
        tuple(rows),
        ", ".join(axes),
        _positions(points),
        spec.higher_is_better if spec else None,
        table.published_as,
        spec.chance if spec else "",
        tuple(sorted(excluded)),
    )


def _undefined_somewhere(runs: Iterable[Run], table: TableSpec) -> frozenset[str]:
    """Characteristics that are undefined in some run; they are excluded from all means of the table.

    Otherwise a model would gain by being undefined where it performs badly. A run without defined values excludes none.
    """
    found: set[str] = set()
    for run in runs:
        own = _values_to_average(run, table)
        undefined = {value.characteristic or "" for value in own if not value.estimate.defined}
        if len(undefined) < len(own):
            found |= undefined
    return frozenset(found)


def _values_to_average(run: Run, table: TableSpec) -> list[Value]:
    """The per-characteristic values that a table averages; empty if it shows a single value of the run."""
    pattern = table.value.partition("@")[2]
    if table.at or (pattern and ANY not in pattern):
        return []
    values = [value for m in run.measurements if m.metric == table.metric for value in m.values]
    values = [value for value in values if value.name == table.name and not value.at]
    # a pattern selects characteristics even if they do not enter the metric's own mean (labels given to the encoder)
    return [v for v in values if (_matches_characteristic(v, pattern) if pattern else v.in_mean)]


def _entry(
    prepared: PreparedRecipe, runs: Sequence[tuple[RecipeCell, Run | None]], table: TableSpec, excluded: frozenset[str]
) -> tuple[Estimate, float, str]:
    """Estimate over the seeds of one grid point, mean chance level of its runs, and a note if it is undefined."""
    if table.value.startswith(TRAINING):
        name = table.value.removeprefix(TRAINING)
        return over_seeds([training_of(prepared, cell).get(name, math.nan) for cell, _ in runs]), math.nan, ""
    existing = [run for _, run in runs if run is not None]
    if len(existing) < len(runs):
        why = f"{len(runs) - len(existing)} of {len(runs)} cells have no result"
        return Estimate(math.nan, n=len(existing)), math.nan, why
    try:
        found = [_value(run, table, excluded) for run in existing]
    except UsageError as error:
        reasons = [m.reason.text for run in existing for m in run.measurements if m.reason and m.metric == table.metric]
        return Estimate(math.nan), math.nan, reasons[0] if reasons else error.what
    chances = [value.chance for value in found if value.chance is not None and value.estimate.defined]
    chance = math.fsum(chances) / len(chances) if chances else math.nan
    if len(found) == 1:
        return found[0].estimate, chance, found[0].note
    # a missing interval of a single run does not concern the interval over seeds
    note = "; ".join(part for part in found[0].note.split("; ") if not part.startswith(NO_INTERVAL))
    spec = _spec(prepared, table)
    values = [value.estimate.value for value in found]
    return over_seeds(values, spec.range if spec else (None, None)), chance, note


def _value(run: Run, table: TableSpec, excluded: frozenset[str]) -> Value:
    """The table's value in one run: a single value, or a mean over characteristics (without an interval).

    Raises:
        UsageError: the run has no such value.
    """
    pattern = table.value.partition("@")[2]
    if not table.at and ANY not in pattern:
        single = run.find(table.value)
        values = _values_to_average(run, table)
        if not any(value.estimate.defined and value.characteristic in excluded for value in values):
            return single
        return _mean(values, excluded, single)
    found = [
        value
        for value in run.measurement(table.metric).values
        if value.name == table.name and _matches_at(value, table.at) and _matches_characteristic(value, pattern)
    ]
    if not found:
        raise UsageError(f"the run has no value {table.title}")
    return _mean(found, excluded, found[0]) if ANY in pattern else found[0]


def _mean(values: Sequence[Value], excluded: frozenset[str], template: Value) -> Value:
    """Mean over the characteristics that are not excluded, as a copy of a template; undefined if none is left."""
    kept = [value for value in values if value.estimate.defined and value.characteristic not in excluded]
    if not kept:
        undefined = "no characteristic is defined in every run; for a table of a single one use VALUE@LABEL"
        note = undefined if template.estimate.defined else template.note
        return replace(template, estimate=Estimate(math.nan), note=note)
    chances = [value.chance for value in kept if value.chance is not None]
    return replace(
        template,
        estimate=Estimate(float(np.mean([value.estimate.value for value in kept])), n=kept[0].estimate.n),
        excluded=len(values) - len(kept),
        chance=float(np.mean(chances)) if chances else None,
        note="",
    )


def _matches_at(value: Value, at: Mapping[str, Plain]) -> bool:
    """True if a value's ``at`` matches; an empty pattern matches only values with an empty ``at``."""
    if not at:
        return not value.at
    return all(key in value.at and wanted in (ANY, value.at[key]) for key, wanted in at.items())


def _matches_characteristic(value: Value, pattern: str) -> bool:
    """True if a value's characteristic matches the pattern; an empty pattern matches the mean over characteristics."""
    return fnmatchcase(value.characteristic, pattern) if value.characteristic else not pattern


def _column_name(value: Plain) -> str:
    """Column name of a value on an axis; the length for a list."""
    return str(len(value)) if isinstance(value, list | tuple) else str(value)


def _positions(points: Sequence[GridPoint]) -> tuple[float, ...] | None:
    """Grid points as numbers, if there is a single axis of numbers; else None."""
    values = [value for point in points for _, value in point]
    if len(points) < 2 or len(values) != len(points) or not all(isinstance(v, int | float) for v in values):
        return None
    return tuple(map(float, values))


def _spec(prepared: PreparedRecipe, table: TableSpec) -> ValueSpec | None:
    """The metric's specification of the value; None for values of the training."""
    return next((m.values.get(table.name) for m in prepared.metrics if m.name == table.metric), None)
