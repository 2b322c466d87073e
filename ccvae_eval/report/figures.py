"""Figures: of a run's metrics, of a training's history, and of a recipe's tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.files import atomic_write, slug
from ccvae_eval.core.results import Measurement, Value, ValueSpec
from ccvae_eval.evaluation.metric import presentation_of
from ccvae_eval.evaluation.run import Run
from ccvae_eval.plugins.attribution import plugin_call
from ccvae_eval.rendering.figures import (
    CLASS_COLOURS,
    NAMES,
    NEUTRAL,
    TEXT_SIZE,
    WIDTH,
    class_colours,
    fitted,
    panel_title,
    save,
    style,
    titled_panels,
    titled_sheet,
)
from ccvae_eval.rendering.grids import Grid
from ccvae_eval.rendering.tables import ARROWS
from ccvae_eval.rendering.text import figure, markdown_row, markdown_text, plain
from ccvae_eval.report.checks import class_names
from ccvae_eval.report.page.answer import LEFT, RIGHT, profile, specs_of

INDEX = "index.md"
ROOMY = 5.0
"""Width in inches from which a profile names values and the ends of their lines."""
LEAST_METRICS = 2
"""Metrics with a value that a profile needs."""
IMAGE_AXIS = {"strip": 0, "before": 0, "after": 0, "keypoints": 0, "pairs": 1, "edits": 1, "assigned": 1}
"""Pictures of single images, by the first part of their name: the axis of the images, the first of the sample."""


def file_name(*parts: str, suffix: str = "png", taken: Collection[str] = ()) -> str:
    """A safe file name; a number keeps apart names that differ only in replaced characters.

    >>> file_name("strips", "Eyeglasses")
    'strips-Eyeglasses.png'
    >>> file_name("strips", "a/b", taken=["strips-a-b.png"])
    'strips-a-b-2.png'
    """
    safe = slug("-".join(parts))
    names = (f"{safe}{f'-{k}' if k > 1 else ''}.{suffix}" for k in count(1))
    return next(name for name in names if name.casefold() not in {other.casefold() for other in taken})


def draw_figures(run: Run, folder: Path) -> list[Path]:
    """Draws every figure of a run as PNG, with an index of them (index.md), and returns the files of the figures.

    The figures of a metric are those of its class (``figures``), drawn from the pictures of its measurement.

    Args:
        run: a run with pictures: just measured, or read from a folder with pictures.npz.
        folder: the folder of the files; created if there is a figure.
    """
    files: list[Path] = []
    rows = [["file", "address", "kind", "title"], ["---"] * 4]
    for address, parts, sheet in _all_figures(run):
        name = file_name(*parts, taken=[file.name for file in files])
        files.append(save(sheet, folder / name))
        title = markdown_text(sheet.get_suptitle().replace("\n", " "))
        rows.append([f"[{name}]({name})", f"`{plain(address)}`", parts[1] if len(parts) > 1 else "", title])
    if files:
        how = (
            "Each figure can be drawn in another format or width: `ccvae-eval report RUN --figure ADDRESS --kind KIND`."
        )
        lines = ["# Figures", "", how, "", *map(markdown_row, rows)]
        atomic_write(folder / INDEX, ("\n".join(lines) + "\n").encode())
    return files


def _all_figures(run: Run) -> Iterator[tuple[str, tuple[str, ...], Figure]]:
    """Every figure of a run with its address and the parts of its file name."""
    for name, draw in RUN_FIGURES.items():
        with style():
            sheet = draw(run)
        if sheet is not None:
            yield name, (name,), sheet
    for m in run.measurements:
        labels = {v.characteristic for v in m.values}
        for parts, sheet in figures_of(named(run, m)):
            owner = "-".join(parts[1:])
            yield f"{m.metric}@{owner}" if owner in labels else m.metric, (m.metric, *parts), sheet


def figures_of(measurement: Measurement, width: float = WIDTH) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Every figure that a measurement has pictures for, with the parts of its name; drawn one by one.

    Args:
        measurement: the measurement.
        width: greatest width of a figure in inches.
    """
    kind = presentation_of(measurement.metric)
    if measurement.pictures and hasattr(kind, "figures"):
        drawn: Iterator[tuple[tuple[str, ...], Figure]] | None = None
        while True:
            # not around the yield: the caller's own figures keep their style
            with plugin_call(kind, "metric", "figures(measurement)"), style(width):
                drawn = iter(kind.figures(measurement)) if drawn is None else drawn
                found = next(drawn, None)
            if found is None:
                return
            yield found


def named(run: Run, measurement: Measurement, images: Sequence[int] = ()) -> Measurement:
    """The measurement with the names that its figures show, restricted to some single images.

    Args:
        run: the run of the measurement.
        measurement: the measurement.
        images: ids of the images to show; empty = all that have pictures.

    Raises:
        UsageError: an image has no picture.
    """
    pictures = dict(measurement.pictures)
    single = {key: IMAGE_AXIS[start] for key in pictures if (start := key.partition("/")[0]) in IMAGE_AXIS}
    if measurement.metric == "locality":  # its pairs are pairs of classes
        single = {key: axis for key, axis in single.items() if not key.startswith("pairs/")}
    shown = max((pictures[key].shape[axis] for key, axis in single.items()), default=0)
    ids = [int(k) for k in run.ids.get(measurement.metric, ())[:shown]]
    if missing := [k for k in images if k not in ids]:
        known = f"Images with pictures: {', '.join(map(str, ids))}." if ids else "Its figures show no single images."
        raise UsageError(f"{measurement.metric} has no picture of image {missing[0]}", hint=known)
    if images:
        rows = [ids.index(k) for k in images]
        pictures |= {key: np.take(pictures[key], rows, axis) for key, axis in single.items()}
        ids = list(images)
    schema = run.header.data.get("labels", ())
    classes = [str(label["name"]) for label in schema if label.get("kind") != "continuous"]
    names = {f"classes/{name}": tuple(class_names(run, name)) for name in classes}
    names |= {"labels": tuple(str(label["name"]) for label in schema), "ids": tuple(map(str, ids))}
    return replace(measurement, pictures=pictures, names=names)


def draw_profile(run: Run) -> Figure | None:
    """Each headline value with its interval on a line from chance to the reference, or to the best possible value.

    Returns:
        The figure; None if fewer than two metrics have a value.
    """
    found = [p for p in profile(run) if p.value != "–"]
    if len(found) < LEAST_METRICS:
        return None
    room = rcParams["figure.figsize"][0]
    title = f"Headline values of {_model(run)} between chance and the best value, with 95% confidence intervals"
    sheet = titled_sheet(room, 0.32 * len(found) + 0.7, title)
    axes = sheet.subplots()
    narrow = room < ROOMY
    scale = RIGHT - LEFT
    for row, p in enumerate(found):
        axes.plot([0, 1], [row, row], color="#dddddd", linewidth=4, solid_capstyle="round", zorder=1)
        if p.at is not None:
            low, high = p.low if p.low is not None else p.at, p.high if p.high is not None else p.at
            axes.plot([(low - LEFT) / scale, (high - LEFT) / scale], [row, row], color=CLASS_COLOURS[0], linewidth=2)
            axes.plot((p.at - LEFT) / scale, row, "o", color=CLASS_COLOURS[0], markersize=5)
        ends = f"{p.chance} → {p.best} ({p.best_is})" if p.best else p.why
        axes.text(1.08, row, f"{p.value}", va="center")
        axes.text(1.08, row + 0.33, "" if narrow else ends, va="center", color="#555555", fontsize=TEXT_SIZE - 1)
    axes.set_yticks(range(len(found)), [plain(p.metric if narrow else f"{p.metric}\n{p.headline}") for p in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(-0.06, 1.06)
    axes.set_xticks([0, 1], ["chance", "best"])
    where = "position between chance and the reference model's value (without one: the best possible value)"
    axes.set_xlabel(fitted(where, 0.6 * room))
    axes.set_ylabel("metric and value")
    return sheet


def draw_labels(run: Run) -> Figure | None:
    """The headline value of each label with its interval, one panel for each metric; chance and reference as marks.

    Returns:
        The figure; None if no metric has a value of a label.
    """
    rows = [(m, {v.characteristic: v for v in m.values if v.name == m.headline and not v.at}) for m in run]
    shown = [(m, row) for m, row in rows if any(name and v.estimate.defined for name, v in row.items())]
    if not shown:
        return None
    schema = [str(label["name"]) for label in run.header.data.get("labels", ())]
    names = list(dict.fromkeys([*schema, *(name for _, row in shown for name in row if name)]))
    names = [name for name in names if any(name in row for _, row in shown)]
    colours = dict(zip(schema + names, class_colours(len(schema + names)), strict=True))
    colours |= dict(zip(schema, class_colours(len(schema)), strict=True))
    title = f"Headline value of each label of {_model(run)} with 95% confidence intervals"
    sheet, panels = titled_panels(len(shown), 3, 2.25, max(0.2 * len(names) + 0.75, 1.3), title)
    for panel, (m, row) in zip(panels, shown, strict=True):
        for y, name in enumerate(names):
            _draw_value(panel, y, row.get(name), colours[name])
        spec = specs_of(run, m.metric).get(m.headline, ValueSpec(""))
        panel_title(panel, f"{m.metric} {ARROWS[spec.higher_is_better]}")
        panel.set_xlabel(plain(NAMES.get(m.headline, m.headline.replace("_", " "))))
        first = panel.get_subplotspec().is_first_col()
        panel.set_yticks(range(len(names)), [fitted(name, 1.2) if first else "" for name in names])
        panel.set_ylabel("label" if first else "")
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(visible=True, axis="x")
        panel.margins(x=0.08)
    marks = [
        Line2D([], [], color=NEUTRAL, marker=mark, linestyle="none", markersize=5, label=name)
        for mark, name in (("|", "chance"), ("d", "reference model"))
    ]
    sheet.legend(handles=marks, loc="outside lower center", ncols=2)
    return sheet


def _draw_value(panel: Any, y: int, value: Value | None, colour: Any) -> None:
    """A value with its interval, chance level and reference in one row of a panel."""
    if value is None or not value.estimate.defined:
        panel.text(0.02, y, "no value", transform=panel.get_yaxis_transform(), va="center", color="#666666")
        return
    e = value.estimate
    if not math.isnan(e.low):
        panel.plot([e.low, e.high], [y, y], color=colour, linewidth=1.5, zorder=3)
    panel.plot(e.value, y, "o", color=colour, markersize=4, zorder=4)
    for level, mark, size in ((value.chance, "|", 7), (value.reference, "d", 4)):
        if level is not None:
            panel.plot(level, y, mark, color=NEUTRAL, markersize=size, zorder=2)


def _model(run: Run) -> str:
    return plain(str(run.header.checkpoint.get("model") or "the codes"))


RUN_FIGURES = {"profile": draw_profile, "labels": draw_labels}
"""Figures of a whole run, by their address."""

NOT_TERMS = ("split", "epoch", "step", "seconds")
"""Columns of history.csv besides the terms and their numbers of rows."""
TERMS = {
    "value": "objective", "kl_style": "KL of the style", "characteristics": "KL of the label latents",
    "log_q_y_x": "log q(y|x)", "log_p_y": "log p(y)",
}  # fmt: skip
"""Names of terms whose columns are abbreviated."""
COLUMNS = 3
SHADES = {"train": CLASS_COLOURS[0], "validation": CLASS_COLOURS[1]}


def draw_history(text: str, path: Path) -> Path | None:
    """Draws the curve of each term of a training's objective over its steps, one panel each.

    Args:
        text: the content of a history.csv.
        path: the PNG to write.

    Returns:
        The path; None if no term has a value.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [name for name in rows[0] if name not in NOT_TERMS and not name.endswith(".rows")] if rows else []
    names = [name for name in names if any(row[name] for row in rows)]
    if not names:
        return None
    with style():
        last = ((split, _points(rows, split, names[0])[1]) for split in SHADES)
        found = ", ".join(f"{figure(values[-1])} ({split})" for split, values in last if values)
        title = f"Terms of the objective over training; last {names[0]}: {found}"
        sheet, axes = titled_panels(len(names), COLUMNS, 2.25, 1.6, title)
        for panel, name in zip(axes, names, strict=True):
            for split, colour in SHADES.items():
                steps, values = _points(rows, split, name)
                if steps:
                    panel.plot(steps, values, ".-", color=colour, markersize=3, label=split)
            panel_title(panel, _term(name))
            panel.set_xlabel("training step")
            panel.set_ylabel("mean")
            panel.ticklabel_format(useOffset=False)
            panel.grid(visible=True)
        marks = [Line2D([], [], color=colour, marker=".", label=split) for split, colour in SHADES.items()]
        sheet.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return save(sheet, path)


def _term(name: str) -> str:
    """A column of history.csv as the name of a term.

    >>> _term("supervised.log_q_y_x")
    'supervised: log q(y|x)'
    """
    part, dot, term = name.rpartition(".")
    return f"{part}{': ' * bool(dot)}{TERMS.get(term, term.replace('_', ' '))}"


def _points(rows: Sequence[Mapping[str, str]], split: str, name: str) -> tuple[list[float], list[float]]:
    """The steps at which a term has a value, and the values."""
    found = [row for row in rows if row["split"] == split and row[name]]
    return [float(row["step"]) for row in found], [float(row[name]) for row in found]


def draw_grid(grid: Grid, path: Path) -> Path:
    """Draws a grid: points with error bars, joined on a numeric axis; published numbers hollow, chance dashed."""
    with style():
        sheet = _grid_figure(grid)
    return save(sheet, path)


def _grid_figure(grid: Grid) -> Figure:
    sheet = titled_sheet(4.5, 2.8, f"{grid.value} by {grid.axis or 'model'}, with 95% confidence intervals")
    colours = class_colours(len(grid.rows))
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
        axes.errorbar(
            x, values, error, fmt="o-" if grid.positions else "o", capsize=3, color=colours[row], label=plain(name)
        )
        published = [(at, entry.published) for at, entry in zip(x, entries, strict=True) if entry.published is not None]
        if published:
            axes.plot(*zip(*published, strict=True), "o", mfc="none", mec=colours[row], ms=8)
    if chances := grid.chances():
        label = plain(f"chance: {grid.chance_as}")
        if len(positions) > 1:
            axes.plot(positions, chances, "--", color=NEUTRAL, linewidth=1, label=label)
        else:
            axes.axhline(chances[0], linestyle="--", color=NEUTRAL, linewidth=1, label=label)
    if grid.positions and min(positions) > 0 and max(positions) / min(positions) > 20:
        axes.set_xscale("log")
    axes.set_xticks(positions, [plain(column) for column in grid.columns])
    axes.minorticks_off()
    axes.grid(visible=True, axis="y")
    axes.set_xlabel(plain(grid.axis or "model"))
    axes.set_ylabel(plain(grid.value))
    sheet.legend(loc="outside lower center", ncols=3)
    return sheet
