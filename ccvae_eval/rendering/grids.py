"""Tables that compare models across settings, with intervals and published numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.core.results import Estimate
from ccvae_eval.rendering.tables import ARROWS, bullets
from ccvae_eval.rendering.text import escaped, figure, inert_cell, interval_text, markdown_row

CSV_COLUMNS = (
    "value", "model", "place", "number", "low", "high", "chance", "n", "interval", "published", "note", "left_out",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of a grid.

    Args:
        estimate: with two or more training seeds the mean over seeds, its interval over seeds and ``n`` seeds; else
            the estimate of the single run. ``method`` names the kind of interval.
        published: the published number; None if there is none.
        chance: the mean chance level over the runs; NaN if the value has none.
        note: the reason if the estimate is undefined.
    """

    estimate: Estimate
    published: float | None = None
    chance: float = math.nan
    note: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """One value for several models (rows) and settings (columns).

    Args:
        value: the address of the value.
        columns: the name of each setting; one empty name if nothing is varied.
        rows: (model, its entries).
        axis: the name of what varies over the columns; "" if nothing does.
        positions: the settings as numbers, for curves; None if they are not numbers.
        higher_is_better: True, False or None.
        published_as: the source of the published numbers.
        chance_as: the name of the chance level.
        left_out: characteristics excluded from every mean of the grid.
    """

    value: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    axis: str = ""
    positions: tuple[float, ...] | None = None
    higher_is_better: bool | None = None
    published_as: str = ""
    chance_as: str = ""
    left_out: tuple[str, ...] = ()

    def chances(self) -> tuple[float, ...]:
        """The mean chance level of each column; empty where no row has one."""
        columns = [[entry.chance for entry in column] for column in zip(*(row for _, row in self.rows), strict=True)]
        known = [[chance for chance in column if not math.isnan(chance)] for column in columns]
        return tuple(math.fsum(c) / len(c) if c else math.nan for c in known) if any(known) else ()


def grid_table(grid: Grid) -> RenderableType:
    """The grid for a terminal: each cell has the number, its interval and the published number below it."""
    title = f"{grid.value} {ARROWS[grid.higher_is_better]}".strip()
    table = Table(title=escaped(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    table.add_column(escaped(grid.axis), min_width=12)
    for column in grid.columns:
        table.add_column(escaped(column), justify="right", no_wrap=True)
    for name, entries in grid.rows:
        table.add_row(escaped(name), *(_cell(entry, "\n") for entry in entries))
    if chances := grid.chances():
        table.add_row(escaped(f"chance: {grid.chance_as}"), *map(figure, chances), style="dim")
    return Group(table, *bullets(_notes(grid)))


def _notes(grid: Grid) -> list[str]:
    notes = dict.fromkeys(f"{name}: {entry.note}" for name, entries in grid.rows for entry in entries if entry.note)
    if grid.left_out:
        notes[f"excluded from the means, undefined in some run: {', '.join(grid.left_out)}"] = None
    if grid.published_as:
        notes[f"published numbers in parentheses: {grid.published_as}"] = None
    return list(notes)


def _cell(entry: Entry, between: str = " ") -> Text:
    """The number, its interval and the published number, joined by ``between``."""
    estimate = entry.estimate
    parts = [part for part in (figure(estimate.value), interval_text(estimate)) if part]
    if entry.published is not None:
        parts.append(f"({figure(entry.published)})")
    return Text(between.join(parts))


def grid_markdown(grid: Grid) -> str:
    """The grid as a Markdown table, with intervals ``[low, high]`` and published numbers in parentheses."""
    head = [grid.axis or "model", *(column or grid.value for column in grid.columns)]
    rows = [head, ["---"] * len(head)]
    rows += [[name, *(str(_cell(entry)) for entry in entries)] for name, entries in grid.rows]
    if chances := grid.chances():
        rows.append([f"chance: {grid.chance_as}", *map(figure, chances)])
    lines = [f"`{grid.value}`", "", *map(markdown_row, rows)]
    if notes := _notes(grid):
        lines += ["", *(f"* {' '.join(note.split())}" for note in notes)]
    return "\n".join(lines) + "\n"


def grids_csv(grids: Sequence[Grid]) -> str:
    """All numbers of the grids as CSV, one row each."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    for grid in grids:
        for name, entries in grid.rows:
            for column, entry in zip(grid.columns, entries, strict=True):
                e = entry.estimate
                numbers: list[Any] = ["" if math.isnan(x) else x for x in (e.value, e.low, e.high, entry.chance)]
                published = "" if entry.published is None else entry.published
                cells = [grid.value, name, column, *numbers, e.n, e.method, published, entry.note]
                table.writerow(map(inert_cell, [*cells, "|".join(grid.left_out)]))
    return text.getvalue()
