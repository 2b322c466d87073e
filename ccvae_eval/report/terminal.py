"""A run in the terminal: header, tables, small curves. Everything here returns renderables; nothing prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.measure import Measurement, Value, ValueSpec
from ccvae_eval.report.text import at_text, escaped, figure, plain
from ccvae_eval.run import Plan, Run

ARROWS = {True: "↑", False: "↓", None: ""}
MEAN = "mean"
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
CURVE_WIDTH = 48


def header(run: Run) -> RenderableType:
    """What was evaluated: one line each for checkpoint, data and machine."""
    h = run.header
    table = Table.grid(padding=(0, 2))
    path = h.checkpoint.get("path") or "(in memory)"
    digest = (h.checkpoint.get("sha256") or "")[:8]
    data = h.data
    if h.checkpoint.get("model") is None and data.get("name"):
        table.add_row("codes", escaped(str(data["name"])), f"{data.get('n')} rows, seed {h.seed}")
        return table
    table.add_row("checkpoint", escaped(f"{path}  {digest}"), escaped(f"model {h.checkpoint.get('model')}"))
    table.add_row(
        "data", escaped(str(data.get("name"))), escaped(f"{data.get('n')} images of split {data.get('split')}")
    )
    if source := h.regions.get("source"):
        table.add_row("regions", escaped(str(source)))
    table.add_row(
        "judge", escaped(judge_text(h.judge)), escaped(f"device {h.environment.get('device')}, seed {h.seed}")
    )
    parts: list[RenderableType] = [table]
    parts += [Text(f"! {plain(w)}", style="yellow") for w in h.warnings]
    return Group(*parts)


def judge_text(judge: Mapping[str, object] | None) -> str:
    """The judge in a few words."""
    if judge is None:
        return "none"
    return f"{str(judge.get('sha256'))[:8]}, trained on {judge.get('trained_on')}"


def plan_line(plan: Plan, rate: float | None = None) -> str:
    """The plan of a run in one line, with the time it will take where a rate is known."""
    line = f"{plan.encode:,} images to encode, {plan.decode:,} to decode"
    return line if rate is None else f"{line}, about {max(plan.decode / rate, 1):.0f} s"


def value_cells(value: Value, spec: ValueSpec) -> list[str]:
    """What the tables show of a value, in the columns of :func:`value_columns` after the first ones."""
    estimate = value.estimate
    interval = "" if math.isnan(estimate.low) else f"[{figure(estimate.low)}, {figure(estimate.high)}]"
    return [
        figure(estimate.value),
        interval,
        "" if value.chance is None else figure(value.chance),
        "" if value.reference is None else figure(value.reference),
        ARROWS[spec.higher_is_better],
        f"{estimate.n:,}" if estimate.n else "",
    ]


def value_columns(table: Table, first: Iterable[str]) -> None:
    """The columns of a table of values: the first ones as named, then those of :func:`value_cells`."""
    for name in first:
        table.add_column(name, overflow="fold")  # where the terminal is narrow a name folds, a number never
    for name in ("value", "95 % interval", "chance", "reference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)


def value_table() -> Table:
    """An empty table of values, a space between columns."""
    return Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold")


def summary(run: Run) -> RenderableType:
    """One row for each metric: its headline, averaged over the characteristics; what must be said, below."""
    table, notes = value_table(), dict[str, list[str]]()
    value_columns(table, ("metric", "headline"))
    for m in run.measurements:
        value = headline_of(m)
        if m.status != "ok" or value is None:
            table.add_row(m.metric, m.headline, "–")
            notes.setdefault(f"{STATUS[m.status]} {m.reason.text if m.reason else ''}", []).append(m.metric)
            continue
        spec = run.specs.get(m.metric, {}).get(value.name, ValueSpec(""))
        table.add_row(m.metric, value.name, *value_cells(value, spec))
        if note := value_note(value):
            notes.setdefault(note, []).append(m.metric)
    return Group(table, *_notes(f"{', '.join(names)}: {note}" for note, names in notes.items()))


def _notes(notes: Iterable[str]) -> list[RenderableType]:
    return [Text(f"· {plain(note)}", style="dim") for note in notes]


STATUS = {"ok": "", "undefined": "undefined:", "unsupported": "not applicable:", "failed": "failed:"}


def headline_of(measurement: Measurement) -> Value | None:
    """The headline's mean over characteristics."""
    return next(
        (v for v in measurement.values if v.name == measurement.headline and v.characteristic is None and not v.at),
        None,
    )


def value_note(value: Value) -> str:
    """What a reader must know beside a value."""
    left_out = f"{value.excluded} left out" if value.excluded and value.estimate.defined else ""
    return "; ".join(part for part in (value.note, left_out) if part)


def metric_tables(run: Run, metric: str, *, verbose: bool = False) -> RenderableType:
    """One metric in full: the headline by characteristic, then its other values (all rows if ``verbose``)."""
    m = run.measurement(metric)
    specs = run.specs.get(metric, {})
    if m.status != "ok":
        return Text(f"{metric}: {STATUS[m.status]} {plain(m.reason.text) if m.reason else ''}", style="yellow")
    spec = specs.get(m.headline, ValueSpec(""))
    title = f"{metric}: {m.headline}" + (f" ({spec.summary})" if spec.summary else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    head, notes = value_table(), dict[str, list[str]]()
    value_columns(head, ("characteristic",))
    rows = [v for v in m.values if v.name == m.headline and not v.at]
    for v in sorted(rows, key=lambda v: v.characteristic is None):
        name = v.characteristic or MEAN
        head.add_row(escaped(name), *value_cells(v, spec), style="bold" if v.characteristic is None else "")
        if note := value_note(v):
            notes.setdefault(note, []).append(name)
    parts += [head, *_notes(f"{', '.join(names)}: {note}" for note, names in notes.items()), Text("")]
    others = [v for v in m.values if v.name != m.headline or v.at]
    shown = others if verbose else [v for v in others if v.characteristic is None]
    if shown:
        table = value_table()
        value_columns(table, ("value", "characteristic") if verbose else ("value",))
        for v in shown:
            unit = specs.get(v.name, ValueSpec("")).unit
            name = f"{v.name} ({at_text(v.at)})" if v.at else v.name
            name += f", {unit}" if unit and unit != "share" else ""
            first = [escaped(name), escaped(v.characteristic or MEAN)] if verbose else [escaped(name)]
            table.add_row(*first, *value_cells(v, specs.get(v.name, ValueSpec(""))))
        parts.append(table)
    return Group(*parts, *_notes(m.notes))


def curve(density: np.ndarray[tuple[int], np.dtype[np.float64]], top: float, *, ascii_only: bool = False) -> str:
    """A density as one line of blocks, scaled so that ``top`` is a full block."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    places = np.linspace(0, len(density) - 1, CURVE_WIDTH)
    heights = np.interp(places, np.arange(len(density)), density) / top if top > 0 else np.zeros(CURVE_WIDTH)
    return "".join(blocks[round(float(h) * (len(blocks) - 1))] for h in np.clip(heights, 0, 1))


def density_curves(measurement: Measurement, *, ascii_only: bool = False) -> RenderableType:
    """The class densities of each characteristic, one line for each class (see ``Density``'s pictures)."""
    table = Table.grid(padding=(0, 1))
    names = dict.fromkeys(key.split("/")[1] for key in measurement.pictures if key.startswith("curves/"))
    for name in names:
        classes = {
            key.split("/")[2]: np.asarray(array, dtype=np.float64)
            for key, array in measurement.pictures.items()
            if key.startswith(f"curves/{name}/") and key.split("/")[2] not in ("grid",) and key.count("/") == 2
        }
        top = max((float(density.max()) for density in classes.values()), default=0.0)
        for index, (label, density) in enumerate(classes.items()):
            line = curve(density, top, ascii_only=ascii_only)
            table.add_row(escaped(name) if index == 0 else "", escaped(label), Text(line, style=STYLES[index % 5]))
    return table


STYLES = ("cyan", "magenta", "yellow", "green", "blue")
