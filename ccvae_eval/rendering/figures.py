"""Parts of figures that several metrics and reports draw: grids of images, sheets of panels, colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.text import figure, plain

Picture = NDArray[np.generic]
Figures = Iterator[tuple[tuple[str, ...], Figure]]
"""A metric's figures, each with the parts of its file name."""

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


def save(sheet: Figure, path: Path) -> Path:
    """Writes a figure as PNG; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(sheet)
    sheet.savefig(path, dpi=DPI)
    return path


def titled_panels(count: int, columns: int, width: float, height: float, title: str) -> tuple[Figure, list[Any]]:
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


def show_image(axes: Any, image: Picture, title: str = "", **more: Any) -> None:
    shown = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if shown.ndim == 2 and "cmap" not in more:
        more |= {"cmap": "gray", "vmin": 0, "vmax": 255 if shown.dtype == np.uint8 else 1}
    axes.imshow(shown, interpolation="nearest", **more)
    axes.set_axis_off()
    if title:
        axes.set_title(plain(title), fontsize=7)


def tiled(images: Picture) -> Picture:
    """Images (rows, columns, H, W, C) as one picture, separated by white lines of one pixel."""
    padded = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = padded.shape
    tiled: Picture = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return tiled


def image_grid(images: Picture, title: str, beside: float = 0.0) -> tuple[Figure, Any]:
    """Images (rows, columns, H, W, C) in a grid under a title, small ones enlarged; the figure and its axes.

    Args:
        beside: inches left of the images for text.
    """
    tile = tiled(images)
    scale = max(1.0, MIN_STRIP_WIDTH / tile.shape[1]) / 90
    sheet = Figure(figsize=(tile.shape[1] * scale + beside, tile.shape[0] * scale + 0.4), layout="constrained")
    sheet.suptitle(plain(title), fontsize=9)
    axes = sheet.subplots()
    show_image(axes, tile)
    return sheet, axes


def score_text(measurement: Measurement, name: str, characteristic: str) -> str:
    """A characteristic's value with its name; "" if it is undefined."""
    for value in measurement.values:
        if value.name == name and value.characteristic == characteristic and not value.at and value.estimate.defined:
            return f"{name} {figure(value.estimate.value, 2)}"
    return ""
