"""Which judge an evaluation uses: the shipped one, one kept from an earlier run, one from a file, or a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from importlib.resources import as_file, files
from pathlib import Path

from ccvae_eval.core.cache import cache_folder, keep
from ccvae_eval.core.errors import CheckpointError, LabelMismatchError, UndefinedError
from ccvae_eval.data.interface import DataSet, Renders
from ccvae_eval.judge.artifact import VERSION, Judge
from ccvae_eval.judge.training import STEPS, Progress, train_judge
from ccvae_eval.model.interface import LabelSchema

SHIPPED = "judge-faces64.safetensors"

Notice = Callable[[str], None]


def judge_for(
    data: DataSet,
    *,
    choice: str | Path = "auto",
    schema: LabelSchema | None = None,
    cache_dir: str | Path | None = None,
    train: bool = True,
    seed: int = 0,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> Judge | None:
    """The judge for the images of a data set.

    Args:
        data: the images.
        choice: "none"; a file; or "auto": the judge that comes with the package, if it learnt from drawings of the
            same renderer and size; else the one that an earlier run left in the cache; else a new one, trained now on
            the ``judge`` split (seconds to a minute) and kept.
        schema: the labels as the model orders them; the judge answers in this order of labels and classes.
        cache_dir: where judges are kept; see :func:`ccvae_eval.core.cache.cache_folder`.
        train: whether a new one may be trained; not where nobody has a use for it.
        seed: of a new judge. Not the evaluation's: two evaluations of one data set share their judge.
        notice: called with sentences that a user should read.
        progress: called with (steps, steps in all) while one is trained.

    Returns:
        The judge; None if none is asked for, for points, and, with a notice, where none can be trained.

    Raises:
        CheckpointError: the file is no judge.
        LabelMismatchError: it knows no label of the data, or has other classes.
        DataError: it reads images of another shape.
    """
    tell = notice or _unheard
    if str(choice) == "none" or len(data.input_shape) != 3:
        return None
    if str(choice) == "auto":
        judge = _shipped_for(data) or _kept(data, cache_folder(cache_dir), seed, tell)
        if judge is None and train:
            judge = _new(data, cache_folder(cache_dir), seed, tell, progress)
    else:
        judge = Judge.open(choice)
        _require_fit(judge, data, str(choice))
    return judge if judge is None or schema is None else judge.answering(schema)


def _unheard(text: str) -> None:
    del text


def _require_fit(judge: Judge, data: DataSet, where: str) -> None:
    judge.require_shape(data.input_shape)
    shared = [name for name in judge.labels.names if name in data.schema]
    if not shared:
        raise LabelMismatchError(
            "the judge knows no label of the data",
            where=where,
            hint=f"It knows {', '.join(judge.labels.names)}.",
        )
    for name in shared:
        if judge.labels[name] != data.schema[name]:
            raise LabelMismatchError(f"label {name!r} has other classes in the data than for the judge", where=where)


@cache
def shipped_judge() -> Judge | None:
    """The judge that comes with the package, for faces of 64 pixels; None in a build without it."""
    asset = files("ccvae_eval") / "assets" / SHIPPED
    if not asset.is_file():
        return None
    with as_file(asset) as path:
        return Judge.open(path)


def _shipped_for(data: DataSet) -> Judge | None:
    """The shipped judge, if it has seen the same drawings under the same labels."""
    if not isinstance(data, Renders):
        return None
    judge = shipped_judge()
    fits = (
        judge is not None
        and judge.record.renderer == data.renderer
        and judge.record.version == VERSION
        and judge.input_shape == tuple(data.input_shape)
        and judge.labels == data.schema
    )
    return judge if fits else None


def _kept(data: DataSet, folder: Path | None, seed: int, tell: Notice) -> Judge | None:
    """The judge that an earlier run left in the cache."""
    place = None if folder is None else folder / _file_name(data, seed)
    if place is None or not place.is_file():
        return None
    try:
        return Judge.open(place)
    except CheckpointError as error:
        tell(f"A cached judge is made anew: {error}")
        return None


def _new(data: DataSet, folder: Path | None, seed: int, tell: Notice, progress: Progress | None) -> Judge | None:
    tell(f"Training a judge on the judge split of {data.spec}: seconds to a minute.")
    try:
        judge = train_judge(data, seed=seed, progress=progress)
    except UndefinedError as error:
        tell(f"There is no judge, so judged values are left out: {error}")
        return None
    unkept = keep(folder, _file_name(data, seed), judge.save)
    if unkept:
        tell(unkept)
    return judge


def _file_name(data: DataSet, seed: int) -> str:
    """Of the cached judge: everything that decides which judge it is."""
    key = json.dumps([VERSION, STEPS, seed, data.digest, list(data.input_shape), data.schema.as_plain()])
    return f"judge-{blake2b(key.encode(), digest_size=12).hexdigest()}.safetensors"
