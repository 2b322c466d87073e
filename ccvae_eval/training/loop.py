"""Training of a model: ``prepare`` builds it for some data, ``fit`` trains it and yields events.

The loop prints nothing; the caller shows the events as it likes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import NonFiniteError, UsageError
from ccvae_eval.core.files import make_folder
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.model.checks import require_module_class
from ccvae_eval.model.interface import (
    Batch,
    LabelledVAE,
    ModelContext,
    NeedsAllLabels,
    Predicts,
    Rebuildable,
    Trainable,
    supports,
)
from ccvae_eval.plugins.registry import models
from ccvae_eval.training.settings import TrainingSettings
from ccvae_eval.training.state import (
    STATE,
    Averages,
    History,
    Optimisers,
    Progress,
    Tensors,
    copy_weights,
    fingerprint_of,
    read_state,
    swapped_weights,
    terms_of,
    update_average,
    write_state,
)
from ccvae_eval.training.supervision import (
    BatchFeed,
    Supervision,
    epoch_batches,
    refuse_constant_labels,
    refuse_incomplete_labels,
    supervise,
)

HISTORY = "history.csv"
"""File name of the history in the folder of a training."""

Reason = Literal["epochs", "steps", "minutes", "patience", "stopped"]


@dataclass(frozen=True, slots=True)
class Started:
    """Training starts at ``step`` of ``steps``, with these numbers of training, labelled and validation images."""

    step: int
    steps: int
    images: int
    labelled: int
    validation: int


@dataclass(frozen=True, slots=True)
class Step:
    """One training step is done."""

    step: int
    epoch: int
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images is done; ``terms`` are means over it."""

    epoch: int
    step: int
    terms: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Validation:
    """The validation loss was computed; ``improved`` if it is the lowest so far."""

    epoch: int
    step: int
    terms: Mapping[str, float]
    improved: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """The state was saved: the training can resume from here."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event; the model has its final weights."""

    reason: Reason
    step: int
    epoch: int
    seconds: float


Event = Started | Step | Epoch | Validation | Saved | Finished


def fit(
    model: nn.Module,
    data: DataSet,
    settings: TrainingSettings | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains a model in place while the returned iterator is consumed.

    The same seed gives bit-identical weights on the same machine, build and number of threads, also after a kill and a
    resume. Errors in the settings are raised by the call, before anything is computed.

    Args:
        model: a ``Trainable`` module; it learns its own labels (``model.labels``).
        data: labelled images or points, of which the train split is used.
        settings: settings of the training.
        folder: folder for training.pt and history.csv; None writes nothing.
        resume: True to resume from the folder's training.pt if there is one.
        force: True to discard the folder's training.pt, unless it is resumed from.
        device: device to compute on.
        stop: called after each step; True saves the state and ends the training.

    Raises:
        UsageError: settings, model and data do not match, or the folder contains a training and ``resume`` and
            ``force`` are False.
        DataError: the data has no images or labels to learn from.
        NonFiniteError: a loss is NaN or infinite (while iterating).
    """
    settings = settings or TrainingSettings()
    supervision = check(model, data, settings)
    loop = _Loop(model, data, settings, supervision, folder, torch.device(device), stop)
    if folder is not None:
        make_folder(folder)
        if (folder / STATE).exists():
            if resume:
                loop.restore(folder / STATE)
            elif force:
                (folder / STATE).unlink()
            else:
                hint = "Resume it, or name another folder."
                raise UsageError("the folder already contains a training", where=str(folder), hint=hint)
    return loop.run()


def check(model: nn.Module, data: DataSet, settings: TrainingSettings) -> Supervision:
    """Checks that a model can be trained on some data, and returns the images and labels of the training.

    Raises:
        UsageError: the model is not trainable, or does not match the data or the settings.
        DataError: the data has no images or labels to learn from.
    """
    name = _name_of(model)
    if not supports(model, Trainable) or not supports(model, LabelledVAE):
        raise UsageError(f"{name} is not trainable", hint="It must implement objectives(batch, generator).")
    if supports(model, Rebuildable) and tuple(model.context.input_shape) != tuple(data.input_shape):
        built, given = tuple(model.context.input_shape), tuple(data.input_shape)
        raise UsageError(f"{name} was built for inputs of shape {built}, the data has {given}", where=data.spec)
    needs_labels = bool(model.layout.characteristics) or supports(model, Predicts)
    if needs_labels and settings.rate == 0:
        message, hint = f"{name} needs labels, so the supervision rate must be above 0", "Without labels: train vae."
        raise UsageError(message, where="training", hint=hint)
    supervision = supervise(data, model.labels, settings)
    if needs_labels:
        refuse_constant_labels(supervision)
        if supports(model, NeedsAllLabels) and model.needs_all_labels:
            refuse_incomplete_labels(supervision, name)
    return supervision


class _Loop:
    """A training and its state; arguments as in :func:`fit`."""

    def __init__(
        self, model: nn.Module, data: DataSet, settings: TrainingSettings, supervision: Supervision,
        folder: Path | None, device: torch.device, stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.model: Any = model.to(device)
        self.settings, self.supervision, self.folder = settings, supervision, folder
        self.device, self.stop = device, stop
        self.feed = BatchFeed(data, supervision.train, supervision.labels, settings.cache_megabytes)
        columns = [data.schema.index(name) for name in supervision.schema.names]
        labels = data.labels_of(supervision.validation)[:, columns]
        self.validation = BatchFeed(data, supervision.validation, labels, settings.cache_megabytes)
        self.per_epoch = len(epoch_batches(supervision.labelled, settings.batch, settings.seed, 0))
        self.total = settings.steps or settings.epochs * self.per_epoch
        self.progress, self.history = Progress(), History()
        self.optimisers = Optimisers(settings.learning_rate, settings.clip, {})
        self.average: Tensors | None = copy_weights(model) if settings.average else None
        self.best: Tensors | None = None
        described: dict[str, Any] = {"name": _name_of(model)}
        if supports(model, Rebuildable):
            described |= {**asdict(model.settings), "context": model.context.as_plain()}
        self.fingerprint = fingerprint_of(settings, described, data.digest, supervision.digest)
        self.began = self.saved = time.monotonic()
        self.spent_before = 0.0

    def restore(self, path: Path) -> None:
        groups, self.progress = read_state(path, self.fingerprint)
        self.history = History.read(path.with_name(HISTORY), self.progress.step)
        self.model.load_state_dict(groups["model"])
        self.optimisers = Optimisers(self.settings.learning_rate, self.settings.clip, groups.get("optimiser", {}))
        self.average = groups["average"] if self.settings.average else None
        self.best = groups.get("best")
        self.spent_before = self.progress.seconds

    def run(self) -> Iterator[Event]:
        self.began = self.saved = time.monotonic()
        rows = self.supervision.labelled
        yield Started(self.progress.step, self.total, len(rows), int(rows.sum()), len(self.validation))
        reason = self._reason()
        while reason is None:
            epoch, done = divmod(self.progress.step, self.per_epoch)
            parts = epoch_batches(rows, self.settings.batch, self.settings.seed, epoch)[done:]
            with closing(self.feed.batches(parts)) as batches:
                for batch in batches:
                    yield self._train_step(batch, epoch)
                    reason = self._reason()
                    if reason is not None:
                        break
                    if self.progress.step % self.per_epoch and self._save_is_due():
                        yield from self._save()
            if self.progress.step % self.per_epoch == 0:
                yield from self._end_epoch(epoch)
                reason = reason or self._reason()
                # only after the validation, which a resumed training would miss otherwise
                if reason is None and self._save_is_due():
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
    def _train_step(self, batch: Batch, epoch: int) -> Step:
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
                    hint="Use a lower learning rate, or limit the norm of the gradient (clip).",
                )
            self.optimisers.step(objective)
        if self.average is not None:
            update_average(self.average, self.model, self.settings.average, step)
        self.progress.averages.add(terms, len(batch))
        return Step(step + 1, epoch, terms)

    def _end_epoch(self, epoch: int) -> Iterator[Event]:
        means, self.progress.averages = self.progress.averages.means(), Averages()
        yield self._record_epoch(epoch, means)
        if len(self.validation) and (epoch + 1) % self.settings.validate_every == 0:
            yield self._validate(epoch)

    def _record_epoch(self, epoch: int, means: dict[str, float]) -> Epoch:
        self._record("train", epoch, means)
        return Epoch(epoch, self.progress.step, means, self.seconds)

    def _record(self, split: str, epoch: int, means: dict[str, float]) -> None:
        self.history.add(split, epoch, self.progress.step, self.seconds, means)
        if self.folder is not None:
            self.history.write(self.folder / HISTORY)

    @torch.no_grad()
    @exact_arithmetic()
    def _validate(self, epoch: int) -> Validation:
        """The loss on the validation images with all their labels and the same random draws each time."""
        self.model.eval()
        averages = Averages()
        rows, size = len(self.validation), self.settings.batch
        parts = [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]
        with swapped_weights(self.model, self.average), closing(self.validation.batches(parts)) as batches:
            for number, batch in enumerate(batches):
                generator = torch_stream(self.settings.seed, "validate", number)
                on_device = batch.to(self.device)
                for objective in self.model.objectives(on_device, generator):
                    averages.add(terms_of(objective), len(batch))
                if supports(self.model, Predicts):
                    averages.add(_accuracy(self.model, on_device), len(batch))
            means = averages.means()
            best = self.progress.best
            improved = means["loss"] < (math.inf if best is None else best)
            if improved and self.settings.patience:
                self.best = copy_weights(self.model)
        self.progress.best = means["loss"] if improved else best
        self.progress.waited = 0 if improved else self.progress.waited + 1
        self._record("validation", epoch, means)
        return Validation(epoch, self.progress.step, means, improved)

    def _finish(self, reason: Reason) -> Iterator[Event]:
        """Saves the state, reports an unfinished epoch and sets the final weights."""
        yield from self._save()  # first, since a resumed training must not see the unfinished epoch
        epoch = max(self.progress.step - 1, 0) // self.per_epoch
        if self.progress.step % self.per_epoch:
            yield self._record_epoch(epoch, self.progress.averages.means())
            if len(self.validation) and reason != "stopped":  # a stop must not wait for a validation
                yield self._validate(epoch)
        final = self.best if self.best is not None else self.average
        if final is not None:
            self.model.load_state_dict(final)
        self.model.eval()
        yield Finished(reason, self.progress.step, epoch, self.seconds)

    def _save_is_due(self) -> bool:
        return time.monotonic() - self.saved >= 60 * self.settings.save_minutes

    def _save(self) -> Iterator[Event]:
        if self.folder is None:
            return
        self.progress.seconds = self.seconds
        groups = {"model": dict(self.model.state_dict()), "optimiser": self.optimisers.tensors()}
        groups |= {name: copy for name, copy in (("average", self.average), ("best", self.best)) if copy is not None}
        path = self.folder / STATE
        write_state(path, groups, self.progress, self.fingerprint)
        self.saved = time.monotonic()
        yield Saved(self.progress.step, path)


def _name_of(model: Any) -> str:
    return type(model).__name__.lower()


def _accuracy(model: Any, batch: Batch) -> dict[str, float]:
    """Share of labels predicted correctly from the posterior mean, and their number."""
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
    """Builds a registered model for a data set, with p(y) from the labels of the training.

    Args:
        name: name of the model, plain or "distribution:name".
        options: settings of the model by name, as values or as text.
        data: the data set that it will be trained on.
        settings: settings of the training, of which labels, rate, noise and seed determine p(y).

    Returns:
        The untrained model, and the images and labels of its training.

    Raises:
        UsageError: an unknown name or setting, a model without ``from_settings``, or settings that the data contradict.
        DataError: the data has no images or labels to learn from.
    """
    kind: Any = require_module_class(models[name], name, "train")
    if not hasattr(kind, "from_settings"):
        raise UsageError(f"{name} is not trainable", hint="It must have from_settings(settings, context, seed).")
    schema = data.schema.select(settings.labels) if settings.labels else data.schema
    supervision = supervise(data, schema, settings)
    context = ModelContext(schema, tuple(data.input_shape), supervision.label_prior)
    model = kind.from_settings(options, context, settings.seed)
    check(model, data, settings)
    return model, supervision


def take_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Copies the tensors that match the model's in name and shape; returns their number."""
    own = model.state_dict()
    shared = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(shared, strict=False)
    return len(shared)


def record(
    model: Rebuildable, data: DataSet, settings: TrainingSettings, supervision: Supervision, last: Finished
) -> dict[str, Plain]:
    """The training's record in a checkpoint: settings, length, and digests of data and labels, without paths."""
    return {
        **{name: getattr(settings, name) for name in ("seed", "rate", "label_noise")},
        "epochs": last.epoch + 1,
        "steps": last.step,
        "ended": last.reason,
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
        "images": len(supervision.train),
        "labelled": int(supervision.labelled.sum()),
        "supervision": supervision.digest,
        "data": data.digest,
        "model": _name_of(model),
    }
