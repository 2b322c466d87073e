"""The state of a training: mean loss terms, their record in history.csv, copies of weights, optimisers, progress.

The saved state suffices to resume after a kill at any moment and reach the same weights.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CheckpointError, InputError, UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.typed import read
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import Objective
from ccvae_eval.training.settings import CHANGEABLE, TrainingSettings

LEADING = ("split", "epoch", "step", "seconds")
"""The columns of history.csv that are not terms."""


def terms_of(objective: Objective) -> dict[str, float]:
    """The loss and the terms of an objective, prefixed with its name unless that is "model"."""
    prefix = "" if objective.name == "model" else f"{objective.name}."
    return {f"{prefix}{name}": value for name, value in {"loss": objective.loss.item(), **objective.terms}.items()}


@dataclass
class Averages:
    """Means of terms over rows: a term "a.b" has the weight "a.rows" if there is such a term, else the batch size.

    >>> averages = Averages()
    >>> averages.add({"loss": 1.0, "supervised.rows": 1, "supervised.value": 3.0}, 4)
    >>> averages.add({"loss": 2.0, "supervised.rows": 3, "supervised.value": 5.0}, 4)
    >>> averages.means()
    {'loss': 1.5, 'supervised.rows': 4.0, 'supervised.value': 4.5}
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, terms: Mapping[str, float], rows: int) -> None:
        """Adds the terms of a batch of ``rows`` rows."""
        for name, value in terms.items():
            group, _, last = name.rpartition(".")
            weight = 1 if last == "rows" else terms.get(f"{group}.rows", rows)
            if weight:
                self.sums[name] = self.sums.get(name, 0.0) + value * weight
                self.counts[name] = self.counts.get(name, 0.0) + weight
            else:
                self.sums.setdefault(name, 0.0)

    def means(self) -> dict[str, float]:
        """The mean of each term and the sum of each "rows"; NaN for a term without rows."""
        return {
            name: total if name.endswith(".rows") else total / self.counts[name] if name in self.counts else math.nan
            for name, total in self.sums.items()
        }


@dataclass
class History:
    """The rows of history.csv: mean terms of an epoch on the training or on the validation images."""

    rows: list[dict[str, Plain]] = field(default_factory=list)

    def add(self, split: str, epoch: int, step: int, seconds: float, terms: Mapping[str, float]) -> None:
        """Adds a row; replaces the row of the same split and epoch, which an unfinished epoch leaves."""
        self.rows = [row for row in self.rows if (row["split"], row["epoch"]) != (split, epoch)]
        leading = {"split": split, "epoch": epoch, "step": step, "seconds": round(seconds, 3)}
        finite = {name: value if math.isfinite(value) else None for name, value in terms.items()}
        self.rows.append({**leading, **finite})

    def text(self) -> str:
        """The rows as CSV; terms that are not finite are empty."""
        names = dict.fromkeys([*LEADING, *(name for row in self.rows for name in row)])
        out = io.StringIO()
        writer = csv.DictWriter(out, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()

    def write(self, path: Path) -> None:
        """Writes the file atomically."""
        atomic_write(path, self.text().encode())

    @classmethod
    def read(cls, path: Path, steps: int) -> History:
        """Reads the rows up to a number of steps; later rows belong to lost work. No file gives no rows.

        Raises:
            InputError: the file is not the history of a training.
        """
        if not path.exists():
            return cls()
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [_typed(row) for row in csv.DictReader(file)]
            return cls([row for row in rows if row["step"] <= steps])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("not the history of a training", where=str(path), why=repr(error)) from None


def _typed(row: Mapping[str, str]) -> dict[str, Plain]:
    terms = {name: float(text) if text else None for name, text in row.items() if name not in LEADING}
    epoch, step, seconds = int(row["epoch"]), int(row["step"]), float(row["seconds"])
    return {"split": row["split"], "epoch": epoch, "step": step, "seconds": seconds, **terms}


STATE = "training.pt"
"""File name of the state in the folder of a training."""

Tensors = dict[str, Tensor]


def copy_weights(model: nn.Module) -> Tensors:
    """A copy of the model's weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def update_average(average: Tensors, model: nn.Module, decay: float, step: int) -> None:
    """One step of an exponential moving average; the decay is lower at first, so that the initial weights fade."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)


@contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Gives the model other weights inside the context; None leaves its own."""
    if weights is None:
        yield
        return
    own = copy_weights(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


class Optimisers:
    """One Adam per objective, by name, created when the objective first appears.

    Args:
        learning_rate: learning rate of all.
        clip: greatest norm of each objective's gradient; 0: no limit.
        states: the result of :meth:`tensors` of a training that is resumed, else empty.
    """

    def __init__(self, learning_rate: float, clip: float, states: Mapping[str, Tensor]) -> None:
        self.learning_rate, self.clip, self.states = learning_rate, clip, dict(states)
        self.by_objective: dict[str, torch.optim.Adam] = {}

    def step(self, objective: Objective) -> None:
        """Updates the objective's own parameters, and no others."""
        optimiser = self.by_objective.get(objective.name) or self._create(objective)
        gradients = torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True)
        for parameter, gradient in zip(objective.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip:
            torch.nn.utils.clip_grad_norm_(objective.parameters, self.clip)
        optimiser.step()
        optimiser.zero_grad()

    def tensors(self) -> Tensors:
        """The optimisers' states, named "objective/parameter index/quantity"."""
        return dict(self.states) | {
            f"{name}/{index}/{quantity}": tensor
            for name, optimiser in self.by_objective.items()
            for index, state in optimiser.state_dict()["state"].items()
            for quantity, tensor in state.items()
        }

    def _create(self, objective: Objective) -> torch.optim.Adam:
        optimiser = torch.optim.Adam(objective.parameters, lr=self.learning_rate)
        for index, parameter in enumerate(objective.parameters):
            prefix = f"{objective.name}/{index}/"
            for key in [key for key in self.states if key.startswith(prefix)]:
                tensor, quantity = self.states.pop(key), key.removeprefix(prefix)
                # in the memory format of the parameter, since another one can round differently
                own = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
                optimiser.state[parameter][quantity] = own.detach().copy_(tensor)
        self.by_objective[objective.name] = optimiser
        return optimiser


@dataclass
class Progress:
    """Progress of a training, as it is saved. There is no random state: random draws are keyed by step or epoch.

    Args:
        step: steps done.
        seconds: time spent, including earlier processes.
        best: lowest validation loss; None before the first.
        waited: validations since the lowest loss.
        averages: mean terms of the current epoch.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    waited: int = 0
    averages: Averages = field(default_factory=Averages)


@dataclass(frozen=True, slots=True)
class _State:
    """The plain data of a saved training."""

    fingerprint: Mapping[str, Any]
    progress: Progress


def fingerprint_of(settings: TrainingSettings, model: Plain, data: str, supervision: str) -> dict[str, Plain]:
    """Settings, model and data that must be equal for a training to be resumed.

    Args:
        settings: settings of the training, of which all but ``CHANGEABLE`` enter.
        model: the model's name and settings.
        data, supervision: digests of the data set and of the labels.
    """
    own = {f"training: {name}": value for name, value in asdict(settings).items() if name not in CHANGEABLE}
    own |= {f"model: {name}": value for name, value in model.items()}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
    return {**plain, "data": data, "supervision": supervision}


def write_state(
    path: Path, tensors: Mapping[str, Mapping[str, Tensor]], progress: Progress, fingerprint: Plain
) -> None:
    """Writes groups of tensors, the progress and the fingerprint atomically."""
    flat = {f"{group}|{name}": tensor for group, each in tensors.items() for name, tensor in each.items()}
    write_bundle(path, flat, {"training_state": 1, "fingerprint": fingerprint, "progress": asdict(progress)})


def read_state(path: Path, fingerprint: Mapping[str, Plain]) -> tuple[dict[str, dict[str, Tensor]], Progress]:
    """Reads the groups of tensors and the progress that :func:`write_state` wrote.

    Raises:
        CheckpointError: the file is not the state of a training.
        UsageError: the fingerprint differs: other settings, model or data.
    """
    bundle = read_bundle(path)
    if "training_state" not in bundle.metadata:
        raise CheckpointError("is not the state of a training", where=str(path))
    state = read(_State, bundle.metadata, str(path), error=CheckpointError, extra=True)
    saved = state.fingerprint
    for name in dict.fromkeys([*fingerprint, *saved]):
        if saved.get(name) != fingerprint.get(name):
            before, now = str(saved.get(name)), str(fingerprint.get(name))
            raise UsageError(
                f"the saved training has a different {name}",
                where=str(path),
                why=f"{before} in the saved training, {now} now" if len(before) + len(now) < 100 else "",
                hint="Resume with the same settings, or train into another folder.",
            )
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bundle.tensors.items():
        group, _, name = key.partition("|")
        groups.setdefault(group, {})[name] = tensor
    return groups, state.progress
