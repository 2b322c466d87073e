"""Figures as PNG files: of a run's metrics, of a training's history, and of a recipe's tables.

The figures of a metric are drawn from the pictures that its measurement carries; ``FIGURES`` has one function for each
metric with figures.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from ccvae_eval.core.files import slug
from ccvae_eval.core.results import Measurement
from ccvae_eval.evaluation.run import Run
from ccvae_eval.report.grids import Grid
from ccvae_eval.report.text import figure, nested, plain

Picture = NDArray[np.generic]
FigureDrawer = Callable[[Measurement], Iterator[tuple[tuple[str, ...], Figure]]]
"""Yields figures with the parts of their file names."""

DPI = 120
MAX_PANELS = 20
"""Characteristics shown in one figure."""
MIN_STRIP_WIDTH = 420
"""Least width of a strip of images in pixels, so that its title fits."""
CLASS_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#bbbbbb")
CHARACTERS_PER_INCH = 13
"""Of a figure's title."""


def class_colours(count: int) -> Sequence[Any]:
    """``count`` colours; all different up to 20."""
    if count <= len(CLASS_COLOURS):
        return CLASS_COLOURS[:count]
    many = colormaps["tab20"]
    return [many(index % many.N) for index in range(count)]


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
    if measurement.metric in FIGURES and measurement.pictures:
        yield from FIGURES[measurement.metric](measurement)


def save(sheet: Figure, path: Path) -> Path:
    """Writes a figure as PNG; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(sheet)
    sheet.savefig(path, dpi=DPI)
    return path


def under(pictures: Mapping[str, Picture], start: str) -> dict[str, Picture]:
    """The pictures whose name begins with ``start/``, by the rest of their name."""
    return {key[len(start) + 1 :]: value for key, value in pictures.items() if key.startswith(f"{start}/")}


def _sheet(count: int, columns: int, width: float, height: float, title: str) -> tuple[Figure, list[Any]]:
    """A figure of ``count`` panels, each width x height inches, under a wrapped title; the figure and its panels."""
    columns = min(count, columns)
    wide = columns * width + 0.3
    lines = wrap(plain(title), int(wide * CHARACTERS_PER_INCH))
    high = -(-count // columns) * height + 0.35 + 0.15 * len(lines)
    sheet = Figure(figsize=(wide, high), layout="constrained")
    sheet.suptitle("\n".join(lines), fontsize=9)
    return sheet, panels(sheet, count, columns)


def panels(sheet: Figure, count: int, columns: int) -> list[Any]:
    """The axes of ``count`` panels, row by row; the rest of the last row stays empty."""
    axes: list[Any] = list(sheet.subplots(-(-count // columns), columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return axes[:count]


def _show(axes: Any, image: Picture, title: str = "", **more: Any) -> None:
    shown = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if shown.ndim == 2 and "cmap" not in more:
        more |= {"cmap": "gray", "vmin": 0, "vmax": 255 if shown.dtype == np.uint8 else 1}
    axes.imshow(shown, interpolation="nearest", **more)
    axes.set_axis_off()
    if title:
        axes.set_title(plain(title), fontsize=7)


def _tiled(images: Picture) -> Picture:
    """Images (rows, columns, H, W, C) as one picture, separated by white lines of one pixel."""
    padded = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = padded.shape
    tiled: Picture = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return tiled


def _strips(images: Picture, title: str, beside: float = 0.0) -> tuple[Figure, Any]:
    """Images (rows, columns, H, W, C) in a grid under a title, small ones enlarged; the figure and its axes.

    Args:
        beside: inches left of the images for text.
    """
    tile = _tiled(images)
    scale = max(1.0, MIN_STRIP_WIDTH / tile.shape[1]) / 90
    sheet = Figure(figsize=(tile.shape[1] * scale + beside, tile.shape[0] * scale + 0.4), layout="constrained")
    sheet.suptitle(plain(title), fontsize=9)
    axes = sheet.subplots()
    _show(axes, tile)
    return sheet, axes


def _score(measurement: Measurement, name: str, characteristic: str) -> str:
    """A characteristic's value with its name; "" if it is undefined."""
    for value in measurement.values:
        if value.name == name and value.characteristic == characteristic and not value.at and value.estimate.defined:
            return f"{name} {figure(value.estimate.value, 2)}"
    return ""


def locality_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Traversal strips, change maps with the region's outline, and two-dimensional traversals."""
    for name, strip in under(measurement.pictures, "strip").items():
        if measurement.settings.get("path") == "interpolation":
            title = f"{name}: interpolation to an image of another class"
        else:
            title = f"{name}: traversal of its latents, others fixed"
        yield ("strips", name), _strips(strip, title)[0]
    for name, strips in nested(measurement.pictures, "pairs").items():
        sheet, axes = _strips(np.concatenate(list(strips.values())), f"{name}: traversals between classes", beside=2.0)
        high = next(iter(strips.values())).shape[2] + 1
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([high * (row + 0.5) for row in range(len(strips))], [plain(which) for which in strips])
        axes.tick_params(labelsize=7, length=0)
        yield ("pairs", name), sheet
    changes = dict(list(under(measurement.pictures, "mean/change").items())[:MAX_PANELS])
    if changes:
        yield ("change-maps",), _change_maps(measurement, changes)
    for name, grid in under(measurement.pictures, "grid").items():
        tile = _tiled(grid)
        sheet = Figure(figsize=(4.2, 4.5), layout="constrained")
        _show(sheet.subplots(), tile, " down, ".join(name.split("|", 1)) + " across")
        yield ("grid", name), sheet


def _change_maps(measurement: Measurement, changes: Mapping[str, Picture]) -> Figure:
    regions = under(measurement.pictures, "mean/region")
    base = measurement.pictures["mean/image"]
    outline = " (outline: the characteristic's region)" if regions else ""
    sheet, axes = _sheet(len(changes), 5, 1.7, 1.9, f"Mean change of the image over a traversal{outline}")
    for panel, (name, change) in zip(axes, changes.items(), strict=True):
        top = float(np.max(change)) or 1.0
        score = _score(measurement, "focus", name) or _score(measurement, "concentration", name)
        _show(panel, np.asarray(base).mean(-1), f"{name}\n{score}")
        panel.imshow(change, cmap="inferno", alpha=np.clip(np.asarray(change, dtype=float) / top, 0, 1) ** 0.5)
        region = np.asarray(regions.get(name, 0), dtype=float)
        if np.ptp(region) > 0:
            panel.contour(region, levels=[0.5 * float(np.max(region))], colors="#66ccee", linewidths=0.8)
    return sheet


def density_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """The codes of each characteristic by class, with p(z|y): densities, and points for two latent dimensions."""
    for kind, draw in (("curves", _draw_densities), ("scatter", _draw_points)):
        shown = nested(measurement.pictures, kind)
        if not shown:
            continue
        title = "Codes by class; dashed: the model's conditional prior p(z|y)"
        sheet, axes = _sheet(len(shown), 3, 2.6, 1.9, title)
        for panel, (name, parts) in zip(axes, shown.items(), strict=True):
            draw(panel, parts)
            panel.tick_params(labelsize=6)
            panel.set_title(plain(f"{name}  {_score(measurement, 'auc', name)}"), fontsize=7)
            classes = panel.get_legend_handles_labels()[1]
            panel.legend(fontsize=5, frameon=False, markerscale=3, ncols=1 + len(classes) // 8)
        yield (kind,), sheet


def _by_class(parts: Mapping[str, Picture]) -> Iterator[tuple[Any, str, Picture, Picture | None]]:
    """For each class its colour, its name, its picture and the picture of its prior."""
    classes = [name for name in parts if name != "grid" and not name.startswith("prior/")]
    for colour, name in zip(class_colours(len(classes)), classes, strict=True):
        yield colour, plain(name), parts[name], parts.get(f"prior/{name}")


def _draw_densities(axes: Any, parts: Mapping[str, Picture]) -> None:
    for colour, name, density, prior in _by_class(parts):
        axes.fill_between(parts["grid"], density, color=colour, alpha=0.35, label=name)
        if prior is not None:
            axes.plot(parts["grid"], prior, color=colour, linestyle="--", linewidth=1)
    axes.set_yticks([])


def _draw_points(axes: Any, parts: Mapping[str, Picture]) -> None:
    """Scatter plot of two latent dimensions; the prior as an ellipse of two standard deviations."""
    for colour, name, points, prior in _by_class(parts):
        axes.scatter(points[:, 0], points[:, 1], s=2, color=colour, alpha=0.5, linewidths=0, label=name)
        if prior is not None:
            (x, y), (wide, high) = (np.asarray(row, dtype=float) for row in prior)
            axes.add_patch(Ellipse((x, y), 4 * wide, 4 * high, fill=False, color=colour, linestyle="--", linewidth=1))


def diversity_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Samples of each characteristic from p(z|y), and their standard deviation at each pixel."""
    for name, strip in under(measurement.pictures, "strip").items():
        yield ("draws", name), _strips(strip, f"{name}: samples from p(z|y), other latents fixed")[0]
    maps = under(measurement.pictures, "mean/variance")
    if maps:
        sheet, axes = _sheet(len(maps), 5, 1.7, 1.9, "Standard deviation over samples from p(z|y)")
        top = max(float(np.sqrt(np.max(m))) for m in maps.values()) or 1.0
        for panel, (name, variance) in zip(axes, maps.items(), strict=True):
            _show(panel, np.sqrt(np.asarray(variance, dtype=float)), name, cmap="inferno", vmin=0, vmax=top)
        sheet.colorbar(ScalarMappable(Normalize(0, top), "inferno"), ax=sheet.axes, shrink=0.6)
        yield ("variance",), sheet


def drift_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Keypoints of the reconstruction matched in the edited image, coloured by the matcher's confidence."""
    names = list(under(measurement.pictures, "after"))
    before = measurement.pictures.get("before")
    if before is None or not names:
        return
    for name in names[:MAX_PANELS]:
        after = measurement.pictures[f"after/{name}"]
        points = measurement.pictures[f"keypoints/{name}"]
        count = min(len(after), 4)
        title = f"{name}: keypoint matches after the edit (blue: confident, red: uncertain, x: lost)"
        sheet, axes = _sheet(2 * count, count, 2.0, 2.1, title)
        for i in range(count):
            _show(axes[i], before[i], "reconstruction" if i == 0 else "")
            _show(axes[count + i], after[i], f"do({name})" if i == 0 else "")
            _scatter(axes[count + i], np.asarray(points[i], dtype=float))
        yield ("matches", name), sheet


def _scatter(axes: Any, points: NDArray[np.float64]) -> None:
    """Draws points, shape (P, 6): x, y, matched x, matched y, confidence, matched or not; NaN rows are padding."""
    points = points[~np.isnan(points[:, 0])]
    matched = points[:, 5] > 0
    kept, lost = points[matched], points[~matched]
    if len(kept):
        lines = np.stack([kept[:, :2], kept[:, 2:4]], 1)
        shown: dict[str, Any] = {"cmap": "coolwarm_r", "norm": Normalize(0, 1)}
        axes.add_collection(LineCollection(list(lines), array=kept[:, 4], linewidths=0.6, **shown))
        axes.scatter(kept[:, 2], kept[:, 3], c=kept[:, 4], s=5, **shown)
    if len(lost):
        axes.scatter(lost[:, 0], lost[:, 1], color="#cc3311", marker="x", s=8, linewidths=0.7)


def reconstruction_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Images above their reconstructions, and the error at each pixel."""
    pairs = measurement.pictures.get("pairs")
    if pairs is not None:
        yield ("pairs",), _strips(pairs, "Images and their reconstructions")[0]
    error = measurement.pictures.get("mean/error")
    if error is not None:
        sheet = Figure(figsize=(2.6, 2.4), layout="constrained")
        axes = sheet.subplots()
        root = np.sqrt(np.asarray(error, dtype=float))
        top = float(root.max()) or 1.0
        _show(axes, root, "Root mean squared error", cmap="inferno", vmin=0, vmax=top)
        sheet.colorbar(ScalarMappable(Normalize(0, top), "inferno"), ax=axes, shrink=0.8)
        yield ("error",), sheet


def intervention_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Images, their reconstructions and the edited images, one row each."""
    rows = under(measurement.pictures, "edits")
    titles = {name: f"{name}: image, reconstruction, set to another class, swapped" for name in rows}
    assigned = measurement.pictures.get("assigned")
    if assigned is not None:
        rows["assigned"] = assigned
        titles["assigned"] = f"Image, reconstruction, set to {measurement.settings.get('assign')}"
    for name, images in list(rows.items())[:MAX_PANELS]:
        yield ("edits", name), _strips(images, titles[name])[0]


def generation_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Samples from the prior, then from p(z|y) class by class, with the same noise in each column."""
    drawn = measurement.pictures.get("drawn")
    if drawn is None:
        return
    rows = {"unconditional": drawn, **under(measurement.pictures, "asked")}
    shown = dict(list(rows.items())[: MAX_PANELS + 10])
    sheet, axes = _strips(np.concatenate(list(shown.values())), "Samples from the prior", beside=2.0)
    step = drawn.shape[2] + 1  # a row and the white line below it
    for row, name in enumerate(shown):
        axes.text(-3, (row + 0.5) * step, plain(name), ha="right", va="center", fontsize=6)
    yield ("drawn",), sheet


def panel_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """Mutual information of codes and factors, and the association between factors, as heat maps."""
    pictures = measurement.pictures
    codes, factors = ([plain(str(name)) for name in pictures[key]] for key in ("codes", "factors"))
    information = np.asarray(pictures["information"], dtype=np.float64)
    yield ("information",), _heat_map(information, codes, factors, "Mutual information / entropy of the factor")
    if len(factors) > 1:
        correlation = np.asarray(pictures["correlation"], dtype=np.float64)
        yield ("factors",), _heat_map(correlation, factors, factors, "Association of the factors (Cramér's V)")


def _heat_map(
    shares: np.ndarray[tuple[int, int], np.dtype[np.float64]], rows: list[str], columns: list[str], title: str
) -> Figure:
    """A matrix of numbers from 0 to 1; numbers are written into the cells of a small one."""
    height, width = min(0.24 * len(rows) + 1.6, 30.0), min(0.4 * len(columns) + 2.4, 30.0)
    sheet = Figure(figsize=(width, height), layout="constrained")
    axes = sheet.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_title(plain(title), fontsize=8)
    if len(columns) <= 80:
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    if len(rows) <= 120:
        axes.set_yticks(range(len(rows)), rows, fontsize=6)
    for (j, k), share in np.ndenumerate(shares) if shares.size <= 300 else ():
        if not math.isnan(share):
            colour = "black" if share > 0.6 else "white"
            axes.text(k, j, f"{share:.2f}", ha="center", va="center", fontsize=5, color=colour)
    sheet.colorbar(shown, ax=axes, shrink=0.8)
    return sheet


FIGURES: dict[str, FigureDrawer] = {
    "locality": locality_figures,
    "density": density_figures,
    "diversity": diversity_figures,
    "drift": drift_figures,
    "reconstruction": reconstruction_figures,
    "intervention": intervention_figures,
    "generation": generation_figures,
    "disentanglement": panel_figures,
}


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
