"""``runs``: the state of a sweep and the headline values of its runs, from the files alone."""

from __future__ import annotations

import csv as csv_writer
import io
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import OUTPUT, Json, Quiet, option_in
from ccvae_eval.core.errors import InputError, UsageError, optional_module
from ccvae_eval.core.files import atomic_write
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import duration, escaped, inert_cell, plain

if TYPE_CHECKING:  # imports NumPy, which help does not need
    from ccvae_eval.evaluation.run import Run
    from ccvae_eval.sweep.cells import CellState, Sweep

WATCH_SECONDS = 2.0
STYLES = {"done": "", "running": "cyan", "failed": "red", "waiting": "dim"}


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep, or of runs.", metavar="DIR", show_default=False)],
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the state again every two seconds until the end.")
    ] = False,
    csv: Annotated[Path | None, option_in(OUTPUT, "CSV file to write: one row for each value of each run.")] = None,
    parquet: Annotated[Path | None, option_in(OUTPUT, "The same as a Parquet file (needs pyarrow).")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the state of a sweep, and the headline values of its runs.

    Everything is read from the files, so the command may be used while the sweep runs, on any machine that sees the
    folder. It also shows a folder of runs that no sweep has made.
    """

    with Screen(as_json=json, quiet=quiet) as screen:
        sweep = sweep_or_runs(folder)
        if watch:
            _watch(sweep, screen)
        states = sweep.states()
        runs = show_results(sweep, states, screen)
        for file, write in ((csv, values_csv), (parquet, values_parquet)):
            if file is not None:
                atomic_write(file, write(runs))
                screen.advise(f"Written to {file}")
        if json:
            screen.document({"cells": [as_plain(state, runs.get(state.cell.name)) for state in states]})


def sweep_or_runs(folder: Path) -> Sweep:
    """The sweep in a folder; a folder of runs without one counts as a sweep whose cells are all done.

    Raises:
        InputError: the folder has neither.
    """
    from ccvae_eval.sweep.cells import RUN_FILE, SWEEP_FILE, Cell, Sweep

    if (folder / SWEEP_FILE).is_file():
        return Sweep.open(folder)
    names = sorted(file.parent.name for file in folder.glob(f"*/{RUN_FILE}"))
    if not names:
        raise InputError("has neither a sweep nor runs", where=str(folder))
    return Sweep(folder, tuple(Cell(name, "", ()) for name in names))


def show_results(sweep: Sweep, states: Sequence[CellState], screen: Screen) -> dict[str, Run]:
    """Shows the state and the table, and what went wrong; returns the runs by the name of their cell."""
    runs, problems = read_runs(sweep, states)
    problems |= {state.cell.name: state.attempt.error for state in states if state.status == "failed"}
    screen.show(state_line(states), "", results_table(states, runs))
    data = {str(run.header.data.get("digest")) for run in runs.values()}
    if len(data) > 1:
        screen.show(Text(f"! The runs are on {len(data)} different data sets (header.data.digest).", style="yellow"))
    for name, problem in problems.items():
        screen.show(Text(plain(f"{name}: {problem}"), style="red"))
    return runs


def read_runs(sweep: Sweep, states: Sequence[CellState]) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs of the finished cells without their pictures, and why a run cannot be read, by the name of the cell."""
    from ccvae_eval.evaluation.storage import read

    runs: dict[str, Run] = {}
    problems: dict[str, str] = {}
    for state in states:
        if state.status == "done":
            try:
                runs[state.cell.name] = read(sweep.folder / state.cell.run, pictures=False)
            except InputError as error:
                problems[state.cell.name] = str(error)
    return runs, problems


def state_line(states: Sequence[CellState]) -> Text:
    """How many cells are done, running, failed and waiting, and the time left."""
    counts = Counter[str](state.status for state in states)
    parts = [f"{counts[name]} {name}" for name in STYLES if counts[name]]
    left = seconds_left(states)
    return Text(f"{len(states)} cells: {', '.join(parts)}" + ("" if left is None else f"; about {duration(left)} left"))


def seconds_left(states: Sequence[CellState]) -> float | None:
    """Estimated time until the last cell ends, from the mean duration of the finished ones; None without one."""
    durations = [s.attempt.seconds for s in states if s.status == "done" and s.attempt.seconds is not None]
    running = sum(s.status == "running" for s in states)
    missing = running + sum(s.status == "waiting" for s in states)
    if not durations or not missing or not running:
        return None
    return sum(durations) / len(durations) * missing / running


def results_table(states: Sequence[CellState], runs: dict[str, Run]) -> RenderableType:
    """One row for each cell: its state, its duration, and the headline value of each metric with its interval.

    A narrow terminal leaves out the duration, then the intervals, then the values of the last metrics.
    """
    from ccvae_eval.core.results import ValueSpec
    from ccvae_eval.rendering.tables import headline_of, value_cells

    metrics = list(dict.fromkeys((m.metric, m.headline) for run in runs.values() for m in run))
    headings = [f"{metric}\n{headline}" for metric, headline in metrics]
    interval = "\n95% interval"
    table = FittedTable(spare=("time", interval, *reversed(headings)))
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column(interval, justify="right", no_wrap=True)
    for state in states:
        cells: list[str] = []
        found = {m.metric: headline_of(m) for m in runs.get(state.cell.name, ())}
        for metric, _ in metrics:
            value = found.get(metric)
            cells += ["–" if metric in found else "", ""] if value is None else value_cells(value, ValueSpec(""))[:2]
        seconds = state.attempt.seconds
        took = "" if seconds is None else duration(seconds)
        table.add_row(escaped(state.cell.name), state.status, took, *cells, style=STYLES[state.status])
    return table


def values_csv(runs: dict[str, Run]) -> bytes:
    """All values of all runs as CSV, with the name of the run in the first column."""
    rows = _rows(runs)
    text = io.StringIO()
    if rows:
        writer = csv_writer.DictWriter(
            text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows({key: inert_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def values_parquet(runs: dict[str, Run]) -> bytes:
    """All values of all runs as a Parquet file.

    Raises:
        UsageError: pyarrow is not installed.
    """
    arrow, parquet = (
        optional_module(name, "parquet", where="--parquet", error=UsageError) for name in ("pyarrow", "pyarrow.parquet")
    )
    content = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(_rows(runs)), content)
    return content.getvalue()


def _rows(runs: dict[str, Run]) -> list[dict[str, Any]]:
    return [{"run": name, **row} for name, run in runs.items() for row in run.rows()]


def _watch(sweep: Sweep, screen: Screen) -> None:
    """Shows the state until no cell is running or waiting; Ctrl-C ends it."""
    from rich.live import Live

    with Live(console=screen.err, transient=True) as live:
        while True:
            states = sweep.states()
            live.update(progress(states))
            if not any(state.status in ("running", "waiting") for state in states):
                return
            time.sleep(WATCH_SECONDS)


def progress(states: Sequence[CellState], most: int = 12) -> RenderableType:
    """The state of a sweep at work: the counts, the cells that run, and the last that failed."""
    table = FittedTable("cell", "state", "")
    shown = [state for state in states if state.status == "running"]
    shown += [state for state in states if state.status == "failed"][-most:]
    for state in shown[:most]:
        text = state.attempt.error or f"attempt {state.attempt.attempts}"
        table.add_row(escaped(state.cell.name), state.status, escaped(text[:100]), style=STYLES[state.status])
    return Group(state_line(states), *([table] if shown else []))


def as_plain(state: CellState, run: Run | None) -> dict[str, Any]:
    return {
        "name": state.cell.name, "checkpoint": state.cell.checkpoint, "state": state.status,
        "attempts": state.attempt.attempts, "seconds": state.attempt.seconds, "error": state.attempt.error,
        "values": {} if run is None else _headlines(run),
    }  # fmt: skip


def _headlines(run: Run) -> dict[str, float | None]:
    from ccvae_eval.core import typed
    from ccvae_eval.rendering.tables import headline_of

    found = {f"{m.metric}.{m.headline}": headline_of(m) for m in run}
    return {name: None if value is None else typed.plain(value.estimate.value) for name, value in found.items()}
