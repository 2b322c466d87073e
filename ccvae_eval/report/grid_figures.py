"""A grid of numbers as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ccvae_eval.report.figures import DPI
from ccvae_eval.report.grids import Grid
from ccvae_eval.report.text import plain


def draw_grid(grid: Grid, path: Path) -> Path:
    """The grid as a picture: curves over a numeric axis, else bars; published numbers as hollow dots, chance dashed."""
    sheet = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes: Any = sheet.subplots()
    places = list(grid.positions or range(len(grid.columns)))
    wide = len(grid.rows)
    for number, (name, entries) in enumerate(grid.rows):
        nudge = 0.0 if grid.positions else 0.8 * ((number + 0.5) / wide - 0.5)
        x = [place + nudge for place in places]
        values = [entry.estimate.value for entry in entries]
        error = [
            [v - e.estimate.low if v >= e.estimate.low else 0 for v, e in zip(values, entries, strict=True)],
            [e.estimate.high - v if v <= e.estimate.high else 0 for v, e in zip(values, entries, strict=True)],
        ]
        line = axes.errorbar(x, values, error, fmt="o-" if grid.positions else "o", capsize=3, label=plain(name))
        told = [(at, entry.published) for at, entry in zip(x, entries, strict=True) if entry.published is not None]
        if told:
            axes.plot(*zip(*told, strict=True), "o", mfc="none", mec=line[0].get_color(), ms=9)
    if chances := grid.chances():
        label = plain(f"chance: {grid.chance_as}")
        if len(places) > 1:
            axes.plot(places, chances, "--", color="grey", linewidth=1, label=label)
        else:
            axes.axhline(chances[0], linestyle="--", color="grey", linewidth=1, label=label)
    if grid.positions and min(places) > 0 and max(places) / min(places) > 20:
        axes.set_xscale("log")
    axes.set_xticks(places, [plain(column) for column in grid.columns], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(plain(grid.axis))
    axes.set_ylabel(plain(grid.value))
    axes.legend(fontsize=8, frameon=False)
    FigureCanvasAgg(sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=DPI)
    return path
