"""The pictures of a page: sheets of single images, outlines of regions, figures, and the numbers of each image."""

from __future__ import annotations

import io
import logging
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core import sheets
from ccvae_eval.core.results import Measurement, Value, ValueSpec
from ccvae_eval.evaluation.run import Run
from ccvae_eval.rendering.text import at_text, plain, under
from ccvae_eval.report.checks import class_names
from ccvae_eval.report.page.answer import specs_of

log = logging.getLogger(__name__)

Picture = NDArray[np.generic]

MOVED = 6
"""Images that the slider moves."""
QUALITY = 74
MOST_LABELS = 16
"""Labels whose pictures one page shows; the folder of figures has all."""
LARGEST_SIDE = 96
"""Pixels along a side of a single picture; larger ones are reduced."""
MOST_FIGURES = 2
"""Figures of one metric."""
SHOWN_ELSEWHERE = ("strip/", "grid/")
"""Pictures that the page shows itself, so that it draws no figure of them; matrices of effects, too."""
LARGEST_SVG = 150_000
FIGURE_DPI = 110
TOLERANCE = 1e-6
MOST_COLUMNS = 900
"""Columns of per-image numbers."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Pictures of one size in one image, in rows and columns.

    Args:
        name: name of what it shows.
        source: the image as a data address.
        rows, columns: of pictures.
        width, height: of one picture in pixels.
        alt: what the sheet shows.
        outline: the region's outline as an SVG path in pixels of one picture; "" without a region.
        ids: the images, if each has a row of its own.
        stations: names of the columns; without names, the columns are positions along a path.
    """

    name: str
    source: str
    rows: int
    columns: int
    width: int
    height: int
    alt: str
    outline: str = ""
    ids: tuple[int, ...] = ()
    stations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FigurePart:
    """A figure of a metric: its name, its title, and the image as a data address."""

    name: str
    title: str
    source: str
    is_svg: bool


def data_address(content: bytes, kind: str) -> str:
    """A file as a data address."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def sheet(name: str, pictures: Picture, alt: str, outline: str = "") -> Sheet:
    """Pictures of shape (..., H, W, C), uint8, as a sheet."""
    rows, columns = sheets.layout(pictures.shape)
    pictures = reduced(pictures).round().astype(np.uint8)
    source = data_address(sheets.encoded(pictures, QUALITY), "image/webp")
    return Sheet(plain(name), source, rows, columns, pictures.shape[-2], pictures.shape[-3], plain(alt), outline)


def reduced(pictures: Picture) -> NDArray[np.float64]:
    """Pictures of shape (..., H, W, C) with blocks of pixels averaged until no side exceeds 96 pixels."""
    *leading, height, width, channels = pictures.shape
    by = -(-max(height, width) // LARGEST_SIDE)
    cut = np.asarray(pictures, dtype=np.float64)[..., : height // by * by, : width // by * by, :]
    found: NDArray[np.float64] = cut.reshape(*leading, height // by, by, width // by, by, channels).mean((-4, -2))
    return found


def strips(run: Run) -> list[Sheet]:
    """For each characteristic its decodings: rows are images, columns are positions along its path, or classes."""
    locality = next((m for m in run if m.metric == "locality"), None)
    moved = {} if locality is None else _under(locality.pictures, "strip")
    classes = _under(run.gallery, "classes")
    return [
        _class_strip(run, name, classes[name]) if locality is None or name in classes
        else _path_strip(run, locality, name, moved[name][:MOVED])
        for name in islice(dict.fromkeys([*moved, *classes]), MOST_LABELS)
    ]  # fmt: skip


def _path_strip(run: Run, locality: Measurement, name: str, pictures: Picture) -> Sheet:
    kind = "interpolation" if locality.settings.get("path") == "interpolation" else "traversal"
    alt = f"{kind} of {name}: {len(pictures)} images in rows, {pictures.shape[1]} positions in columns"
    region = locality.pictures.get(f"mean/region/{name}")
    made = sheet(name, pictures, alt, "" if region is None else outline(region))
    return replace(made, ids=_ids(run.ids.get("locality", ())))


def _class_strip(run: Run, name: str, pictures: Picture) -> Sheet:
    stations = ("unchanged", *map(plain, class_names(run, name)))
    alt = f"{name} set to each class: {len(pictures)} images in rows; columns: {', '.join(stations)}"
    return replace(sheet(name, pictures, alt), ids=_ids(run.gallery.get("moved", ())), stations=stations)


def _ids(ids: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in islice(ids, MOVED))


def draws(run: Run) -> list[Sheet]:
    """For each characteristic samples from p(z|y): rows are images, columns are samples."""
    return [
        sheet(name, strip[:MOVED], f"samples of {name}: {len(strip[:MOVED])} images in rows, samples in columns")
        for m in run
        if m.metric == "diversity"
        for name, strip in islice(_under(m.pictures, "strip").items(), MOST_LABELS)
    ]


def two_label_sheets(run: Run) -> list[tuple[str, str, Sheet]]:
    """Two-dimensional traversals: the label that changes down, the one that changes across, and the sheet.

    The sheet has the images side by side, each with its positions in rows and columns.
    """
    names = [(str(down), str(across)) for down, across in run.gallery.get("pads", ())]
    found = {names[int(k)]: pictures for k, pictures in _under(run.gallery, "pad").items() if int(k) < len(names)}
    if not found:  # the run was made without single images
        grids = {
            key: grid[None] for m in run if m.metric == "locality" for key, grid in _under(m.pictures, "grid").items()
        }
        found = {(key.partition("|")[0], key.partition("|")[2]): grid for key, grid in grids.items()}
    return [
        (plain(down), plain(across), sheet(
            f"{down} and {across}", np.concatenate(list(pictures), axis=1),
            f"{len(pictures)} images, each with {down} changing down and {across} across",
        ))
        for (down, across), pictures in found.items()
    ]  # fmt: skip


def gallery_sheets(run: Run) -> list[Sheet]:
    """Sheets of the single images: the images, their reconstructions, and each label set to another class."""
    names = {"image": "original", "reconstruction": "reconstruction"}
    edited = [key for key in run.gallery if key.startswith("do/")]
    names |= {key: f"do({key.removeprefix('do/')})" for key in edited[:MOST_LABELS]}
    return [
        sheet(title, run.gallery[key], f"{title} of the single images")
        for key, title in names.items()
        if key in run.gallery and sheets.fits(run.gallery[key])
    ]


def outline(region: Picture) -> str:
    """The edges between pixels inside and outside a mean region (above half of its maximum), as an SVG path.

    >>> outline(np.array([[0.0, 1.0]]))
    'M1 0h1M1 1h1M1 0v1M2 0v1'
    """
    inside = reduced(region[..., None])[..., 0]
    if not inside.size or inside.max() <= 0:
        return ""
    mask = np.pad(inside > 0.5 * inside.max(), 1).astype(np.int8)
    across = [f"M{x - 1} {y}h1" for y, x in np.argwhere(np.diff(mask, axis=0) != 0)]
    down = [f"M{x} {y - 1}v1" for y, x in np.argwhere(np.diff(mask, axis=1) != 0)]
    return "".join([*across, *down])


def _under(pictures: Mapping[str, Picture], start: str) -> dict[str, Picture]:
    """The single pictures whose name begins with ``start/``, by the rest of their name."""
    return {name: found for name, found in under(pictures, start).items() if sheets.fits(found)}


def figures(measurement: Measurement) -> list[FigurePart]:
    """The first figures of a metric: as SVG if it has no images and is small, else as an image."""
    from ccvae_eval.report.figures import figures_of

    others = {key: p for key, p in measurement.pictures.items() if not key.startswith(SHOWN_ELSEWHERE)}
    drawn = (found for found in figures_of(replace(measurement, pictures=others)) if found[0] != ("effects",))
    try:
        return [_figure_part(measurement.metric, parts, sheet) for parts, sheet in islice(drawn, MOST_FIGURES)]
    except (KeyError, ValueError):  # pictures beyond the limit of pictures.npz are missing
        log.debug("figures of %s", measurement.metric, exc_info=True)
        return []


def _figure_part(metric: str, parts: tuple[str, ...], drawn: Any) -> FigurePart:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    name, title = plain("-".join((metric, *parts))), plain(drawn.get_suptitle() or " ".join(parts))
    canvas: Any = FigureCanvasAgg(drawn)
    if not any(axes.images for axes in drawn.axes):
        content = io.BytesIO()
        with rc_context({"svg.hashsalt": name}):
            drawn.savefig(content, format="svg", metadata={"Date": None})
        if len(content.getvalue()) <= LARGEST_SVG:
            return FigurePart(name, title, data_address(content.getvalue(), "image/svg+xml"), True)
    drawn.set_dpi(FIGURE_DPI)
    canvas.draw()
    content = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(content, "webp", quality=QUALITY)
    return FigurePart(name, title, data_address(content.getvalue(), "image/webp"), False)


def image_numbers(run: Run) -> list[dict[str, Any]]:
    """Columns of one number for each gallery image, from the evidence; None where an image has no number.

    A value whose terms leave its range, such as an AUC, is left out: its terms are shares of a weighted mean.

    Each column has ``value`` (metric.value, with its ``at``), ``of`` (the characteristic or ""), ``better``,
    ``headline`` and ``numbers``.
    """
    ids = run.gallery.get("ids")
    found: list[dict[str, Any]] = []
    if ids is None:
        return found
    for m in run:
        own = run.ids.get(m.metric)
        if own is None or not len(own):
            continue
        nearest = np.minimum(np.searchsorted(own, ids), len(own) - 1)
        known = own[nearest] == ids
        specs = specs_of(run, m.metric)
        columns = [(v, numbers) for v in m.values if (numbers := _numbers(m, v)) is not None]
        weighted = {v.name for v, numbers in columns if _leaves(numbers, specs.get(v.name, ValueSpec("")).range)}
        for v, numbers in columns:
            if v.name in weighted or len(numbers) != len(own) or len(found) >= MOST_COLUMNS:
                continue
            at = f" ({at_text(v.at)})" if v.at else ""
            column = np.where(known, numbers[nearest], np.nan)
            found.append({
                "value": plain(f"{m.metric}.{v.name}{at}"), "of": plain(v.characteristic or ""),
                "better": specs.get(v.name, ValueSpec("")).higher_is_better,
                "headline": v.name == m.headline and not v.at,
                "numbers": [None if not np.isfinite(x) else float(f"{x:.3g}") for x in column],
            })  # fmt: skip
    return found


def _leaves(numbers: NDArray[np.float64], ends: tuple[float | None, float | None]) -> bool:
    """True if a number lies outside the range of its value."""
    low, high = (-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1])
    return bool(((numbers < low - TOLERANCE) | (numbers > high + TOLERANCE)).any())


def _numbers(m: Measurement, value: Value) -> NDArray[np.float64] | None:
    """The number of each image behind a value: the ratio of its terms; None without evidence."""
    place = [] if value.characteristic is None else [value.characteristic]
    address = "/".join([value.name, *place, *(f"{key}={at}" for key, at in value.at.items())])
    terms = [m.evidence.get(f"{address}/{term}") for term in ("numerator", "denominator")]
    if terms[0] is None or terms[1] is None or terms[0].ndim != 1 or terms[0].shape != terms[1].shape:
        return None
    above, below = (np.asarray(term, dtype=np.float64) for term in terms)
    ratio: NDArray[np.float64] = np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
    return ratio


def image_classes(run: Run) -> Mapping[str, dict[str, list[str]]]:
    """For each label each gallery image's class or value (``now``), and that which it is set to (``then``)."""
    found: dict[str, dict[str, list[str]]] = {}
    for key, classes in run.gallery.items():
        side, _, name = key.partition("/")
        if side in ("label", "then") and name:
            column, names = np.asarray(classes), class_names(run, name)
            if np.issubdtype(column.dtype, np.floating):
                shown = [f"{value:.4g}" if np.isfinite(value) else "unknown" for value in column]
            else:
                shown = [plain(names[int(k)]) if 0 <= int(k) < len(names) else "unknown" for k in column]
            found.setdefault(plain(name), {})["now" if side == "label" else "then"] = shown
    return found
