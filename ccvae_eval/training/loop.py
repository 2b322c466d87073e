"""The training loop. It knows no terminal: it yields events.

What a training tells whoever iterates over it.

An untrained model for some data, by its registered name.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import NonFiniteError, UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.model.interface import (
    Batch,
    LabelledVAE,
    ModelContext,
    NeedsAllLabels,
    Predicts,
    Rebuildable,
    Trainable,
)
from ccvae_eval.plugins.registry import models
from ccvae_eval.training.history import Averages, History, terms_of
from ccvae_eval.training.settings import TrainingSettings
from ccvae_eval.training.state import (
    STATE,
    Optimisers,
    Progress,
    Tensors,
    copied,
    exchanged,
    fingerprint,
    follow,
    read_state,
    write_state,
)
from ccvae_eval.training.supervision import (
    BatchFeed,
    Supervision,
    epoch_parts,
    refuse_constant_labels,
    refuse_incomplete_labels,
    supervise,
)

Reason = Literal["epochs", "steps", "minutes", "patience", "stopped"]


@dataclass(frozen=True, slots=True)
class Started:
    """Nothing was trained yet; ``step`` is not 0 if an earlier training goes on."""

    step: int
    steps: int
    images: int
    labelled: int
    validation: int


@dataclass(frozen=True, slots=True)
class Step:
    """One batch was learnt from. ``seconds_left`` is an estimate, NaN at first."""

    step: int
    epoch: int
    terms: Mapping[str, float]
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images ended; ``terms`` are means over its rows."""

    epoch: int
    step: int
    terms: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out images were looked at; ``improved`` if the loss was never lower."""

    epoch: int
    step: int
    terms: Mapping[str, float]
    improved: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """The state of the training is on disk: it can go on from here."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. The model holds the weights that are kept."""

    reason: Reason
    step: int
    epoch: int
    seconds: float


Event = Started | Step | Epoch | Validation | Saved | Finished


HISTORY = "history.csv"
WINDOW = 20
"""Steps over which the speed is averaged."""


def fit(
    model: nn.Module,
    data: DataSet,
    settings: TrainingSettings | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains a model in place, as far as the returned iterator is followed.

    The same seed gives the same weights in every bit on the same machine, build and number of threads, also over a
    kill and a resume. Wrong settings are refused here, before anything is computed.

    Args:
        model: a ``Trainable`` module; it learns the labels that it has (``model.labels``).
        data: labelled images or points; the train split is used.
        settings: how to train.
        folder: where training.pt and history.csv go; nothing is written without one.
        resume: go on from the folder's training.pt if there is one.
        device: where to compute.
        stop: asked after each step; true ends the training, its state saved.

    Raises:
        UsageError: settings, model and data do not go together, or the folder holds a training already.
        DataError: there is nothing to learn from.
    """
    settings = settings or TrainingSettings()
    supervision = check(model, data, settings)
    loop = _Loop(model, data, settings, supervision, folder, torch.device(device), stop)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists():
            if not resume:
                raise UsageError(
                    "the folder holds a training already", where=str(folder), hint="Resume it, or name another folder."
                )
            loop.restore(folder / STATE)
    return loop.run()


def check(model: nn.Module, data: DataSet, settings: TrainingSettings) -> Supervision:
    """Refuses what cannot be trained; returns what the training will see."""
    name = type(model).__name__.lower()
    if not isinstance(model, Trainable) or not isinstance(model, LabelledVAE):
        raise UsageError(f"{name} cannot be trained here", hint="It has no objectives(batch, generator).")
    if isinstance(model, Rebuildable) and tuple(model.context.input_shape) != tuple(data.input_shape):
        raise UsageError(
            f"{name} was built for inputs of shape {tuple(model.context.input_shape)}, the data has "
            f"{tuple(data.input_shape)}",
            where=data.spec,
        )
    if model.layout.characteristics or isinstance(model, Predicts):
        if settings.rate == 0:
            raise UsageError(
                f"{name} learns from labels, and rate 0 shows none", where="training: rate", hint="Without: train vae."
            )
        supervision = supervise(data, model.labels, settings)
        refuse_constant_labels(supervision)
        if isinstance(model, NeedsAllLabels) and model.needs_all_labels:
            refuse_incomplete_labels(supervision, name)
        return supervision
    return supervise(data, model.labels, settings)


class _Loop:
    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        settings: TrainingSettings,
        supervision: Supervision,
        folder: Path | None,
        device: torch.device,
        stop: Callable[[], bool],
    ) -> None:
        self.model: Any = model.to(device)
        self.settings, self.supervision, self.folder = settings, supervision, folder
        self.device, self.stop = device, stop
        self.feed = BatchFeed(data, supervision.train, supervision.labels, settings.cache_megabytes)
        held = data.labels_of(supervision.validation)[:, [data.schema.index(n) for n in supervision.schema.names]]
        self.held_out = BatchFeed(data, supervision.validation, held, settings.cache_megabytes)
        self.per_epoch = len(epoch_parts(supervision.labelled, settings.batch, settings.seed, 0))
        self.total = settings.steps or settings.epochs * self.per_epoch
        self.progress, self.history = Progress(), History()
        self.optimisers = Optimisers(settings.learning_rate, settings.clip, {})
        self.average: Tensors | None = copied(model) if settings.average else None
        self.best: Tensors | None = None
        self.mark = fingerprint(settings, _plain(model), data.digest, supervision.digest)
        self.began = self.saved = time.monotonic()
        self.spent_before = 0.0
        self.recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    def restore(self, path: Path) -> None:
        groups, self.progress = read_state(path, self.mark)
        self.history = History.read(path.with_name(HISTORY), self.progress.step)
        self.model.load_state_dict(groups["model"])
        self.optimisers = Optimisers(self.settings.learning_rate, self.settings.clip, groups.get("optimiser", {}))
        self.average = groups["average"] if self.settings.average else None
        self.best = groups.get("best")
        self.spent_before = self.progress.seconds

    def run(self) -> Iterator[Event]:
        """Epoch after epoch until there is a reason to end."""
        self.began = self.saved = time.monotonic()
        rows = self.supervision.labelled
        yield Started(self.progress.step, self.total, len(rows), int(rows.sum()), len(self.held_out))
        reason = self._reason()
        while reason is None:
            epoch, done = divmod(self.progress.step, self.per_epoch)
            parts = epoch_parts(rows, self.settings.batch, self.settings.seed, epoch)[done:]
            with closing(self.feed.batches(parts)) as batches:
                for batch in batches:
                    yield self._learn(batch, epoch)
                    reason = self._reason()
                    if reason is not None:
                        break
                    if self.progress.step % self.per_epoch and self._save_is_due():
                        yield from self._save()
            if self.progress.step % self.per_epoch == 0:
                yield from self._end_epoch(epoch)
                reason = reason or self._reason()
                if reason is None and self._save_is_due():  # not before: a resume must not miss the validation
                    yield from self._save()
        yield from self._finish(reason)

    @property
    def seconds(self) -> float:
        return self.spent_before + time.monotonic() - self.began

    def _reason(self) -> Reason | None:
        if self.settings.patience and self.progress.waited >= self.settings.patience:
            return "patience"
        if self.progress.step >= self.total:
            return "steps" if self.settings.steps else "epochs"
        if self.settings.minutes and self.seconds >= 60 * self.settings.minutes:
            return "minutes"
        return "stopped" if self.stop() else None

    @exact_arithmetic()
    def _learn(self, batch: Batch, epoch: int) -> Step:
        began = time.monotonic()
        step, self.progress.step = self.progress.step, self.progress.step + 1
        self.model.train()
        generator = torch_stream(self.settings.seed, "step", step)
        terms: dict[str, float] = {}
        for objective in self.model.objectives(batch.to(self.device), generator):
            terms |= terms_of(objective)
            if not math.isfinite(objective.loss.item()):
                raise NonFiniteError(
                    f"the loss is {objective.loss.item()} at step {step + 1}",
                    where=f"training: {objective.name}",
                    hint="A lower learning rate, or a limit on the gradient's norm (clip).",
                )
            self.optimisers.step(objective)
        if self.average is not None:
            follow(self.average, self.model, self.settings.average, step)
        self.progress.averages.add(terms, len(batch))
        self.recent.append((began, len(batch)))
        return Step(step + 1, epoch, terms, *self._speed())

    def _speed(self) -> tuple[float, float]:
        """Images per second of late, and seconds left at that speed."""
        span = time.monotonic() - self.recent[0][0]
        steps_per_second = len(self.recent) / max(span, 1e-9)
        left = (self.total - self.progress.step) / steps_per_second
        if self.settings.minutes:
            left = min(left, 60 * self.settings.minutes - self.seconds)
        return sum(rows for _, rows in self.recent) / max(span, 1e-9), max(left, 0.0)

    def _end_epoch(self, epoch: int) -> Iterator[Event]:
        means, self.progress.averages = self.progress.averages.means(), Averages()
        yield self._record_epoch(epoch, means)
        if len(self.held_out) and (epoch + 1) % self.settings.validate_every == 0:
            yield self._validate(epoch)

    def _record_epoch(self, epoch: int, means: dict[str, float]) -> Epoch:
        self.history.add("train", epoch, self.progress.step, self.seconds, means)
        self._write_history()
        return Epoch(epoch, self.progress.step, means, self.seconds)

    @torch.no_grad()
    @exact_arithmetic()
    def _validate(self, epoch: int) -> Validation:
        """The loss on the held-out part, all its labels shown, with the same draws each time."""
        self.model.eval()
        averages = Averages()
        order = torch.arange(len(self.held_out)).numpy()
        parts = [order[start : start + self.settings.batch] for start in range(0, len(order), self.settings.batch)]
        with exchanged(self.model, self.average), closing(self.held_out.batches(parts)) as batches:
            for number, batch in enumerate(batches):
                generator = torch_stream(self.settings.seed, "validate", number)
                there = batch.to(self.device)
                for objective in self.model.objectives(there, generator):
                    averages.add(terms_of(objective), len(batch))
                if isinstance(self.model, Predicts):
                    averages.add(_accuracy(self.model, there), len(batch))
            means = averages.means()
            improved = means["loss"] < self.progress.best
            if improved and self.settings.patience:
                self.best = copied(self.model)
        self.progress.best = min(self.progress.best, means["loss"])
        self.progress.waited = 0 if improved else self.progress.waited + 1
        self.history.add("validation", epoch, self.progress.step, self.seconds, means)
        self._write_history()
        return Validation(epoch, self.progress.step, means, improved)

    def _finish(self, reason: Reason) -> Iterator[Event]:
        """Saves, looks at an epoch left unfinished (after saving: a resume must not see that), keeps the weights."""
        yield from self._save()
        epoch = max(self.progress.step - 1, 0) // self.per_epoch
        if self.progress.step % self.per_epoch:
            yield self._record_epoch(epoch, self.progress.averages.means())
            if len(self.held_out) and reason != "stopped":  # whoever stops it is waiting
                yield self._validate(epoch)
        kept = self.best if self.best is not None else self.average
        if kept is not None:
            self.model.load_state_dict(kept)
        self.model.eval()
        yield Finished(reason, self.progress.step, epoch, self.seconds)

    def _save_is_due(self) -> bool:
        return time.monotonic() - self.saved >= 60 * self.settings.save_minutes

    def _save(self) -> Iterator[Event]:
        if self.folder is None:
            return
        self.progress.seconds = self.seconds
        groups = {"model": dict(self.model.state_dict()), "optimiser": self.optimisers.tensors()}
        groups |= {name: kept for name, kept in (("average", self.average), ("best", self.best)) if kept is not None}
        path = self.folder / STATE
        write_state(path, groups, self.progress, self.mark)
        self.saved = time.monotonic()
        yield Saved(self.progress.step, path)

    def _write_history(self) -> None:
        if self.folder is not None:
            self.history.write(self.folder / HISTORY)


def _plain(model: nn.Module) -> dict[str, Any]:
    if isinstance(model, Rebuildable):
        return {"name": type(model).__name__.lower(), **asdict(model.settings), "context": model.context.as_plain()}
    return {"name": type(model).__name__.lower()}


def _accuracy(model: Any, batch: Batch) -> dict[str, float]:
    """Share of right labels at the posterior mean, and how many there were."""
    predicted = model.predict(batch.images, model.encode(batch.images).loc)
    right = rows = 0
    for column, label in enumerate(model.labels):
        if label.kind == "continuous":
            continue
        y = batch.labels[:, column]
        known = ~y.isnan()
        right += int((predicted[label.name].argmax(1)[known] == y[known]).sum())
        rows += int(known.sum())
    return {"labels.rows": rows, "labels.accuracy": right / rows if rows else math.nan}


def prepare(
    name: str, options: Mapping[str, Plain], data: DataSet, settings: TrainingSettings
) -> tuple[nn.Module, Supervision]:
    """Builds a registered model for a data set, with p(y) from the labels that the training will show.

    Args:
        name: the model's name, plain or "distribution:name".
        options: the model's settings by name, as values or as text.
        data: what it will be trained on.
        settings: how; labels, rate, noise and seed decide what the model is built for.

    Raises:
        UsageError: unknown name or settings, or settings that do not go with the data.
        DataError: there is nothing to learn from.
    """
    kind: Any = models[name]
    schema = data.schema.select(settings.labels) if settings.labels else data.schema
    supervision = supervise(data, schema, settings)
    context = ModelContext(schema, tuple(data.input_shape), supervision.label_prior)
    model = kind.from_settings(options, context, settings.seed)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} cannot be trained here", hint="It is no torch.nn.Module.")
    check(model, data, settings)
    return model, supervision


def take_weights(model: nn.Module, theirs: Mapping[str, Tensor]) -> int:
    """Copies the tensors whose names and shapes the model has too; returns how many."""
    mine = model.state_dict()
    shared = {name: tensor for name, tensor in theirs.items() if name in mine and mine[name].shape == tensor.shape}
    model.load_state_dict(shared, strict=False)
    return len(shared)


def record(
    model: Rebuildable, data: DataSet, settings: TrainingSettings, supervision: Supervision, last: Finished
) -> dict[str, Plain]:
    """What a checkpoint says about its training: seed, rate, how long, and which images were seen, but no path."""
    return {
        "seed": settings.seed,
        "rate": settings.rate,
        "label_noise": settings.label_noise,
        "epochs": last.epoch + 1,
        "steps": last.step,
        "ended": last.reason,
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
        "images": len(supervision.train),
        "labelled": int(supervision.labelled.sum()),
        "supervision": supervision.digest,
        "data": data.digest,
        "model": type(model).__name__.lower(),
    }
