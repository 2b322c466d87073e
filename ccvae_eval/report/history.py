"""The curves of a training: every term of its history.csv, on the training images and on those held out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ccvae_eval.report.figures import CLASS_COLOURS, DPI
from ccvae_eval.report.text import plain

SPLIT, EPOCH, STEP, SECONDS, ROWS = "split", "epoch", "step", "seconds", "rows"
COLUMNS = 4
SHADES = {"train": CLASS_COLOURS[0], "validation": CLASS_COLOURS[1]}


def draw_history(text: str, path: Path) -> Path | None:
    """One small panel for each term, over the steps; "supervised.kl" and "unsupervised.kl" are terms of their own.

    Args:
        text: of a history.csv.
        path: the PNG to write.

    Returns:
        The path; None where the history has no row yet.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [name for name in rows[0] if _is_term(name)] if rows else []
    if not names:
        return None
    deep = -(-len(names) // COLUMNS)
    sheet = Figure(figsize=(2.6 * COLUMNS, 1.7 * deep + 0.4), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = sheet.add_subplot(deep, COLUMNS, place)
        for split, colour in SHADES.items():
            steps, values = _points(rows, split, name)
            if steps:
                axes.plot(steps, values, ".-", color=colour, linewidth=1, markersize=3, label=split)
        axes.set_title(plain(name), fontsize=8)
        axes.tick_params(labelsize=6)
        if place == 1:
            axes.legend(fontsize=6, frameon=False)
    FigureCanvasAgg(sheet)
    sheet.savefig(path, dpi=DPI)
    return path


def _is_term(name: str) -> bool:
    return name not in (SPLIT, EPOCH, STEP, SECONDS) and not name.endswith(f".{ROWS}")


def _points(rows: Sequence[Mapping[str, str]], split: str, name: str) -> tuple[list[float], list[float]]:
    """The steps and values of a term where it has one."""
    found = [row for row in rows if row[SPLIT] == split and row[name]]
    return [float(row[STEP]) for row in found], [float(row[name]) for row in found]
