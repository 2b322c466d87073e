"""The page of a comparison: verdicts, differences, linked traversals of the same images, and where the models differ.

It is one HTML file with the style and the script of a run's report (:mod:`ccvae_eval.report.page`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ccvae_eval.comparison.comparable import name_of
from ccvae_eval.comparison.compare import IMAGES, ComparedValue, Comparison
from ccvae_eval.comparison.summary import MOST_PAIRS, families, interval, listed, notes, p_value, short, verdicts
from ccvae_eval.core import sheets
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.types import Ids
from ccvae_eval.evaluation.run import Address, Run, numbers_at
from ccvae_eval.rendering.text import plain, under
from ccvae_eval.report.checks import findings
from ccvae_eval.report.page import answer, pictures
from ccvae_eval.report.page.pictures import MOST_LABELS, MOVED, Picture, Sheet, sheet
from ccvae_eval.report.page.render import document
from ccvae_eval.report.paper import methods

COMPARISON_PAGE = "comparison.html"
MIDDLE, REACH = 50.0, 44.0
"""Position of 0 on the line of a difference, and the length of either half, in percent of its width."""
MOST_PIXELS = 6_000_000
"""Pixels of all traversals, and of all single images, of one page: it stays below 3 MB."""
SIDES = ("", "first", "second")


@dataclass(frozen=True, slots=True)
class Row:
    """A compared value as a row of a table: its cells as text, and its difference on a line around 0.

    The right half of the line is better for the first model (for a value without a direction: higher).

    Args:
        metric, value, characteristic: parts of the address; "" for a mean.
        models: both models.
        cells: value of each model, difference, interval, adjusted p, smallest detectable difference.
        verdict, note: in words.
        side: "first" or "second" if that model is better or higher; "" without evidence.
        at, low, high: positions of the difference and its interval in percent of the width; None if undefined.
        missed_from, missed_to: positions of the differences that the test would probably miss.
        ends: the differences at the left and the right end.
    """

    metric: str
    value: str
    characteristic: str
    models: tuple[str, str]
    cells: tuple[str, ...]
    verdict: str
    note: str
    side: str
    at: float | None = None
    low: float | None = None
    high: float | None = None
    missed_from: float | None = None
    missed_to: float | None = None
    ends: tuple[str, str] = ("", "")

    @property
    def address(self) -> str:
        """The value without its characteristic."""
        return f"{self.metric}.{self.value}"


@dataclass(frozen=True, slots=True)
class SeedPlot:
    """One value of every training seed: for each method its dots and their mean, in percent of the width."""

    name: str
    ends: tuple[str, str]
    rows: tuple[tuple[str, tuple[float, ...], float, str], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """Differences of two models: rows are characteristics, columns are values; None where a value is not compared."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Row | None, ...]], ...]


def page_html(found: Comparison, runs: Mapping[str, Sequence[Run]], command: str = "") -> str:
    """The page of a comparison as one HTML document.

    Args:
        found: the comparison.
        runs: the runs of each model: one, or one for each training seed. Pictures are those of the first run.
        command: the command that made the comparison.
    """
    shown = {label: own[0] for label, own in runs.items()}
    every = [run for own in runs.values() for run in own]
    labels, moved = _traversals(shown)
    ids, singles = _single_images(shown)
    columns = _columns(found, shown, ids)
    rows = [_row(v) for v in sorted(found.values, key=lambda v: not v.compared)]
    data = {
        "models": [plain(label) for label in shown],
        "moved": [int(i) for i in moved],
        "strips": [],
        "ids": [int(i) for i in ids],
        "classes": pictures.image_classes(_only(every[0], ids)),
        "columns": columns,
    }
    return document(
        "comparison.html", title=_title(found, every[0]), data=data,
        style="comparison.css", scripts=("script.js", "comparison.js"),
        meta=answer.meta(every[0]), models=_legend(found, shown), verdicts=verdicts(found), notes=notes(found),
        means=[row for row in rows if not row.characteristic], singles=[row for row in rows if row.characteristic],
        grids=_grids(rows), pairs=len(found.models) > 2, linked={(c["value"], c["of"]) for c in columns if c["of"]},
        seeds=_seed_plots(found, runs), by_seed=found.unit != IMAGES, labels=labels, ids=moved, gallery=singles,
        no_traversals=_missing(shown, "traversals"), no_images=_missing(shown, "single images"),
        checks=[(_called(label, run, own), findings(run)) for label, own in runs.items() for run in own],
        runs=[(_called(label, run, own), run, answer.facts(run)) for label, own in runs.items() for run in own],
        methods=methods(runs, compared=found.unit, family=families(found)), command=command,
    )  # fmt: skip


def write_page(found: Comparison, runs: Mapping[str, Sequence[Run]], folder: Path, command: str = "") -> Path:
    """Writes the page of a comparison into a folder, as comparison.html."""
    atomic_write(folder / COMPARISON_PAGE, page_html(found, runs, command).encode())
    return folder / COMPARISON_PAGE


def _title(found: Comparison, run: Run) -> str:
    names = [label if found.unit != IMAGES else f"{Path(what).name} ({label})" for label, what in found.models.items()]
    named = listed(names) if len(names) <= MOST_PAIRS else f"{len(names)} models"
    return f"{named} on {run.header.data.get('name') or 'data in memory'}"


def _legend(found: Comparison, shown: Mapping[str, Run]) -> list[tuple[str, str, str]]:
    """For each model its label, what it is, and its kind of model."""
    return [(label, what, str(shown[label].header.checkpoint.get("model") or "")) for label, what in
            found.models.items()]  # fmt: skip


def _called(label: str, run: Run, own: Sequence[Run]) -> str:
    return f"{label}: {name_of(run)}" if len(own) > 1 or name_of(run) != label else label


# --- differences ------------------------------------------------------------------------------------------------


def _row(v: ComparedValue) -> Row:
    d, towards = v.difference, -1.0 if v.higher_is_better is False else 1.0
    numbers = (short(v.first), short(v.second), short(d.value, "+"), interval(d), p_value(v.adjusted_p),
               short(v.smallest_detectable, "-"))  # fmt: skip
    winner = v.better or v.higher
    side = "" if winner is None else SIDES[1 + v.models.index(winner)]
    address, characteristic = v.address, v.address.characteristic or ""
    row = Row(address.metric, address.name, characteristic, v.models, numbers, "not compared", v.note, side)
    if math.isnan(d.value):
        return row
    verdict = v.verdict.partition(" (smallest")[0]  # the table has a column for it
    smallest = 0.0 if math.isnan(v.smallest_detectable) else v.smallest_detectable
    scale = max(abs(d.value), *(abs(x) for x in (d.low, d.high) if not math.isnan(x)), smallest)

    def place(number: float) -> float | None:
        share = 0.0 if scale == 0 else towards * number / scale
        return None if math.isnan(number) else round(MIDDLE + REACH * share, 2)

    low, high = sorted((d.low, d.high), key=lambda x: towards * x)
    ends = (short(-towards * scale, "+"), short(towards * scale, "+")) if scale else ("", "")
    missed = (place(-smallest * towards), place(smallest * towards)) if smallest else (None, None)
    return replace(row, verdict=verdict, at=place(d.value), low=place(low), high=place(high), missed_from=missed[0],
                   missed_to=missed[1], ends=ends)  # fmt: skip


def _grids(rows: Sequence[Row]) -> list[Grid]:
    """The single characteristics of each pair of models as a table; empty for many models."""
    singles = [row for row in rows if row.characteristic and row.at is not None]
    pairs = list(dict.fromkeys(row.models for row in singles))
    grids = []
    for pair in pairs if len(pairs) <= MOST_PAIRS else ():
        own = {(row.characteristic, row.address): row for row in singles if row.models == pair}
        values, names = (tuple(dict.fromkeys(key[k] for key in own)) for k in (1, 0))
        cells = tuple((name, tuple(own.get((name, value)) for value in values)) for name in names)
        grids.append(Grid(" − ".join(pair), values, cells))
    return grids


def _seed_plots(found: Comparison, runs: Mapping[str, Sequence[Run]]) -> list[SeedPlot]:
    """The means of a comparison of training seeds, with a dot for each seed."""
    if found.unit == IMAGES:
        return []
    every = [run for own in runs.values() for run in own]
    addresses = dict.fromkeys(v.address for v in found.means if v.compared)
    return [_seed_plot(address, runs, numbers_at(every, address)) for address in addresses]


def _seed_plot(address: Address, runs: Mapping[str, Sequence[Run]], numbers: Sequence[float]) -> SeedPlot:
    low, high = min(numbers), max(numbers)
    column = iter(numbers)

    def place(number: float) -> float:
        return round(MIDDLE + (0.0 if high == low else REACH * (2 * (number - low) / (high - low) - 1)), 2)

    rows = []
    for label, own in runs.items():
        values = list(islice(column, len(own)))
        mean = float(np.mean(values))
        rows.append((label, tuple(map(place, values)), place(mean), short(mean)))
    return SeedPlot(str(address), (short(low), short(high)), tuple(rows))


# --- pictures ---------------------------------------------------------------------------------------------------


def _strips(run: Run) -> dict[str, Picture]:
    return {
        name: strip
        for m in run
        if m.metric == "locality"
        for name, strip in under(m.pictures, "strip").items()
        if sheets.fits(strip)
    }


def _traversals(shown: Mapping[str, Run]) -> tuple[list[tuple[str, list[Sheet]]], Ids]:
    """For each label the traversals of every model on the same images, and the ids of these images.

    A label is left out unless every model has a traversal of it with the same positions and size.
    """
    strips = {label: _strips(run) for label, run in shown.items()}
    pictured = {
        label: run.ids.get("locality", np.empty(0, np.int64))[: min(map(len, strips[label].values()), default=0)]
        for label, run in shown.items()
    }
    ids = reduce(np.intersect1d, pictured.values())
    first = next(iter(strips.values()))
    names = [
        name for name, strip in first.items()
        if all(name in own and own[name].shape[1:] == strip.shape[1:] for own in strips.values())
    ][:MOST_LABELS]  # fmt: skip
    if not names or not len(ids):
        return [], np.empty(0, np.int64)
    each = len(shown) * sum(math.prod(first[name].shape[1:-1]) for name in names)
    ids = ids[: max(1, min(MOVED, MOST_PIXELS // each))]
    return [
        (name, [
            sheet(name, strips[label][name][np.searchsorted(pictured[label], ids)],
                  f"traversal of {name} by {label}: {len(ids)} images in rows, positions in columns")
            for label in shown
        ])
        for name in names
    ], ids  # fmt: skip


def _gallery(run: Run) -> dict[str, Picture]:
    """The single images of a run that a page can show; empty without their originals."""
    ids, image = run.gallery.get("ids"), run.gallery.get("image")
    if ids is None or image is None or not sheets.fits(image):
        return {}
    return {
        name: array
        for name, array in run.gallery.items()
        if array.shape[:1] == ids.shape and (array.ndim == 1 or array.shape == image.shape)
    }


def _only(run: Run, ids: Ids) -> Run:
    """The run with only these images in its gallery."""
    gallery = _gallery(run)
    rows = np.flatnonzero(np.isin(gallery.get("ids", ids), ids))
    return replace(run, gallery={name: array[rows] for name, array in gallery.items()})


def _single_images(shown: Mapping[str, Run]) -> tuple[Ids, list[tuple[Sheet, int | None]]]:
    """The ids of the single images that every run pictures; their sheets, each with the number of its model.

    The first sheet has the originals, which belong to no model.
    """
    galleries = [_gallery(run) for run in shown.values()]
    ids = reduce(np.intersect1d, [np.asarray(gallery.get("ids", ()), np.int64) for gallery in galleries])
    if not len(ids):
        return ids, []
    versions = [name for name in galleries[0] if name == "reconstruction" or name.startswith("do/")]
    versions = [name for name in versions if all(name in gallery for gallery in galleries)][: 1 + MOST_LABELS]
    each = math.prod(galleries[0]["image"].shape[1:-1]) * (1 + len(shown) * len(versions))
    count = max(1, min(len(ids), MOST_PIXELS // each))
    ids = ids[np.arange(count) * len(ids) // count]
    chosen = [_only(run, ids).gallery for run in shown.values()]
    found: list[tuple[Sheet, int | None]] = [(sheet("original", chosen[0]["image"], "the single images"), None)]
    for name in versions:
        title = name if name == "reconstruction" else f"do({name.removeprefix('do/')})"
        for k, label in enumerate(shown):
            found.append((sheet(title, chosen[k][name], f"{title} of the single images by {label}"), k))
    return ids, found


def _columns(found: Comparison, shown: Mapping[str, Run], ids: Ids) -> list[dict[str, Any]]:
    """Per-image values that every run has: the numbers of each model, and their largest difference.

    Values with evidence of a difference come first, then the other headline values.
    """
    if not len(ids):
        return []
    tables = [{(c["value"], c["of"]): c for c in pictures.image_numbers(_only(run, ids))} for run in shown.values()]
    plain_values = {plain(f"{m.metric}.{v.name}") for run in shown.values() for m in run for v in m.values if not v.at}
    differing = {
        (f"{v.address.metric}.{v.address.name}", v.address.characteristic or "") for v in found.values if v.higher
    }
    columns = []
    for key, column in tables[0].items():
        if column["value"] not in plain_values or not all(key in table for table in tables):
            continue
        each = [table[key]["numbers"] for table in tables]
        spread = [None if None in own else float(f"{max(own) - min(own):.3g}") for own in zip(*each, strict=True)]
        if any(spread):
            columns.append({**column, "better": False, "each": each, "numbers": spread})
    return sorted(columns, key=lambda c: ((c["value"], c["of"]) not in differing, not c["headline"]))


def _missing(shown: Mapping[str, Run], what: str) -> str:
    """A sentence that says why there are no traversals or single images."""
    stored = {label: _strips(run) if what == "traversals" else _gallery(run) for label, run in shown.items()}
    without = [label for label, pictured in stored.items() if not pictured]
    if without:
        return f"No {what} are shown: none are stored for {listed(without)} (pictures.npz beside run.json)."
    return f"No {what} are shown: the runs have stored pictures of different images or labels."
