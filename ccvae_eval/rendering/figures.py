"""Style of all figures, and the parts that several metrics and reports draw: panels, grids of images, matrices."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from ccvae_eval.core.errors import listed
from ccvae_eval.core.files import atomic_write, make_folder
from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.text import figure, plain, with_interval

Picture = NDArray[np.generic]
Figures = Iterator[tuple[tuple[str, ...], Figure]]
"""A metric's figures, each with the parts of its file name."""

WIDTH = 6.75
"""Greatest width of a figure in inches: the text of a page with two columns."""
DPI = 200
TITLE_SIZE, TEXT_SIZE = 9, 8
MAX_PANELS = 20
"""Characteristics shown in one figure."""
TALLEST = 9.0
"""Greatest height of a figure in inches."""
TILE = 0.75
"""Greatest side of a single image in a grid, in inches."""
NARROW = 3.25
"""Least width of a figure in inches, if the style does not ask for a smaller one: a column of a page."""
LINE = 0.165
"""Height of a line of text in inches."""
TITLE_GAP = 0.16
"""Height above and below a title in inches."""
MOST_NAMED = 40
"""Rows or columns of a matrix that are named."""
MOST_NUMBERS = 400
"""Cells of a matrix whose numbers are written."""
CLASS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito (2008), which people with colour blindness can tell apart; yellow is too light."""
YELLOW = "#F0E442"
NEUTRAL = "#8c8c8c"
"""Colour of the absent class, of chance and of the reference."""
MAGNITUDE = "inferno"
"""Colour map of magnitudes in images."""
STYLE: dict[Any, Any] = {
    "font.size": TEXT_SIZE, "font.family": "DejaVu Sans", "axes.titlesize": TEXT_SIZE, "axes.labelsize": TEXT_SIZE,
    "xtick.labelsize": TEXT_SIZE, "ytick.labelsize": TEXT_SIZE, "legend.fontsize": TEXT_SIZE,
    "figure.titlesize": TITLE_SIZE, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": False, "grid.color": "#dddddd",
    "grid.linewidth": 0.5, "legend.frameon": False, "legend.handlelength": 1.2, "legend.columnspacing": 1.0,
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "ccvae-eval",
    "text.parse_math": False,
}  # fmt: skip
NAMES = {"auc": "AUC", "mse": "MSE", "cross_auc": "AUC across labels"}
"""Names of values in titles, where they differ from the address."""


def style(width: float = WIDTH) -> AbstractContextManager[None]:
    """The style of all figures while they are drawn or written; ``width`` is their greatest width in inches.

    Settings of a ``matplotlibrc``, which may lie in the working folder, have no effect.
    """
    defaults = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    return rc_context(defaults | STYLE | {"figure.figsize": (width, 0.6 * width)})


def class_colours(count: int) -> Sequence[Any]:
    """``count`` colours; all different up to 20: the palette, darker and lighter tones of it, and yellow."""
    found: list[Any] = list(CLASS_COLOURS)
    for tone, share in ((0.0, 0.45), (1.0, 0.55)):
        found += [tuple((1 - share) * c + share * tone for c in to_rgb(name)) for name in CLASS_COLOURS[:-1]]
    found.append(YELLOW)
    return [found[index % len(found)] for index in range(count)]


def label_colours(measurement: Measurement) -> dict[str, Any]:
    """The colour of each label: that of its position in the model's schema, the same in every figure of a run.

    The order of the schema is ``measurement.names``; without it, the order of the values.
    """
    names = list(measurement.names.get("labels", ()))
    names += [value.characteristic for value in measurement.values if value.characteristic]
    order = list(dict.fromkeys(names))
    return dict(zip(order, class_colours(len(order)), strict=True))


def save(sheet: Figure, path: Path) -> Path:
    """Writes a figure in the format of its suffix, completely or not at all; creates its folder.

    Raises:
        InputError: the file cannot be written.
    """
    make_folder(path.parent)
    FigureCanvasAgg(sheet)
    content = io.BytesIO()
    dated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with style():
        sheet.draw_without_rendering()  # the layout of small figures needs two passes
        suffix = path.suffix.lower()
        sheet.savefig(content, format=suffix[1:], dpi=DPI, metadata=dated.get(suffix))
    atomic_write(path, content.getvalue())
    return path


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """The width of the widest line of a text in inches."""
    font = FontProperties(family=[str(STYLE["font.family"])], size=size)
    widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
    return float(max(widths)) / 72


def fitted(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """The text in lines of at most ``width`` inches, broken at spaces and after underscores; longer parts are cut."""
    lines = []
    for paragraph in plain(text).split("\n"):
        line = ""
        for word in paragraph.split():
            whole = text_width(word, size) <= width
            for k, part in enumerate([word] if whole else re.findall("[^_]*_?", word)):
                piece = part
                while text_width(piece, size) > width and len(piece) > 1:
                    piece = piece.removesuffix("…")[:-1] + "…"
                longer = line + " " * (k == 0 and bool(line)) + piece
                if line and text_width(longer, size) > width:
                    lines.append(line)
                    longer = piece
                line = longer
        lines.append(line)
    return "\n".join(lines)


def titled_sheet(width: float, height: float, title: str, tallest: float = TALLEST) -> Figure:
    """A figure of a content of width x height inches under its title, no wider than the style says."""
    wide = min(width, rcParams["figure.figsize"][0])
    lines = fitted(title, wide - 0.2, TITLE_SIZE)
    high = min(height * wide / width, tallest) + LINE * (lines.count("\n") + 1) + TITLE_GAP
    sheet = Figure(figsize=(wide, high), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05))
    sheet.suptitle(lines, fontsize=TITLE_SIZE)
    return sheet


def titled_panels(count: int, columns: int, width: float, height: float, title: str) -> tuple[Figure, list[Any]]:
    """A figure of ``count`` panels, each about width x height inches, under a title; the figure and its panels.

    If the style asks for a narrow figure, fewer panels stand side by side.
    """
    room = rcParams["figure.figsize"][0]
    columns = max(1, min(count, columns, int(room / (0.75 * width))))
    rows = -(-count // columns)
    sheet = titled_sheet(max(columns * width, NARROW), rows * height, title, math.inf)
    return sheet, panels(sheet, count, columns)


def map_panels(
    measurement: Measurement, names: Collection[str], title: str, top: float, bar: str
) -> tuple[Figure, list[Any]]:
    """A figure with a panel for the map of each label, and a colour bar; the figure and its panels.

    Args:
        measurement: the title ends with its labels that have no map.
        names: the labels that have one.
        title: what the maps show.
        top: number of the brightest colour; that of the darkest is 0.
        bar: what the colours are.
    """
    sheet, axes = titled_panels(len(names), 5, 1.35, 1.65, title + not_shown(measurement, names))
    sheet.colorbar(ScalarMappable(Normalize(0, top), MAGNITUDE), ax=axes, shrink=0.7, label=bar)
    return sheet, axes


def panels(sheet: Figure, count: int, columns: int) -> list[Any]:
    """The axes of ``count`` panels, row by row; the rest of the last row stays empty."""
    axes: list[Any] = list(sheet.subplots(-(-count // columns), columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return axes[:count]


def panel_title(axes: Any, text: str) -> None:
    """Sets the title of a panel, in lines that fit above it."""
    wide = axes.get_subplotspec().get_position(axes.figure).width * axes.figure.get_figwidth()
    axes.set_title(fitted(text, wide), fontsize=TEXT_SIZE)


def show_image(axes: Any, image: Picture, title: str = "", **more: Any) -> Any:
    """Shows an image without axes; returns what a colour bar needs."""
    shown = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if shown.ndim == 2 and "cmap" not in more:
        more |= {"cmap": "gray", "vmin": 0, "vmax": 255 if shown.dtype == np.uint8 else 1}
    drawn = axes.imshow(shown, interpolation="nearest", **more)
    axes.set_axis_off()
    if title:
        panel_title(axes, title)
    return drawn


def tiled(images: Picture) -> Picture:
    """Images (rows, columns, H, W, C) as one picture, separated by white lines of one pixel."""
    padded = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = padded.shape
    tiled: Picture = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return tiled


def image_grid(
    images: Picture, title: str, rows: Sequence[str] = (), columns: Sequence[str] = (), below: str = "", left: str = ""
) -> tuple[Figure, Any]:
    """Images (rows, columns, H, W, C) in a grid under a title; the figure and its axes.

    Args:
        images: of all rows and columns.
        title: what the grid shows.
        rows, columns: a name for each row and column; "" = without a name.
        below, left: what varies over the columns and over the rows.
    """
    height, width = images.shape[2] + 1, images.shape[3] + 1
    names = [fitted(name, 1.3) for name in rows]
    beside = max(map(text_width, names), default=0.0) + 0.1
    beside += 1.5 * LINE * bool(left)
    wide = min(max(images.shape[1] * TILE + beside, NARROW), rcParams["figure.figsize"][0])
    side = min((wide - beside) / images.shape[1], TILE)
    marked = {k: plain(name) for k, name in enumerate(columns) if name}
    widest = max(map(text_width, marked.values()), default=0.0)
    turned = widest > side and len(marked) == images.shape[1] > 1
    below = fitted(below, wide - 2 * beside)
    under = (widest + 0.1 if turned else LINE * bool(marked)) + LINE * (below.count("\n") + 1) * bool(below) + 0.1
    sheet = titled_sheet(wide, images.shape[0] * side * height / width + under, title)
    sheet.set_layout_engine("none")  # all sizes are known
    high = sheet.get_figheight()
    top = high - LINE * (sheet.get_suptitle().count("\n") + 1) - TITLE_GAP
    axes = sheet.add_axes((beside / wide, under / high, 1 - (beside + 0.05) / wide, (top - under) / high))
    show_image(axes, tiled(images))
    axes.set_axis_on()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    places = [(k + 0.5) * width for k in marked]
    for k, tick in zip(marked, axes.set_xticks(places, marked.values(), rotation=90 * turned), strict=True):
        if not turned and text_width(marked[k]) > side and images.shape[1] > 1:  # the end of a strip
            tick.label1.set_horizontalalignment("left" if k == 0 else "right")
    axes.set_yticks([(k + 0.5) * height for k in range(len(names))], names)
    axes.set_xlabel(below)
    axes.set_ylabel(plain(left))
    return sheet, axes


def heat_map(
    numbers: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str,
    down: str, across: str, bar: str, least: float = 0.0,
) -> Figure:  # fmt: skip
    """A matrix of numbers from ``least`` to 1, with the numbers in the cells of a small one.

    Args:
        numbers: of shape (rows, columns); NaN = undefined.
        rows, columns: their names.
        title: what the matrix shows.
        down, across: what the rows and the columns are.
        bar: what the colours are.
        least: number of the darkest colour, such as the chance level.
    """
    title += " (empty: undefined)" * bool(np.isnan(numbers).any())
    named = [[fitted(name, 1.4) for name in names] for names in (rows, columns)]
    beside, below = (max(map(text_width, names), default=0.0) for names in named)
    cell = min(0.42, (rcParams["figure.figsize"][0] - beside - 1.2) / len(columns))
    high = min(max(cell, 0.1) if cell < 0.25 else 0.25, (TALLEST - below) / len(rows))
    sheet = titled_sheet(
        max(cell * len(columns) + beside + 1.2, NARROW), max(high * len(rows), 1.1) + below + 0.4, title
    )
    axes = sheet.subplots()
    shown = axes.imshow(numbers, cmap="viridis", vmin=least, vmax=1, aspect="auto", interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    for names, set_ticks, turned in ((named[0], axes.set_yticks, 0), (named[1], axes.set_xticks, 90)):
        shown_names = names if len(names) <= MOST_NAMED else []
        set_ticks(range(len(shown_names)), shown_names, rotation=turned)
    axes.set_ylabel(plain(down))
    axes.set_xlabel(plain(across))
    written = numbers.size <= MOST_NUMBERS and cell >= 0.28
    for (j, k), number in np.ndenumerate(numbers) if written else ():
        text = "" if math.isnan(number) else f"{number:.2f}"
        colour = "black" if number > least + 0.6 * (1 - least) else "white"
        axes.text(k, j, text, ha="center", va="center", fontsize=TEXT_SIZE - 1.5, color=colour)
    sheet.colorbar(
        shown,
        ax=axes,
        label=fitted(bar, max(0.8 * high * len(rows), 0.9)),
        shrink=min(1.0, 2.5 / (high * len(rows))),
        aspect=15,
    )
    return sheet


def effect_matrix(
    measurement: Measurement, name: str, title: str, bar: str, *, down: str, across: str, least: float = 0.0,
    diagonal: str = "",
) -> Figures:  # fmt: skip
    """The values ``name`` at ``judged=LABEL`` as the figure ``effects``: characteristics down, judged labels across.

    Args:
        measurement: the measurement; one without such values has no figure.
        name: name of the value.
        title, bar, down, across, least: as in :func:`heat_map`.
        diagonal: name of the value on the diagonal, where ``name`` has none.
    """
    found = {
        (v.characteristic, str(v.at.get("judged", v.characteristic))): v.estimate.value
        for v in measurement.values
        if v.characteristic and (v.name, set(v.at)) in ((name, {"judged"}), (diagonal, set()))
    }
    rows = list(dict.fromkeys(i for i, _ in found))
    judged = dict.fromkeys(j for _, j in found)
    columns = [*(i for i in rows if i in judged), *(j for j in judged if j not in rows)]
    if any(v.name == name and set(v.at) == {"judged"} for v in measurement.values):
        numbers = np.array([[found.get((i, j), math.nan) for j in columns] for i in rows])
        own = np.array([[i == j for j in columns] for i in rows])
        means = [(np.nanmean(numbers[place]), where) for place, where in ((own, "on"), (~own, "off"))
                 if not np.isnan(numbers[place]).all()]  # fmt: skip
        title += ": " + ", ".join(f"mean {figure(float(mean), 2)} {where} the diagonal" for mean, where in means)
        yield ("effects",), heat_map(numbers, rows, columns, title, down, across, bar, least)


def score_text(measurement: Measurement, name: str, characteristic: str | None, *, chance: bool = False) -> str:
    """A characteristic's value with its name and interval; "" if it is undefined. None = the mean."""
    for value in measurement.values:
        if value.name == name and value.characteristic == characteristic and not value.at and value.estimate.defined:
            e = value.estimate
            digits = 2 if 0.1 <= abs(e.value) <= 0.99 or e.value == 0 else 3
            text = f"{NAMES.get(name, name.replace('_', ' '))} {with_interval(e, digits)}"
            return text + (f", chance {figure(value.chance, 2)}" if chance and value.chance is not None else "")
    return ""


def finding(measurement: Measurement, name: str, shown: Sequence[str]) -> str:
    """The value that a figure is about: that of the only label shown, else the mean; "" if it is undefined."""
    label = shown[0] if len(shown) == 1 else None
    text = score_text(measurement, name, label, chance=True)
    if label is None:
        return f"mean {text}" if text else ""
    return f"{label}: {text or NAMES.get(name, name.replace('_', ' ')) + ' is undefined'}"


def not_shown(measurement: Measurement, shown: Collection[str]) -> str:
    """The labels of the measurement without a picture, in words; "" if every label has one."""
    names = dict.fromkeys(v.characteristic for v in measurement.values if v.characteristic)
    missing = [name for name in names if name not in shown]
    if not missing:
        return ""
    return f". Not shown: {listed(missing, most=6)} (no picture in the run)"


def image_names(measurement: Measurement) -> list[str]:
    """The names of the single images of a figure: their ids; none if the run's images have none."""
    return [f"image {k}" for k in measurement.names.get("ids", ())]
