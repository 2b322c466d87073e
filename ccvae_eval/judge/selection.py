"""Selection of an evaluation's judge: from a file, from the package, from the cache, or newly trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.resources import as_file, files
from pathlib import Path
from time import monotonic

from ccvae_eval.core.errors import CheckpointError, LabelMismatchError, UndefinedError
from ccvae_eval.core.files import cache_folder, write_cached
from ccvae_eval.data.interface import DataSet, Renders
from ccvae_eval.judge.artifact import VERSION, Judge
from ccvae_eval.judge.training import STEPS, Progress, train_judge
from ccvae_eval.model.interface import LabelSchema, supports

MEASURED_STEPS = 5
"""Training steps over which the time of a training is measured."""

SHIPPED = "judge-faces64.safetensors"

Notice = Callable[[str], None]


@dataclass
class JudgeSource:
    """The judge of an evaluation, which is trained only if a metric needs it.

    Args:
        judge: the judge, if there is one already.
        train: trains one; None if there is nothing to train, or no more.
    """

    judge: Judge | None = None
    train: Callable[[], Judge | None] | None = None
    _required: bool = field(default=False, init=False)

    @property
    def possible(self) -> bool:
        """True if there is a judge, or one can be trained."""
        return self.judge is not None or self.train is not None

    @property
    def tried(self) -> bool:
        """True if a judge was to be trained, which failed."""
        return self.judge is None and self._required

    def require(self) -> Judge | None:
        """The judge, trained now if necessary; None if there is none."""
        if self.judge is None and self.train is not None:
            self.judge, self.train, self._required = self.train(), None, True
        return self.judge


def judge_source(
    data: DataSet,
    *,
    choice: str | Path = "auto",
    schema: LabelSchema | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> JudgeSource:
    """Selects the judge for the images of a data set.

    Args:
        data: the images.
        choice: "none", a file, or "auto". "auto" takes the first of: the judge of the package, if it was trained on
            images of the same renderer and size; a cached judge of an earlier run; a new one, trained on the
            ``judge`` split and cached.
        schema: the model's labels; the judge uses this order of labels and classes.
        cache_dir: folder of cached judges; see :func:`ccvae_eval.core.files.cache_folder`.
        seed: seed of a new judge, independent of the evaluation's so that evaluations of a data set share a judge.
        notice: called with messages for the user.
        progress: called with (steps done, steps) during training.

    Returns:
        The source; its judge is None for the choice "none", for points, and, with a notice, if none can be trained.

    Raises:
        CheckpointError: the file is not a judge.
        LabelMismatchError: the judge shares no label with the data, or a shared label has other classes.
        DataError: the judge needs images of another shape.
    """
    notify = notice or _ignore

    def fitted(judge: Judge | None) -> Judge | None:
        return judge if judge is None or schema is None else judge.for_labels(schema)

    if str(choice) == "none" or len(data.input_shape) != 3:
        return JudgeSource()
    if str(choice) != "auto":
        judge = Judge.open(choice)
        _require_fit(judge, data, str(choice))
        return JudgeSource(fitted(judge))
    folder = cache_folder(cache_dir)
    existing = _shipped_for(data) or _cached(data, folder, seed, notify)
    return JudgeSource(fitted(existing), lambda: fitted(_trained(data, folder, seed, notify, progress)))


def _ignore(text: str) -> None:
    del text


def _require_fit(judge: Judge, data: DataSet, where: str) -> None:
    judge.require_shape(data.input_shape)
    shared = [name for name in judge.labels.names if name in data.schema]
    if not shared:
        raise LabelMismatchError(
            "the judge shares no label with the data",
            where=where,
            hint=f"It classifies {', '.join(judge.labels.names)}.",
        )
    for name in shared:
        if judge.labels[name] != data.schema[name]:
            raise LabelMismatchError(f"label {name!r} has different classes in the data and the judge", where=where)


@cache
def shipped_judge() -> Judge | None:
    """The judge in the package, for rendered faces of 64 pixels; None in a build without it."""
    asset = files("ccvae_eval") / "assets" / SHIPPED
    if not asset.is_file():
        return None
    with as_file(asset) as path:
        return Judge.open(path)


def _shipped_for(data: DataSet) -> Judge | None:
    """The judge in the package, if it was trained on images of the same renderer with the same labels."""
    if not supports(data, Renders) or (judge := shipped_judge()) is None:
        return None
    own = (judge.record.renderer, judge.record.version, judge.input_shape, judge.labels)
    return judge if own == (data.renderer, VERSION, tuple(data.input_shape), data.schema) else None


def _cached(data: DataSet, folder: Path | None, seed: int, notify: Notice) -> Judge | None:
    """The judge that an earlier run left in the cache, or None."""
    place = None if folder is None else folder / _file_name(data, seed)
    if place is None or not place.is_file():
        return None
    try:
        return Judge.open(place)
    except CheckpointError as error:
        notify(f"The cached judge cannot be read and is trained again: {error}")
        return None


def _trained(data: DataSet, folder: Path | None, seed: int, notify: Notice, progress: Progress | None) -> Judge | None:
    notify(f"Training a judge on the judge split of {data.spec}. --judge none skips it.")
    try:
        judge = train_judge(data, seed=seed, progress=_with_estimate(notify, progress))
    except UndefinedError as error:
        notify(f"No judge can be trained, so judged values are left out: {error}")
        return None
    failure = write_cached(folder, _file_name(data, seed), judge.save)
    if failure:
        notify(failure)
    return judge


def _with_estimate(notify: Notice, progress: Progress | None) -> Progress:
    """The progress, with a notice of the time that the training will take, measured over its first steps."""
    begun = monotonic()

    def follow(done: int, total: int) -> None:
        nonlocal begun
        if done == 1:
            begun = monotonic()  # the first step also reads the images
        if done == MEASURED_STEPS + 1:
            seconds = (monotonic() - begun) / MEASURED_STEPS * (total - done)
            notify(f"The judge takes about {seconds / 60:.0f} min, measured over {MEASURED_STEPS} steps; it is kept.")
        if progress is not None:
            progress(done, total)

    return follow


def _file_name(data: DataSet, seed: int) -> str:
    """File name of a cached judge, a hash of everything that determines it."""
    key = json.dumps([VERSION, STEPS, seed, data.digest, list(data.input_shape), data.schema.as_plain()])
    return f"judge-{blake2b(key.encode(), digest_size=12).hexdigest()}.safetensors"
