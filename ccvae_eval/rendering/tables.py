"""Tables of values for the terminal: the rows of a value, and the tables of one metric."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.table import Column, Table
from rich.text import Text

from ccvae_eval.core.errors import listed
from ccvae_eval.core.results import (
    BY,
    COUNT,
    EVERY_UNDEFINED,
    GAP,
    WORST,
    Measurement,
    Value,
    ValueSpec,
    spec_at,
)
from ccvae_eval.rendering.text import at_text, escaped, figure, interval_text, plain

ARROWS = {True: "↑", False: "↓", None: ""}
MEAN, TOTAL = "mean", "total"
SHADES, ASCII_SHADES = " ░▒▓█", " .:*#"
WIDTH = 120
HEADINGS = 60
"""Columns of a terminal into which the headings of a matrix must fit; longer ones are numbered."""
LONGEST_WORD = 34
"""Characters of a word that makes a table leave out a column; a longer word is folded."""
STATUS = {"ok": "", "undefined": "undefined:", "unsupported": "not applicable:", "failed": "failed:"}


def value_cells(value: Value, spec: ValueSpec) -> list[str]:
    """The cells of a value, for the columns that :func:`value_table` adds after the first ones."""
    estimate = value.estimate
    levels = ("" if level is None else figure(level) for level in (value.chance, value.reference))
    count = f"{estimate.n:,}" if estimate.n else ""
    return [figure(estimate.value), interval_text(estimate), *levels, ARROWS[spec.higher_is_better], count]


def printed(*parts: RenderableType) -> str:
    """What a terminal of 120 columns shows, without colours."""
    file = io.StringIO()
    # in a notebook, rich would show the text instead of writing it to the file
    console = Console(file=file, width=WIDTH, highlight=False, emoji=False, color_system=None, force_jupyter=False)
    console.print(*parts, sep="\n")
    return file.getvalue().rstrip()


class FittedTable(Table):
    """A table without lines that leaves out columns until its words fit the terminal, and names them below.

    Args:
        *columns: headings of columns whose cells are folded.
        spare: headings of the columns that may be left out, the first one first; a tuple is left out as a whole.
        **more: as for ``rich.table.Table``.
    """

    def __init__(self, *columns: str, spare: Sequence[str | tuple[str, ...]] = (), **more: Any) -> None:
        plain_style = {"box": None, "padding": (0, 1), "pad_edge": False, "header_style": "bold"}
        super().__init__(*(Column(name, overflow="fold") for name in columns), **{**plain_style, **more})
        self.spare = spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = copy(self)
        shown.columns = list(self.columns)
        widths = [self._measure_column(console, options.update_width(1 << 16), column) for column in self.columns]
        needed = {c._index: self._least(width, c) for c, width in zip(self.columns, widths, strict=True)}
        for spare in self.spare:
            if sum(needed[column._index] for column in shown.columns) > options.max_width:
                names = spare if isinstance(spare, tuple) else (spare,)
                shown.columns = [column for column in shown.columns if column.header not in names]
        left_out = [console.render_str(str(c.header)).plain for c in self.columns if c not in shown.columns]
        # a column of single words keeps its width, and the others are wrapped; a long word is folded for lack of room
        whole = {c._index: self._least(widths[c._index], c, math.inf) for c in shown.columns}
        words = whole if sum(whole.values()) <= options.max_width else needed
        single = {c._index for c in shown.columns if widths[c._index].maximum == words[c._index]}
        shown.columns = [
            replace(column, _index=k, no_wrap=column._index in single) for k, column in enumerate(shown.columns)
        ]
        yield from super(FittedTable, shown).__rich_console__(console, options)
        if left_out:
            missing = ", ".join(dict.fromkeys(" ".join(heading.split()) for heading in left_out))
            yield from bullets([f"left out at this width: {missing}; --json has them, or widen the terminal"])

    def _least(self, width: Width, column: Column, longest: float = LONGEST_WORD) -> float:
        """Characters that a column needs, if longer words than ``longest`` are folded."""
        if column.no_wrap:
            return width.maximum
        least = column.min_width + self._get_padding_width(column._index) if column.min_width else 0
        return max(min(width.minimum, longest), least)


def value_table(*first: str) -> Table:
    """An empty table of values with the columns ``first``, then those of :func:`value_cells`."""
    table = FittedTable(*first, spare=("headline", "n", "reference", "chance"), collapse_padding=True)
    for name in ("value", "95% interval", "chance", "reference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    return table


def shaded_table(
    title: str, rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float]], *, ascii_only: bool
) -> RenderableType:
    """A matrix of shares in percent, each with a block that is the darker, the larger the share; 0 is blank.

    Headings that do not fit are replaced by numbers: those of the rows, if rows and columns begin with the same names.
    A narrow terminal leaves out the last columns.

    Args:
        title: the title.
        rows, columns: the names.
        shares: numbers from 0 to 1 (rows x columns); NaN is shown as a dash.
        ascii_only: use ASCII characters in place of blocks.
    """
    wide = max(map(len, rows)) + sum(max(len(name), 4) + 1 for name in columns) > HEADINGS
    same = wide and list(rows[: len(columns)]) == list(columns[: len(rows)])
    further = list(enumerate(columns, 1))[len(rows) if same else 0 :] if wide else []
    headings = [str(k) if wide else escaped(name) for k, name in enumerate(columns, 1)]
    table = FittedTable("", spare=headings[:0:-1], collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for k, (name, cells) in enumerate(zip(rows, shares, strict=True), 1):
        table.add_row(
            escaped(f"{k} {name}" if same and k <= len(columns) else name), *(_shaded(x, ascii_only) for x in cells)
        )
    legend = [f"columns: {'; '.join(f'{k} {name}' for k, name in further)}"] if further else []
    return Group(Text(plain(title), style="bold"), table, *bullets(legend))


def _shaded(share: float, ascii_only: bool) -> str:
    if math.isnan(share):
        return "– "
    percent, shades = round(100 * share), ASCII_SHADES if ascii_only else SHADES
    shade = shades[round(min(max(share, 0.0), 1.0) * (len(shades) - 1))]
    return f"{percent}{' ' * ascii_only}{shade}" if percent else ""


def bullets(notes: Iterable[str]) -> list[RenderableType]:
    """Notes below a table, one line each."""
    return [Text(f"· {plain(note)}", style="dim") for note in notes]


def headline_of(measurement: Measurement) -> Value | None:
    """The mean of the headline value over characteristics; None if the measurement has none."""
    return next(
        (v for v in measurement.values if v.name == measurement.headline and v.characteristic is None and not v.at),
        None,
    )


def reason_of(value: Value) -> str:
    """Why a value is undefined; for a mean, the reasons of its characteristics."""
    return value.note.removeprefix(EVERY_UNDEFINED).lstrip(":; ") or value.note


def whole(spec: ValueSpec) -> str:
    """Name of the row without a characteristic: the mean, or the total of a count."""
    return TOTAL if spec.unit == COUNT else MEAN


MOST_NAMED = 3
"""Labels that a note on a mean names."""


def partial_mean(measurement: Measurement, value: Value) -> str:
    """The labels that a mean covers, as "over 1 of 3 labels (Smiling)"; "" if it covers all of them."""
    rows = [v for v in measurement.values if v.name == value.name and v.characteristic and v.at == value.at]
    used = [str(v.characteristic) for v in rows if v.in_mean and v.estimate.defined]
    missing = [str(v.characteristic) for v in rows if str(v.characteristic) not in used]
    if value.characteristic is not None or not value.estimate.defined or not used or not missing:
        return ""
    names = f"without {listed(missing, MOST_NAMED)}" if len(missing) < len(used) else listed(used, MOST_NAMED)
    return f"over {len(used)} of {len(rows)} labels ({names})"


def value_note(measurement: Measurement, value: Value) -> str:
    """The note of a value, and the number of images that it excludes; for a mean, the number of labels it covers."""
    what = "images" if value.excluded > 1 else "image"
    excluded = f"{value.excluded} {what} excluded" if value.excluded and value.estimate.defined else ""
    if value.characteristic is None:
        excluded = partial_mean(measurement, value)
    return "; ".join(part for part in (value.note, excluded) if part)


def metric_tables(measurement: Measurement, specs: Mapping[str, ValueSpec], *, verbose: bool = False) -> RenderableType:
    """One metric in full: the headline for each characteristic, then the other values (every row if ``verbose``)."""
    m = measurement
    if m.status != "ok":
        return Text(f"{m.metric}: {STATUS[m.status]} {plain(m.reason.text) if m.reason else ''}", style="yellow")
    spec = specs.get(m.headline, ValueSpec(""))
    title = f"{m.metric}: {m.headline}" + (f" ({spec.summary})" if spec.summary else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    head, notes = value_table("characteristic"), dict[str, list[str]]()
    rows = [v for v in m.values if v.name == m.headline and not v.at]
    for v in sorted(rows, key=lambda v: v.characteristic is None):
        name = v.characteristic or whole(spec)
        head.add_row(escaped(name), *value_cells(v, spec), style="bold" if v.characteristic is None else "")
        if note := value_note(m, v):
            notes.setdefault(note, []).append(name)
    parts += [head, *bullets(f"{', '.join(names)}: {note}" for note, names in notes.items()), Text("")]
    others = [v for v in m.values if v.name != m.headline or v.at]
    shown = others if verbose else [v for v in others if v.characteristic is None]
    if shown:
        table = value_table("value", "characteristic") if verbose else value_table("value")
        for v in shown:
            own = specs.get(v.name, ValueSpec(""))
            name = f"{v.name} ({at_text(v.at)})" if v.at else v.name
            name += f", {own.unit}" if own.unit and own.unit not in ("share", COUNT) else ""
            first = [escaped(name), escaped(v.characteristic or whole(own))] if verbose else [escaped(name)]
            table.add_row(*first, *value_cells(v, own))
        partial = [(v.name, text) for v in shown if not verbose and (text := partial_mean(m, v))]
        parts += [table, *bullets([*_grouped(partial), *_reasons(shown)])]
    return Group(*parts, *bullets(m.notes))


def without_classes(measurement: Measurement) -> Measurement:
    """The measurement without its values by class of another label, which :func:`class_table` shows."""
    return replace(measurement, values=tuple(v for v in measurement.values if BY not in v.at))


def classes_of(measurement: Measurement, *, verbose: bool = False) -> list[list[Value]]:
    """The values by class of another label, those of one value of all classes together.

    The means and the headline value of each characteristic; every value if ``verbose``.
    """
    families: dict[tuple[object, ...], list[Value]] = {}
    for v in measurement.values:
        if BY in v.at:
            rest = sorted((key, x) for key, x in v.at.items() if key != BY)
            if verbose or v.characteristic is None or (v.name == measurement.headline and not rest):
                families.setdefault((v.name, v.characteristic, *rest), []).append(v)
    return list(families.values())


def class_table(
    families: Iterable[tuple[str, Sequence[Value]]], specs: Mapping[str, ValueSpec], label: str
) -> RenderableType | None:
    """Values by class of another label, a row each: the classes, the gap with its interval, and the worst class.

    Args:
        families: values of :func:`classes_of`, each with the first cell of its row.
        specs: descriptions of the values, by name.
        label: name of the other label.

    Returns:
        The table; None without a value.
    """
    rows = [(title, {str(v.at[BY]).removeprefix(f"{label}:"): v for v in family}) for title, family in families]
    if not rows:
        return None
    classes = list(dict.fromkeys(name for _, row in rows for name in row if name not in (WORST, GAP)))
    table = FittedTable("value", "characteristic", spare=("worst", "95% interval"), collapse_padding=True)
    for name in (*classes, GAP, "95% interval", ""):
        table.add_column(escaped(name), justify="right", no_wrap=True)
    table.add_column("worst")
    notes: list[tuple[str, str]] = []
    for title, row in rows:
        gap, worst = row[GAP], row.get(WORST)
        spec = specs.get(gap.name, ValueSpec(""))
        cells = [figure(row[name].estimate.value) if name in row else "" for name in classes]
        known = worst is not None and worst.estimate.defined and len(set(cells)) > 1
        which = worst.note.partition("; ")[0] if worst is not None and known else ""
        table.add_row(
            escaped(title), escaped(gap.characteristic or whole(spec)), *cells, figure(gap.estimate.value),
            interval_text(gap.estimate), ARROWS[spec_at(spec, gap.at).higher_is_better],
            escaped(which.removeprefix(f"{label}:")),
        )  # fmt: skip
        undefined = ((name, v) for name, v in row.items() if name in classes and not v.estimate.defined)
        notes += [
            (f"{title} of {v.characteristic}" if v.characteristic else title, f"{name}: {reason_of(v)}")
            for name, v in undefined
        ]
    return Group(Text(plain(f"by {label}"), style="bold"), table, *bullets(_grouped(notes)))


def _reasons(values: Iterable[Value]) -> Iterator[str]:
    """The reasons of the undefined values, each with the names of its values."""
    undefined = (v for v in values if not v.estimate.defined and v.note)
    return _grouped((f"{v.name} ({at_text(v.at)})" if v.at else v.name, reason_of(v)) for v in undefined)


def _grouped(notes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Notes on named values, with the names of equal ones joined."""
    names: dict[str, dict[str, None]] = {}
    for name, note in notes:
        names.setdefault(note, {})[name] = None
    for note, of in names.items():
        yield f"{', '.join(of)}: {note}"
