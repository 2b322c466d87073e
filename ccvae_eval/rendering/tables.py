"""Tables of values for the terminal: the rows of a value, and the tables of one metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.core.results import Measurement, Value, ValueSpec
from ccvae_eval.rendering.text import at_text, escaped, figure, plain

ARROWS = {True: "↑", False: "↓", None: ""}
MEAN = "mean"
STATUS = {"ok": "", "undefined": "undefined:", "unsupported": "not applicable:", "failed": "failed:"}


def value_cells(value: Value, spec: ValueSpec) -> list[str]:
    """The cells of a value, for the columns that :func:`value_table` adds after the first ones."""
    estimate = value.estimate
    interval = "" if math.isnan(estimate.low) else f"[{figure(estimate.low)}, {figure(estimate.high)}]"
    levels = ("" if level is None else figure(level) for level in (value.chance, value.reference))
    count = f"{estimate.n:,}" if estimate.n else ""
    return [figure(estimate.value), interval, *levels, ARROWS[spec.higher_is_better], count]


def value_table(*first: str) -> Table:
    """An empty table of values with the columns ``first``, then those of :func:`value_cells`."""
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold")
    for name in first:
        table.add_column(name, overflow="fold")  # in a narrow terminal names are folded, numbers never
    for name in ("value", "95% interval", "chance", "reference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    return table


def bullets(notes: Iterable[str]) -> list[RenderableType]:
    """Notes below a table, one line each."""
    return [Text(f"· {plain(note)}", style="dim") for note in notes]


def headline_of(measurement: Measurement) -> Value | None:
    """The mean of the headline value over characteristics; None if the measurement has none."""
    return next(
        (v for v in measurement.values if v.name == measurement.headline and v.characteristic is None and not v.at),
        None,
    )


def value_note(value: Value) -> str:
    """The note of a value, and the number of images (for a mean: characteristics) that it excludes."""
    what = "" if value.characteristic is None else " images" if value.excluded > 1 else " image"
    excluded = f"{value.excluded}{what} excluded" if value.excluded and value.estimate.defined else ""
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
        name = v.characteristic or MEAN
        head.add_row(escaped(name), *value_cells(v, spec), style="bold" if v.characteristic is None else "")
        if note := value_note(v):
            notes.setdefault(note, []).append(name)
    parts += [head, *bullets(f"{', '.join(names)}: {note}" for note, names in notes.items()), Text("")]
    others = [v for v in m.values if v.name != m.headline or v.at]
    shown = others if verbose else [v for v in others if v.characteristic is None]
    if shown:
        table = value_table("value", "characteristic") if verbose else value_table("value")
        for v in shown:
            unit = specs.get(v.name, ValueSpec("")).unit
            name = f"{v.name} ({at_text(v.at)})" if v.at else v.name
            name += f", {unit}" if unit and unit != "share" else ""
            first = [escaped(name), escaped(v.characteristic or MEAN)] if verbose else [escaped(name)]
            table.add_row(*first, *value_cells(v, specs.get(v.name, ValueSpec(""))))
        parts.append(table)
    return Group(*parts, *bullets(m.notes))
