"""From the runs of a recipe's cells to its tables: over training seeds where there are several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from scipy import stats

from ccvae_eval.errors import UsageError
from ccvae_eval.measure import Estimate, Value
from ccvae_eval.recipes.cells import Cell
from ccvae_eval.recipes.recipe import Point, TableSpec
from ccvae_eval.recipes.work import Work, result_of, training_of
from ccvae_eval.report.grids import Entry, Grid
from ccvae_eval.run import Run
from ccvae_eval.types import Plain

LEVEL = 0.95
TRAINING = "training."
ANY = "*"


def grids_of(task: Work) -> list[Grid]:
    """The recipe's tables from what is there; a place without a result is undefined and says so."""
    return [_grid(task, table) for table in task.recipe.tables]


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over training seeds with Student's interval (unit: the seed); without one for fewer than two.

    >>> over_seeds([0.4, 0.6]).value
    0.5
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < len(values) or not len(known):
        return Estimate(math.nan, n=len(known))
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, n=1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Estimate(mean, mean - half, mean + half, len(known), "t over training seeds")


def _grid(task: Work, table: TableSpec) -> Grid:
    recipe = task.recipe
    points = list(recipe.points())
    rows = []
    for contender in recipe.contenders:
        published = table.published.get(contender.name, (None,) * len(points))
        entries = []
        for point, number in zip(points, published, strict=True):
            cells = [cell for cell in task.cells if (cell.contender, cell.point) == (contender.name, point)]
            estimate, note = _entry(task, cells, table)
            entries.append(Entry(estimate, number, note))
        rows.append((contender.name, tuple(entries)))
    rows += _chance(task, points, table)
    axes = [axis.removeprefix("set.") for axis in recipe.axes]
    return Grid(
        ", ".join([table.value, *(key if value == ANY else f"{key} {value}" for key, value in table.at.items())]),
        tuple(", ".join(_called(value) for _, value in point) for point in points),
        tuple(rows),
        ", ".join(axes),
        _positions(points),
        _direction(task, table.value),
        table.published_as,
    )


def _entry(task: Work, cells: Sequence[Cell], table: TableSpec) -> tuple[Estimate, str]:
    address = table.value
    if address.startswith(TRAINING):
        name = address.removeprefix(TRAINING)
        return over_seeds([training_of(task, cell).get(name, math.nan) for cell in cells]), ""
    runs = [result_of(task, cell) for cell in cells]
    there = [run for run in runs if run is not None]
    if len(there) < len(runs):
        return Estimate(math.nan, n=len(there)), f"{len(runs) - len(there)} of {len(runs)} cells without a result"
    try:
        found = [_value(run, table) for run in there]
    except UsageError as error:
        reasons = [
            m.reason.text for run in there for m in run.measurements if m.reason and address.startswith(m.metric)
        ]
        return Estimate(math.nan), reasons[0] if reasons else error.what
    if len(found) == 1:
        return found[0].estimate, found[0].note
    return over_seeds([value.estimate.value for value in found]), found[0].note


def _chance(task: Work, points: Sequence[Point], table: TableSpec) -> list[tuple[str, tuple[Entry, ...]]]:
    """The chance level of a value at each place, the mean over the runs there, as a row; none if the value has none."""
    metric, _, name = table.value.partition("@")[0].partition(".")
    entries = []
    for point in points:
        runs = [result_of(task, cell) for cell in task.cells if cell.point == point]
        values = [_chance_in(run, table) for run in runs if run is not None]
        known = [value for value in values if not math.isnan(value)]
        entries.append(Entry(Estimate(float(np.mean(known)) if known else math.nan, n=len(known))))
    if not any(entry.estimate.defined for entry in entries):
        return []
    chance = next(each.values[name].chance for each in task.metrics if each.name == metric)
    return [(f"chance: {chance}", tuple(entries))]


def _chance_in(run: Run, table: TableSpec) -> float:
    try:
        value = _value(run, table)
    except UsageError:
        return math.nan
    return math.nan if value.chance is None or not value.estimate.defined else value.chance


def _value(run: Run, table: TableSpec) -> Value:
    """The value of a table; at a pattern the mean over the characteristics where it is defined, no interval."""
    head, _, pattern = table.value.partition("@")
    if ANY not in pattern:
        return _found_at(run, head, pattern or None, table.at) if table.at else run.find(table.value)
    metric, _, name = head.partition(".")
    rows = [v for v in run.measurement(metric).values if v.name == name and not v.at and v.characteristic]
    found = [v for v in rows if fnmatchcase(v.characteristic or "", pattern)]
    if not found:
        raise UsageError(f"no characteristic like {pattern!r}", where=head)
    defined = [v for v in found if v.estimate.defined]
    if not defined:
        return found[0]
    chances = [v.chance for v in defined if v.chance is not None]
    left_out = len(found) - len(defined)
    return Value(
        name,
        Estimate(float(np.mean([v.estimate.value for v in defined])), n=defined[0].estimate.n),
        pattern,
        excluded=left_out,
        chance=float(np.mean(chances)) if chances else None,
        note=f"{left_out} of {len(found)} undefined" if left_out else "",
    )


def _found_at(run: Run, head: str, characteristic: str | None, at: Mapping[str, Plain]) -> Value:
    """The first row of a value at a place."""
    metric, _, name = head.partition(".")
    for value in run.measurement(metric).values:
        there = all(key in value.at and wanted in (ANY, value.at[key]) for key, wanted in at.items())
        if there and (value.name, value.characteristic) == (name, characteristic):
            return value
    raise UsageError(f"no row at {dict(at)}", where=head)


def _called(value: Plain) -> str:
    """A value on an axis as a column's name; a list by its length."""
    return str(len(value)) if isinstance(value, list | tuple) else str(value)


def _positions(points: Sequence[Point]) -> tuple[float, ...] | None:
    """The places as numbers, if one axis with numbers is all that is varied."""
    values = [value for point in points for _, value in point]
    if len(points) < 2 or len(values) != len(points) or not all(isinstance(v, int | float) for v in values):
        return None
    return tuple(map(float, values))


def _direction(task: Work, address: str) -> bool | None:
    metric, _, rest = address.partition(".")
    specs = {each.name: each.values for each in task.metrics}.get(metric, {})
    spec = specs.get(rest.partition("@")[0])
    return None if spec is None else spec.higher_is_better
