"""Shares of a run: metrics measured on some blocks of images by one process, stored, and joined with the others.

A share is one .npz file of plain arrays. It holds the state of each metric's accumulator, the command that was given,
and the identity of the plan, so that only shares of one plan are joined. Every process encodes all images, because an
intervention may depend on the codes of all; it decodes those of its own blocks only. The run of all shares has the
bits of one process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, InputError, UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.typed import Limits, Range, load_json, plain, read
from ccvae_eval.core.types import Plain
from ccvae_eval.data.sets.npz import read_arrays
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.arrays import packed
from ccvae_eval.evaluation.metric import settings_of
from ccvae_eval.evaluation.pictures import MeanPictures
from ccvae_eval.evaluation.plan import Plan, PlannedMetric
from ccvae_eval.evaluation.result_table import ColumnStore
from ccvae_eval.evaluation.run import MeasurementRow, Run
from ccvae_eval.evaluation.runner import Ended, Progress, Working, computed, decodes
from ccvae_eval.evaluation.storage import MAX_EVIDENCE_BYTES

DESCRIPTION = "share.json"
"""Name of the array that holds the description, as the bytes of a JSON document."""
LIMITS = Limits(size=64 << 20, entries=4 << 20)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class MetricState:
    """State of one metric; its arrays are numbered in the order of these names.

    Args:
        seconds: time spent in the metric.
        failure: the measurement, if the metric has failed.
        columns: keys of the columns of each characteristic.
        means: number of images in the sum of each mean picture.
        kept: names of the single pictures.
    """

    seconds: Annotated[float, Range(least=0)] = 0.0
    failure: MeasurementRow | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    means: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """The description in a file of a share.

    Args:
        format: version of the format.
        index, count: the share is number ``index`` of ``count``.
        arguments: the command that measured it.
        plan: identity of the plan, see :func:`identity`.
        metrics: state of each metric, in the order of the plan.
    """

    format: Literal[1]
    index: Annotated[int, Range(least=1)]
    count: Annotated[int, Range(least=1)]
    arguments: tuple[str, ...]
    plan: Mapping[str, Plain]
    metrics: Mapping[str, MetricState]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True)
class Share:
    """A share that was read from a file."""

    file: Path
    description: Description
    arrays: Arrays


def identity(plan: Plan, model_settings: Sequence[str] = ()) -> dict[str, Plain]:
    """What the numbers of a plan depend on, by a name for the reader.

    Args:
        plan: the plan.
        model_settings: settings that were given for the model, which its checkpoint does not record.
    """
    header, subject = plan.header, plan.subject
    judge = header.judge
    found = {
        "version of ccvae-eval": header.tool.get("version"),
        "checkpoint": header.checkpoint.get("sha256"),
        "model": header.checkpoint.get("model"),
        "settings of the model": list(model_settings),
        "data": header.data.get("digest"),
        "labels of the data": header.data.get("labels"),
        "images": sha256(np.ascontiguousarray(subject.ids).tobytes()).hexdigest(),
        "label of --by": subject.by,
        "evaluated labels": None if subject.selected is None else list(subject.selected),
        "seed": header.seed,
        "judge": None if judge is None else judge.get("sha256", judge),
        "device": subject.device.type,
        "precision": header.environment.get("precision"),
    }
    for part in plan.parts:
        settings = {"version": part.metric.version, "images": len(part.subject), **settings_of(part.metric)}
        found[f"settings of {part.metric.name}"] = settings
    named: dict[str, Plain] = plain(found)
    return named


def require_mergeable(plan: Plan) -> None:
    """Refuses a metric that decodes images and whose state cannot be stored.

    Raises:
        UsageError: its accumulator is not an ``ImageAccumulator``.
    """
    for part in plan.parts:
        if part.active and decodes([part]) and not isinstance(part.accumulator, ImageAccumulator):
            raise UsageError(
                f"metric {part.metric.name!r} cannot be measured in shares", where="--blocks",
                why="its accumulator is not derived from ccvae_eval.evaluation.accumulator.ImageAccumulator",
            )  # fmt: skip


def write_share(plan: Plan, folder: Path, arguments: Sequence[str] = (), model_settings: Sequence[str] = ()) -> Path:
    """Writes the state of a plan after the pass over the images of its share.

    Args:
        plan: the plan.
        folder: the folder; all shares of a run may have the same one.
        arguments: the command.
        model_settings: as of :func:`identity`.

    Returns:
        The file.
    """
    arrays: Arrays = {}
    states = {part.metric.name: _stored(part, f"{number}.", arrays) for number, part in enumerate(plan.parts)}
    index, of = plan.share
    description = Description(1, index, of, tuple(arguments), identity(plan, model_settings), states)
    arrays[DESCRIPTION] = np.frombuffer(json.dumps(plain(description)).encode(), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"share-{index}-of-{of}.npz"
    atomic_write(file, packed(arrays.items()))
    return file


def _stored(part: PlannedMetric, prefix: str, arrays: Arrays) -> MetricState:
    """The state of a metric, whose arrays are added to ``arrays``."""
    if part.measurement is not None:
        return MetricState(part.seconds, MeasurementRow.of(part.measurement, {}))
    if not isinstance(part.accumulator, ImageAccumulator):
        return MetricState(part.seconds)
    store, pictures, number = part.accumulator.columns, part.accumulator.pictures, count()
    found: list[NDArray[Any]] = [np.flatnonzero(store.seen)]
    found += [store.get(name, key)[store.seen] for name, columns in store.columns.items() for key in columns]
    found += [*pictures.sums.values(), *pictures.kept.values()]
    arrays |= {f"{prefix}{next(number)}": array for array in found}
    keys = {name: tuple(columns) for name, columns in store.columns.items()}
    return MetricState(part.seconds, None, keys, dict(pictures.counts), tuple(pictures.kept))


def read_shares(folders: Sequence[Path]) -> list[Share]:
    """The shares in some folders, in order.

    Raises:
        InputError: a file is damaged, there are no shares, they belong to different plans, or one of them is missing or
            there twice.
    """
    files = [file for folder in folders for file in sorted(folder.glob("share-*-of-*.npz"))]
    if not files:
        hint = "ccvae-eval run CKPT --blocks I/N --out DIR writes one."
        raise InputError("has no shares of a run", where=", ".join(map(str, folders)), hint=hint)
    shares = sorted((_read(file) for file in files), key=lambda share: share.description.index)
    first = shares[0]
    for share in shares[1:]:
        of, other = first.description.count, share.description.count
        if of != other:
            why = f"{first.file} is one of {of}, {share.file} one of {other}"
            raise InputError("the shares belong to different runs", why=why)
        require_same_plan(first.description.plan, share.description.plan, str(first.file), str(share.file))
    by_index: dict[int, Share] = {}
    for share in shares:
        earlier = by_index.setdefault(share.description.index, share)
        if earlier is not share:
            raise InputError(f"share {share.description} is there twice", why=f"{earlier.file} and {share.file}")
    missing = [f"{i}/{first.description.count}" for i in range(1, first.description.count + 1) if i not in by_index]
    if missing:
        hint = f"Measure with the same command and --blocks {missing[0]}."
        raise InputError(f"missing shares: {', '.join(missing)}", where=str(first.file.parent), hint=hint)
    return shares


def _read(file: Path) -> Share:
    arrays = read_arrays(file, [DESCRIPTION], limit=MAX_EVIDENCE_BYTES)
    content = arrays.pop(DESCRIPTION)
    if content.dtype != np.uint8:
        raise DataError("the description must be bytes", where=str(file))
    where = f"{file}: {DESCRIPTION}"
    return Share(file, read(Description, load_json(content.tobytes(), where, limits=LIMITS), where), arrays)


def require_same_plan(plan: Mapping[str, Plain], other: Mapping[str, Plain], where: str, where_other: str) -> None:
    """Refuses two plans with different identities, and names the first difference.

    Raises:
        InputError: they differ.
    """
    for name in {**plan, **other}:
        if plan.get(name) != other.get(name):
            why = f"{name}: {_shown(plan.get(name))} in {where}, {_shown(other.get(name))} in {where_other}"
            raise InputError("the shares belong to different plans", why=why)


def _shown(value: Plain) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def merged(
    shares: Sequence[Share],
    plan: Plan,
    progress: Progress | None = None,
    working: Working | None = None,
    ended: Ended | None = None,
    *,
    model_settings: Sequence[str] = (),
) -> Run:
    """The run of all shares; takes the place of :func:`~ccvae_eval.evaluation.runner.run`.

    Args:
        shares: all shares, see :func:`read_shares`.
        plan: the same plan, as of one process that has not yet decoded images.
        progress: not called, since nothing is decoded.
        working, ended: as of :func:`~ccvae_eval.evaluation.runner.run`.
        model_settings: as of :func:`identity`.

    Raises:
        InputError: the plan is another one than that of the shares, or a file is damaged.
    """
    del progress
    require_same_plan(shares[0].description.plan, identity(plan, model_settings), str(shares[0].file), "this plan")
    for share in shares:
        for number, part in enumerate(plan.parts):
            _load(part, share, f"{number}.")
    return computed(plan, working, ended)


def _load(part: PlannedMetric, share: Share, prefix: str) -> None:
    """Adds the state of a metric in a share to its accumulator."""
    state = share.description.metrics.get(part.metric.name, MetricState())
    part.seconds += state.seconds
    if part.measurement is None and state.failure is not None:
        part.measurement = state.failure.parsed()
    if part.measurement is not None or not isinstance(part.accumulator, ImageAccumulator):
        return
    number = count()
    store, pictures = ColumnStore(len(part.subject)), MeanPictures()
    try:
        rows = share.arrays[f"{prefix}{next(number)}"]
        if rows.dtype.kind != "i" or rows.ndim != 1 or (np.diff(rows, prepend=-1) <= 0).any():
            raise ValueError("rows of images must be ascending integers")
        for name, keys in state.columns.items():
            found = {key: share.arrays[f"{prefix}{next(number)}"] for key in keys}
            if any(column.dtype != np.float64 or len(column) != len(rows) for column in found.values()):
                raise ValueError(f"columns of {name!r} must have a number for each image")
            store.put(name, rows, found)
        pictures.sums = {name: share.arrays[f"{prefix}{next(number)}"] for name in state.means}
        pictures.counts = dict(state.means)
        pictures.kept = {name: share.arrays[f"{prefix}{next(number)}"] for name in state.kept}
        store.seen[rows] = True
        part.accumulator.columns.merge(store)
        part.accumulator.pictures.merge(pictures)
    except (KeyError, ValueError, IndexError, UsageError) as error:
        raise DataError("the share is damaged", where=f"{share.file}: {part.metric.name}", why=str(error)) from None
