"""From the runs of a recipe's cells to its tables: over training seeds where there are several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from scipy import stats

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Estimate, Value, ValueSpec
from ccvae_eval.core.types import Plain
from ccvae_eval.evaluation.run import Run
from ccvae_eval.recipes.recipe import ANY, Point, RecipeCell, TableSpec
from ccvae_eval.recipes.work import Work, result_of, training_of
from ccvae_eval.report.grids import Entry, Grid

LEVEL = 0.95
TRAINING = "training."


def grids_of(task: Work) -> list[Grid]:
    """The recipe's tables from what is there; a place without a result is undefined and says so."""
    runs = [(cell, result_of(task, cell)) for cell in task.cells]
    return [_grid(task, table, runs) for table in task.recipe.tables]


def over_seeds(values: Sequence[float], possible: tuple[float | None, float | None] = (None, None)) -> Estimate:
    """The mean over training seeds with Student's interval (unit: the seed); without one for fewer than two.

    The interval ends where the value's range does: of few seeds it is wide, and no mean lies beyond what is possible.

    >>> over_seeds([0.4, 0.6]).value
    0.5
    >>> over_seeds([0.4, 0.6], (0, 1)).low
    0
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < len(values) or not len(known):
        return Estimate(math.nan, n=len(known))
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, n=1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    least, most = possible
    low = mean - half if least is None else max(mean - half, least)
    high = mean + half if most is None else min(mean + half, most)
    return Estimate(mean, low, high, len(known), "t over training seeds")


def _grid(task: Work, table: TableSpec, runs: Sequence[tuple[RecipeCell, Run | None]]) -> Grid:
    recipe = task.recipe
    points = list(recipe.points())
    left_out = _undefined_somewhere([run for _, run in runs if run is not None], table)
    rows = []
    for contender in recipe.contenders:
        published = table.published.get(contender.name, (None,) * len(points))
        entries = []
        for point, number in zip(points, published, strict=True):
            here = [(cell, run) for cell, run in runs if (cell.contender, cell.point) == (contender.name, point)]
            estimate, chance, note = _entry(task, here, table, left_out)
            entries.append(Entry(estimate, number, chance, note))
        rows.append((contender.name, tuple(entries)))
    axes = [axis.removeprefix("set.") for axis in recipe.axes]
    spec = _spec(task, table)
    return Grid(
        table.title,
        tuple(", ".join(_called(value) for _, value in point) for point in points),
        tuple(rows),
        ", ".join(axes),
        _positions(points),
        spec.higher_is_better if spec else None,
        table.published_as,
        spec.chance if spec else "",
        tuple(sorted(left_out)),
    )


def _undefined_somewhere(runs: Iterable[Run], table: TableSpec) -> frozenset[str]:
    """Characteristics without a value in some run that has one for others: no mean of the table holds them.

    Else a model gains by being undefined where it is bad. A run that has no value at all takes nothing from the rest.
    """
    found: set[str] = set()
    for run in runs:
        own = _rows_of_characteristics(run, table)
        missing = {value.characteristic or "" for value in own if not value.estimate.defined}
        if len(missing) < len(own):
            found |= missing
    return frozenset(found)


def _rows_of_characteristics(run: Run, table: TableSpec) -> list[Value]:
    """The rows whose mean a table shows; none where it shows a row as it is."""
    wanted = table.value.partition("@")[2]
    if table.at or (wanted and ANY not in wanted):
        return []
    values = [value for m in run.measurements if m.metric == table.metric for value in m.values]
    # a pattern asks for rows, whether or not the metric's own mean is of them (what was given is in none)
    return [v for v in values if v.name == table.name and not v.at and (_is_of(v, wanted) if wanted else v.in_mean)]


def _entry(
    task: Work, runs: Sequence[tuple[RecipeCell, Run | None]], table: TableSpec, left_out: frozenset[str]
) -> tuple[Estimate, float, str]:
    """The number of one place over its seeds, the mean chance level of those runs, and why there is none."""
    if table.value.startswith(TRAINING):
        name = table.value.removeprefix(TRAINING)
        return over_seeds([training_of(task, cell).get(name, math.nan) for cell, _ in runs]), math.nan, ""
    there = [run for _, run in runs if run is not None]
    if len(there) < len(runs):
        why = f"{len(runs) - len(there)} of {len(runs)} cells without a result"
        return Estimate(math.nan, n=len(there)), math.nan, why
    try:
        found = [_value(run, table, left_out) for run in there]
    except UsageError as error:
        reasons = [m.reason.text for run in there for m in run.measurements if m.reason and m.metric == table.metric]
        return Estimate(math.nan), math.nan, reasons[0] if reasons else error.what
    chances = [value.chance for value in found if value.chance is not None and value.estimate.defined]
    chance = math.fsum(chances) / len(chances) if chances else math.nan
    if len(found) == 1:
        return found[0].estimate, chance, found[0].note
    # why a single run has no interval says nothing of one over seeds
    note = "; ".join(part for part in found[0].note.split("; ") if not part.startswith("no interval"))
    spec = _spec(task, table)
    each = [value.estimate.value for value in found]
    return over_seeds(each, spec.range if spec else (None, None)), chance, note


def _value(run: Run, table: TableSpec, left_out: frozenset[str]) -> Value:
    """The value of a table: a row of the run, or the mean over the characteristics that every run has, no interval.

    Raises:
        UsageError: the run has no such row.
    """
    wanted = table.value.partition("@")[2]
    if not table.at and ANY not in wanted:
        own = run.find(table.value)
        each = _rows_of_characteristics(run, table)
        if not any(value.estimate.defined and value.characteristic in left_out for value in each):
            return own
        return _mean(each, left_out, own)
    found = [
        value
        for value in run.measurement(table.metric).values
        if value.name == table.name and _is_at(value, table.at) and _is_of(value, wanted)
    ]
    if not found:
        raise UsageError(f"no such row: {table.title}")
    return _mean(found, left_out, found[0]) if ANY in wanted else found[0]


def _mean(values: Sequence[Value], left_out: frozenset[str], otherwise: Value) -> Value:
    """The mean over characteristics; another value where none is left."""
    kept = [value for value in values if value.estimate.defined and value.characteristic not in left_out]
    if not kept:
        nowhere = "no characteristic has a value in every run; a table of one alone: VALUE@LABEL"
        note = nowhere if otherwise.estimate.defined else otherwise.note
        return replace(otherwise, estimate=Estimate(math.nan), note=note)
    chances = [value.chance for value in kept if value.chance is not None]
    return replace(
        otherwise,
        estimate=Estimate(float(np.mean([value.estimate.value for value in kept])), n=kept[0].estimate.n),
        excluded=len(values) - len(kept),
        chance=float(np.mean(chances)) if chances else None,
        note="",
    )


def _is_at(value: Value, at: Mapping[str, Plain]) -> bool:
    """Whether a row stands at a place; without one, the rows that depend on nothing else."""
    if not at:
        return not value.at
    return all(key in value.at and wanted in (ANY, value.at[key]) for key, wanted in at.items())


def _is_of(value: Value, pattern: str) -> bool:
    """Whether a row is of a characteristic like the pattern; of none, the mean over them."""
    return fnmatchcase(value.characteristic, pattern) if value.characteristic else not pattern


def _called(value: Plain) -> str:
    """A value on an axis as a column's name; a list by its length."""
    return str(len(value)) if isinstance(value, list | tuple) else str(value)


def _positions(points: Sequence[Point]) -> tuple[float, ...] | None:
    """The places as numbers, if one axis with numbers is all that is varied."""
    values = [value for point in points for _, value in point]
    if len(points) < 2 or len(values) != len(points) or not all(isinstance(v, int | float) for v in values):
        return None
    return tuple(map(float, values))


def _spec(task: Work, table: TableSpec) -> ValueSpec | None:
    """What a metric promises about the value; None for what a training took."""
    return next((each.values.get(table.name) for each in task.metrics if each.name == table.metric), None)
