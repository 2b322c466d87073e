"""Figures as PNG files: of a run's metrics, of a training's history, and of a recipe's tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ccvae_eval.core.files import slug
from ccvae_eval.core.results import Measurement
from ccvae_eval.evaluation.metric import presentation_of
from ccvae_eval.evaluation.run import Run
from ccvae_eval.plugins.attribution import plugin_call
from ccvae_eval.rendering.figures import CLASS_COLOURS, panels, save
from ccvae_eval.rendering.grids import Grid
from ccvae_eval.rendering.text import plain


def file_name(*parts: str) -> str:
    """A safe PNG file name; if characters were replaced, a digest keeps different names apart.

    >>> file_name("strips", "Eyeglasses")
    'strips-Eyeglasses.png'
    >>> file_name("strips", "a/b") != file_name("strips", "a:b")
    True
    """
    raw = "-".join(parts)
    safe = slug(raw)
    return f"{safe}.png" if safe == raw else f"{safe}-{sha256(raw.encode()).hexdigest()[:6]}.png"


def draw_figures(run: Run, folder: Path) -> list[Path]:
    """Draws every figure that the run's measurements have pictures for, and returns the files.

    The figures of a metric are those of its class (``figures``), drawn from the pictures of its measurement.

    Args:
        run: a run with pictures: just measured, or read from a folder with pictures.npz.
        folder: the folder of the PNG files; created if there is a figure.
    """
    return [
        save(sheet, folder / file_name(measurement.metric, *name))
        for measurement in run.measurements
        for name, sheet in figures_of(measurement)
    ]


def figures_of(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Every figure that a measurement has pictures for, with the parts of its name; drawn one by one."""
    kind = presentation_of(measurement.metric)
    if measurement.pictures and hasattr(kind, "figures"):
        with plugin_call(kind, "metric", "figures(measurement)"):
            yield from kind.figures(measurement)


NOT_TERMS = ("split", "epoch", "step", "seconds")
"""Columns of history.csv besides the terms and their numbers of rows."""
COLUMNS = 4
SHADES = {"train": CLASS_COLOURS[0], "validation": CLASS_COLOURS[1]}


def draw_history(text: str, path: Path) -> Path | None:
    """Draws the curve of each term of a training's objective over its steps, one panel each.

    Args:
        text: the content of a history.csv.
        path: the PNG to write.

    Returns:
        The path; None if the history is empty.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [name for name in rows[0] if name not in NOT_TERMS and not name.endswith(".rows")] if rows else []
    if not names:
        return None
    sheet = Figure(figsize=(2.6 * COLUMNS, 1.7 * -(-len(names) // COLUMNS) + 0.4), layout="constrained")
    for axes, name in zip(panels(sheet, len(names), COLUMNS), names, strict=True):
        for split, colour in SHADES.items():
            steps, values = _points(rows, split, name)
            if steps:
                axes.plot(steps, values, ".-", color=colour, linewidth=1, markersize=3, label=split)
        axes.set_title(plain(name), fontsize=8)
        axes.tick_params(labelsize=6)
    sheet.axes[0].legend(fontsize=6, frameon=False)
    return save(sheet, path)


def _points(rows: Sequence[Mapping[str, str]], split: str, name: str) -> tuple[list[float], list[float]]:
    """The steps at which a term has a value, and the values."""
    found = [row for row in rows if row["split"] == split and row[name]]
    return [float(row["step"]) for row in found], [float(row[name]) for row in found]


def draw_grid(grid: Grid, path: Path) -> Path:
    """Draws a grid: points with error bars, joined on a numeric axis; published numbers hollow, chance dashed."""
    sheet = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes: Any = sheet.subplots()
    positions = list(grid.positions or range(len(grid.columns)))
    for row, (name, entries) in enumerate(grid.rows):
        offset = 0.0 if grid.positions else 0.8 * ((row + 0.5) / len(grid.rows) - 0.5)
        x = [position + offset for position in positions]
        values = [entry.estimate.value for entry in entries]
        error = [
            [v - e.estimate.low if v >= e.estimate.low else 0 for v, e in zip(values, entries, strict=True)],
            [e.estimate.high - v if v <= e.estimate.high else 0 for v, e in zip(values, entries, strict=True)],
        ]
        line = axes.errorbar(x, values, error, fmt="o-" if grid.positions else "o", capsize=3, label=plain(name))
        published = [(at, entry.published) for at, entry in zip(x, entries, strict=True) if entry.published is not None]
        if published:
            axes.plot(*zip(*published, strict=True), "o", mfc="none", mec=line[0].get_color(), ms=9)
    if chances := grid.chances():
        label = plain(f"chance: {grid.chance_as}")
        if len(positions) > 1:
            axes.plot(positions, chances, "--", color="grey", linewidth=1, label=label)
        else:
            axes.axhline(chances[0], linestyle="--", color="grey", linewidth=1, label=label)
    if grid.positions and min(positions) > 0 and max(positions) / min(positions) > 20:
        axes.set_xscale("log")
    axes.set_xticks(positions, [plain(column) for column in grid.columns], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(plain(grid.axis))
    axes.set_ylabel(plain(grid.value))
    axes.legend(fontsize=8, frameon=False)
    return save(sheet, path)
