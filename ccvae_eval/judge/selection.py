"""Selection of an evaluation's judge: from a file, from the package, from the cache, or newly trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import as_file, files
from pathlib import Path

from ccvae_eval.checkpoint.metadata import without_path
from ccvae_eval.core.errors import CheckpointError, LabelMismatchError, UndefinedError
from ccvae_eval.core.files import cache_folder, write_cached
from ccvae_eval.data.interface import DataSet, Renders
from ccvae_eval.judge.artifact import FIXED, SETTLED, VERSION, Judge
from ccvae_eval.judge.training import STEPS, Progress, train_judge
from ccvae_eval.model.interface import LabelSchema, supports
from ccvae_eval.rendering.text import duration

SHIPPED = "judge-faces64.safetensors"

LISTED = 8
"""Largest number of labels that are named in a notice."""

Notice = Callable[[str], None]


@dataclass
class JudgeSource:
    """The judge of an evaluation, which is trained only if a metric needs it.

    Args:
        judge: the judge, if there is one already.
        train: trains one; None if there is nothing to train, or no more.
        declined: True if the user wanted no judge.
    """

    judge: Judge | None = None
    train: Callable[[], Judge | None] | None = None
    declined: bool = False

    @property
    def possible(self) -> bool:
        """True if there is a judge, or one can be trained."""
        return self.judge is not None or self.train is not None

    @property
    def trainable(self) -> bool:
        """True if there is no judge yet, and one can be trained."""
        return self.judge is None and self.train is not None

    def require(self) -> Judge | None:
        """The judge, trained now if necessary; None if there is none."""
        if self.judge is None and self.train is not None:
            self.judge, self.train = self.train(), None
        return self.judge


def judge_source(
    data: DataSet,
    *,
    choice: str | Path = "auto",
    schema: LabelSchema | None = None,
    labels: Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> JudgeSource:
    """Selects the judge for the images of a data set.

    Args:
        data: the images.
        choice: "none", a file, "auto" or "full". "auto" and "full" take the first of: the judge of the package, if it
            was trained on images of the same renderer and size; a cached judge of an earlier run; a new one, trained on
            the ``judge`` split and cached. With "auto", the new judge learns ``labels``, is trained until its
            accuracy is settled, and starts from a cached judge of the same data if there is one. With "full", it
            learns every label of the data in a fixed number of steps, and depends on nothing else.
        schema: the model's labels; the judge uses this order of labels and classes.
        labels: the labels that a new judge has to learn; default: those of the schema, else all.
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

    if str(choice) == "none":
        return JudgeSource(declined=True)
    if len(data.input_shape) != 3:
        return JudgeSource()
    if str(choice) not in ("auto", "full"):
        judge = Judge.open(choice)
        _require_fit(judge, data, str(choice))
        return JudgeSource(fitted(judge))
    needed = labels if labels is not None else data.schema.names if schema is None else schema.names
    names = [name for name in data.schema.names if name in needed or str(choice) == "full"]
    wanted = Wanted(data, names, FIXED if str(choice) == "full" else SETTLED, seed, cache_folder(cache_dir))
    existing = _shipped_for(data) or wanted.cached(notify)
    return JudgeSource(fitted(existing), lambda: fitted(wanted.trained(notify, progress)))


@dataclass(frozen=True)
class Wanted:
    """A judge that is taken from the cache or trained.

    Args:
        data: the images.
        labels: the labels to classify, in the data's order.
        recipe: see :func:`ccvae_eval.judge.train_judge`.
        seed: seed of the training.
        folder: the cache folder, if there is one.
    """

    data: DataSet
    labels: Sequence[str]
    recipe: str
    seed: int
    folder: Path | None

    @property
    def file_name(self) -> str:
        """File name in the cache, a hash of everything that is asked for."""
        schema = self.data.schema.select(tuple(self.labels))
        key = [VERSION, STEPS, self.seed, self.data.digest, list(self.data.input_shape), schema.as_plain()]
        key += [] if self.recipe == FIXED else [self.recipe]
        # earlier versions left continuous labels out
        text = json.dumps([*key, "values"] if any(label.kind == "continuous" for label in schema) else key)
        return f"judge-{blake2b(text.encode(), digest_size=12).hexdigest()}.safetensors"

    def cached(self, notify: Notice) -> Judge | None:
        """The cached judge; for the recipe "settled" also one of more labels, or of the other recipe."""
        place = None if self.folder is None else self.folder / self.file_name
        if place is not None and place.is_file():
            try:
                return Judge.open(place)
            except CheckpointError as error:
                notify(f"The cached judge cannot be read and is trained again: {error}")
        return next(filter(self._covers, self._others()), None) if self.recipe == SETTLED else None

    def trained(self, notify: Notice, progress: Progress | None) -> Judge | None:
        """A new judge, which is left in the cache; None, with a notice, if no label can be learned."""

        def estimate(labels: Sequence[str], seconds: float) -> None:
            listed = ", ".join(labels) if len(labels) <= LISTED else f"{len(labels)} labels"
            notify(
                f"training a judge for {listed}: at most about {duration(seconds)}; --judge none leaves out the "
                "judged values, --judge FILE uses another judge"
            )

        start = next(filter(self._related, self._others()), None) if self.recipe == SETTLED else None
        try:
            judge = train_judge(
                self.data, seed=self.seed, labels=self.labels, recipe=self.recipe, start=start, progress=progress,
                estimate=estimate,
            )  # fmt: skip
        except UndefinedError as error:
            notify(f"No judge can be trained, so judged values are left out: {error}")
            return None
        failure = write_cached(self.folder, self.file_name, judge.save)
        if failure:
            notify(failure)
        return judge

    def _others(self) -> Iterator[Judge]:
        """The readable judges of this version and seed in the cache."""
        for file in sorted(self.folder.glob("judge-*.safetensors")) if self.folder is not None else ():
            try:
                judge = Judge.open(file)
            except CheckpointError:
                continue
            if (judge.record.version, judge.record.seed) == (VERSION, self.seed):
                yield judge

    def _covers(self, judge: Judge) -> bool:
        """True for a judge of these images that classifies every wanted label that can be learned."""
        if (judge.record.digest, judge.input_shape) != (self.data.digest, tuple(self.data.input_shape)):
            return False
        known = {label.name: label for label in judge.labels}
        # earlier versions left continuous labels out, for this reason
        left_out = {name for name, why in judge.record.left_out.items() if why != "a continuous label"}
        return all(known.get(name) == self.data.schema[name] or name in left_out for name in self.labels)

    def _related(self, judge: Judge) -> bool:
        """True for a judge of the same data, with any labels and in any size of the images."""
        spec, other = (_without_size(without_path(text)) for text in (self.data.spec, judge.record.trained_on))
        resized = spec == other and judge.input_shape != tuple(self.data.input_shape)
        same_channels = judge.input_shape[0] == self.data.input_shape[0]
        return same_channels and (judge.record.digest == self.data.digest or resized)


def _without_size(spec: str) -> str:
    return re.sub(r",size=\d+", "", spec)


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
