"""The live page: images of a run, their codes, and the program of the decoder, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.checkpoint import Opened
from ccvae_eval.core import sheets
from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import InputError, UndefinedError, UnsupportedError, UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.types import Ids, Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.memory import as_data_set
from ccvae_eval.data.spec import data_for, open_data
from ccvae_eval.evaluation.interventions import Do
from ccvae_eval.evaluation.pictures import GALLERY_IMAGES, IMAGE_DIMENSIONS, as_bytes, chunk_of
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.model.checks import require_shape
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.model.interface import Intervenes, Label, LabelSchema, supports
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.text import plain
from ccvae_eval.report.live.program import packed, program_of
from ccvae_eval.report.page.pictures import Sheet, data_address
from ccvae_eval.report.page.render import document, run_title

LIVE = "live.html"
LARGEST_PAGE = 8_000_000
"""Bytes of the largest page."""
DEVIATIONS = 3.0
"""Standard deviations of the codes to each side of their mean that a slider covers."""
STEPS = 200
"""Steps of a slider."""
QUALITY = 90

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A latent dimension and the range of its slider."""

    index: int
    low: float
    high: float
    step: float


@dataclass(frozen=True, slots=True)
class Group:
    """The latent dimensions of a label, or those of style (name "").

    Args:
        name: the label.
        dimensions: its latent dimensions; empty for a model that intervenes by itself.
        label: index among the labels that can be set to a class; None if this one cannot.
        classes: names of the classes that it can be set to.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    label: int | None = None
    classes: tuple[str, ...] = ()


def write_live(run: Run, folder: Path, opened: Opened, data: str | None = None, notice: Notice | None = None) -> Path:
    """Writes the live page of a run into its folder, as live.html.

    Args:
        run: the run.
        folder: its folder.
        opened: the checkpoint that was evaluated.
        data: spec of the run's data; needed only if their recorded spec has a path.
        notice: called with messages for the user.

    Raises:
        InputError: another checkpoint or other data than those of the run, or a run without images.
        UsageError: a decoder that the page cannot run, or a page of more than 8 MB.
    """
    recorded = run.header.checkpoint.get("sha256")
    if recorded is not None and recorded != opened.bundle.sha256:
        raise InputError(
            "the checkpoint is not the one of the run", where=str(opened.bundle.path),
            why=f"the run is of {run.header.checkpoint.get('path')}, sha256 {str(recorded)[:12]}...",
        )  # fmt: skip
    html = live_html(run, opened.model, data, notice).encode()
    if len(html) > LARGEST_PAGE:
        raise UsageError(
            f"the live page would have {len(html) / 1e6:.1f} MB, more than {LARGEST_PAGE / 1e6:.0f} MB",
            where=str(opened.bundle.path), why="the decoder has too many weights",
        )  # fmt: skip
    atomic_write(folder / LIVE, html)
    return folder / LIVE


@exact_arithmetic()
def live_html(run: Run, model: Any, data: str | None = None, notice: Notice | None = None) -> str:
    """The live page as one HTML document; for the arguments and errors see :func:`write_live`."""
    subject, ids, origin = _images_of(run, model, data)
    if notice is not None and origin:
        notice(origin)
    if len(subject.data.input_shape) != IMAGE_DIMENSIONS:
        raise UsageError("the live page needs images, the data are points", where=subject.data.spec)
    rows = np.searchsorted(subject.ids, ids)
    images = np.concatenate([as_bytes(chunk_of(subject, part).images).numpy() for part in _parts(rows)])
    if not sheets.fits(images):
        raise UsageError(f"the live page needs grey or colour images, got shape {subject.data.input_shape}")
    program = program_of(subject.model, subject.codes[torch.from_numpy(rows)])
    settable = {
        label.name: found for label in subject.schema if (found := _class_codes(subject, rows, label)) is not None
    }
    whole = supports(subject.model, Intervenes)
    labels = [_label(subject, rows, name, codes, whole) for name, codes in settable.items()]
    groups = _groups(subject, _ranges(subject, rows, {} if whole else settable), tuple(settable), whole)
    shown = ids if not origin else run.gallery["ids"]
    page: dict[str, Plain] = {
        "nodes": [node.as_plain() for node in program.nodes],
        "shape": list(subject.data.input_shape),
        "dim": subject.layout.dim,
        "ids": [int(i) for i in shown],
        "codes": packed(subject.codes[torch.from_numpy(rows)].numpy()),
        "labels": labels,
        "one_at_a_time": whole,
    }
    return document(
        "live.html", title=f"Live decoder: {run_title(run)}", data=page, style="live.css", scripts=("live.js",),
        originals=_originals(images), groups=groups, meta=_meta(subject), reading=_reading(subject, bool(settable)),
        about=[
            "The decoder runs in this page; nothing is loaded or sent. Its weights have 16 bits: on these images, no "
            f"pixel differs from the decoder's by more than {255 * program.deviation:.2g} of 255 levels.",
            origin or "The images, their codes and their interventions are those of the report.",
        ],
        facts=_facts(run, program.nodes),
    )  # fmt: skip


def _images_of(run: Run, model: Any, asked: str | None) -> tuple[Subject, Ids, str]:
    """The subject, the ids of the images to show, and a sentence if they are the pictures stored in the run.

    These stand in where the data of the run are not available.
    """
    recorded = run.header.data
    try:
        data = open_data(data_for(asked, str(recorded["name"])))
        missing = "" if data.digest == recorded["digest"] else f"{data.spec} is not the data of the run"
    except (InputError, UsageError):
        if asked is not None:
            raise
        missing = _not_found(str(recorded["name"]))
    if missing and asked is not None:
        raise InputError(missing, where="--data", why=f"the run is of {recorded['name']}, digest {recorded['digest']}")
    stored = np.asarray(run.gallery.get("ids", ()), np.int64)
    origin = ""
    if missing:
        if not len(stored):
            hint = "Name the data of the run with --data."
            raise InputError("the run contains no pictures, and its data are not available", why=missing, hint=hint)
        origin = (
            f"The images are the pictures stored in the run, with a small loss: {missing}. The ranges of the "
            "sliders are from these images alone."
        )
        data, used = _stored_images(run), np.arange(len(stored))
    else:
        used = np.unique(np.concatenate([stored, *run.ids.values()]))
    require_shape(model, data.input_shape, data.spec)
    subject = prepare(model, data, used, seed=run.header.seed)
    if subject.unrestricted is not None:  # all images of the run, not only the half that metrics evaluate
        subject = replace(subject.unrestricted, layout=subject.layout, assigned=True)
    if origin or not len(stored):
        stored = used[np.arange(min(GALLERY_IMAGES, len(used))) * len(used) // min(GALLERY_IMAGES, len(used))]
    return subject, stored, origin


def _not_found(name: str) -> str:
    """Why the data set of a run, given by its recorded spec, cannot be opened."""
    kind, comma, options = name.partition(",")
    if kind not in registry.data_sets:
        return f"the data set of the run, {name}, is not installed"
    return (
        f"the run does not record the path of its data set, {kind}; give it with --data {kind}:PATH{comma}{options}, "
        "and the page shows the images themselves"
    )


def _stored_images(run: Run) -> DataSet:
    """The pictures of the run as a data set."""
    schema = LabelSchema.from_plain(run.header.data["labels"])
    images = run.gallery["image"]
    labels = np.full((len(images), len(schema)), np.nan, np.float32)
    for column, name in enumerate(schema.names):
        if f"label/{name}" in run.gallery:
            values = np.asarray(run.gallery[f"label/{name}"], np.float32)
            missing = (values < 0) & (schema[name].kind != "continuous")
            labels[:, column] = np.where(missing, np.nan, values)
    return as_data_set((images, labels, schema))


def _parts(rows: Ids) -> list[Ids]:
    """Rows in fixed batches, as a model's own interventions need them."""
    return [rows[first : first + FIXED_BATCH] for first in range(0, len(rows), FIXED_BATCH)]


def _class_codes(subject: Subject, rows: Ids, label: Label) -> NDArray[np.float32] | None:
    """The codes of the images after do(label = class or level), for each of them, shape (n, K, D); None if undefined.

    The classes are fitted to the codes. With too few images, p(z_c|y) of the model takes their place.
    """
    if label.name not in subject.movable or not subject.cardinality(label.name):
        return None
    for source in ("codes", "prior"):
        try:
            found = [
                np.concatenate([Do(label.name, source=source, value=v).codes(subject, chunk_of(subject, part)).numpy()
                                for part in _parts(rows)])
                for v in subject.class_values(label.name, torch.arange(subject.cardinality(label.name))).tolist()
            ]  # fmt: skip
        except (UndefinedError, UnsupportedError):
            continue
        return np.stack(found, 1).astype(np.float32)
    return None


def _label(subject: Subject, rows: Ids, name: str, codes: NDArray[np.float32], whole: bool) -> dict[str, Plain]:
    columns = list(range(subject.layout.dim) if whole else subject.layout[name])
    now = subject.classes(name)[torch.from_numpy(rows)].tolist()
    classes = [plain(subject.class_name(name, k)) if k >= 0 else "" for k in now]
    return {"columns": columns, "now": classes, "codes": packed(codes[..., columns])}


def _ranges(subject: Subject, rows: Ids, settable: dict[str, NDArray[np.float32]]) -> tuple[Dimension, ...]:
    """The range of each slider: three standard deviations around the mean code, and all codes that the page shows."""
    codes = subject.codes.numpy().astype(np.float64)
    mean, spread = codes.mean(0), DEVIATIONS * codes.std(0)
    shown = np.concatenate([codes[rows], *(found.reshape(-1, codes.shape[1]) for found in settable.values())])
    low, high = np.minimum(mean - spread, shown.min(0)), np.maximum(mean + spread, shown.max(0))
    flat = high - low < 1e-6
    step = np.where(flat, 2.0, high - low) / STEPS
    ends = np.where(flat, low - 1, low - step), np.where(flat, high + 1, high + step)
    return tuple(Dimension(d, *(float(f"{number[d]:.5g}") for number in (*ends, step))) for d in range(codes.shape[1]))


def _groups(subject: Subject, ranges: tuple[Dimension, ...], settable: tuple[str, ...], whole: bool) -> list[Group]:
    found = []
    for name in dict.fromkeys([*settable, *subject.layout.characteristics]):
        dimensions = () if whole else tuple(ranges[d] for d in subject.layout[name])
        known = range(subject.cardinality(name)) if name in settable else ()
        classes = tuple(subject.class_name(name, k) for k in known)
        found.append(Group(name, dimensions, settable.index(name) if classes else None, classes))
    style = range(subject.layout.dim) if whole else subject.layout.style
    return [*found, Group("", tuple(ranges[d] for d in style))] if len(style) else found


def _originals(images: NDArray[np.uint8]) -> Sheet:
    rows, columns = sheets.layout(images.shape)
    source = data_address(sheets.encoded(images, QUALITY), "image/webp")
    return Sheet("originals", source, rows, columns, images.shape[2], images.shape[1], "original images")


def _meta(subject: Subject) -> str:
    layout, own = subject.layout, len(subject.layout.characteristic_columns)
    labels = f"{len(layout.characteristics)} label{'s' * (len(layout.characteristics) != 1)}"
    assigned = " (assigned on half of the images)" if subject.assigned else ""
    return f"{layout.dim} latent dimensions: {own} for {labels}{assigned}, {len(layout.style)} for style"


def _reading(subject: Subject, settable: bool) -> str:
    found = "A slider sets one latent dimension; its range is three standard deviations of the codes to each side."
    if not settable:
        return found
    if supports(subject.model, Intervenes):
        return f"{found} A class sets the whole code as the model's own intervention do(label = class) does."
    return f"{found} A class sets the latent dimensions of its label as do(label = class) does, at the code's rank."


def _facts(run: Run, nodes: Any) -> list[tuple[str, str]]:
    header = run.header
    weights = sum(node.constant.size for node in nodes if node.op == "constant")
    return [
        ("checkpoint", str(header.checkpoint.get("path") or "model in memory")),
        ("sha256", str(header.checkpoint.get("sha256") or "unknown")),
        ("data", str(header.data.get("name") or "data in memory")),
        ("weights of the decoder", f"{weights:,}"),
        ("written by", f"{header.tool.get('name')} {header.tool.get('version')}"),
    ]
