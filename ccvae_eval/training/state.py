"""The state of a training on disk: enough to go on to the same weights after a kill at any moment.

Weights set aside: moving averages, the best so far, and optimisers' states as flat tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import Objective
from ccvae_eval.training.history import Averages
from ccvae_eval.training.settings import BUDGET, TrainingSettings

Tensors = dict[str, Tensor]


def copied(model: nn.Module) -> Tensors:
    """The model's weights and buffers as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def follow(average: Tensors, model: nn.Module, decay: float, step: int) -> None:
    """Moves an exponential average one step; early steps count more, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)


@contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model with other weights for a while; as it was with None."""
    if weights is None:
        yield
        return
    own = copied(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


class Optimisers:
    """One Adam for each objective's name, made when the objective first appears.

    Args:
        learning_rate: of all.
        clip: greatest norm of each objective's gradient, 0 for no limit.
        states: what :meth:`tensors` gave, of a training that goes on.
    """

    def __init__(self, learning_rate: float, clip: float, states: Mapping[str, Tensor]) -> None:
        self.learning_rate, self.clip, self.states = learning_rate, clip, dict(states)
        self.each: dict[str, torch.optim.Adam] = {}

    def step(self, objective: Objective) -> None:
        """Moves the objective's own parameters down its gradient, and no others."""
        optimiser = self.each.get(objective.name) or self._made(objective)
        gradients = torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True)
        for parameter, gradient in zip(objective.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip:
            torch.nn.utils.clip_grad_norm_(objective.parameters, self.clip)
        optimiser.step()
        optimiser.zero_grad()

    def tensors(self) -> Tensors:
        """The states, by "objective/parameter/quantity"."""
        return dict(self.states) | {
            f"{name}/{index}/{quantity}": tensor
            for name, optimiser in self.each.items()
            for index, state in optimiser.state_dict()["state"].items()
            for quantity, tensor in state.items()
        }

    def _made(self, objective: Objective) -> torch.optim.Adam:
        optimiser = torch.optim.Adam(objective.parameters, lr=self.learning_rate)
        for index, parameter in enumerate(objective.parameters):
            prefix = f"{objective.name}/{index}/"
            for key in [key for key in self.states if key.startswith(prefix)]:
                tensor, quantity = self.states.pop(key), key.removeprefix(prefix)
                # in the parameter's own memory order: another one can round differently
                own = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
                optimiser.state[parameter][quantity] = own.detach().copy_(tensor)
        self.each[objective.name] = optimiser
        return optimiser


STATE = "training.pt"
"""Name of the file in the training's folder."""


@dataclass
class Progress:
    """How far a training is. Everything that is drawn is keyed by the step or the epoch: there is no random state.

    Args:
        step: steps done.
        seconds: time spent, earlier processes included.
        best: lowest validation loss.
        waited: validations since then.
        averages: of the epoch that is under way.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    waited: int = 0
    averages: Averages = field(default_factory=Averages)

    def as_plain(self) -> dict[str, Plain]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best if self.best < float("inf") else None,
            "waited": self.waited,
            "averages": self.averages.as_plain(),
        }

    @classmethod
    def from_plain(cls, plain: Plain) -> Progress:
        best = float("inf") if plain["best"] is None else float(plain["best"])
        averages = Averages.from_plain(plain["averages"])
        return cls(int(plain["step"]), float(plain["seconds"]), best, int(plain["waited"]), averages)


def fingerprint(settings: TrainingSettings, model: Plain, data: str, supervision: str) -> dict[str, Plain]:
    """What must be the same for a training to go on: not when it stops, but where it goes."""
    own = {name: value for name, value in asdict(settings).items() if name not in BUDGET}
    return {**_flat("training", own), **_flat("model", model), "data": data, "supervision": supervision}


def _flat(prefix: str, plain: Mapping[str, Any]) -> dict[str, Plain]:
    return {f"{prefix}: {name}": list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def write_state(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], progress: Progress, mark: Plain) -> None:
    """Writes groups of tensors and the progress, replacing the file in one step."""
    flat = {f"{group}|{name}": tensor for group, each in tensors.items() for name, tensor in each.items()}
    write_bundle(path, flat, {"training_state": 1, "fingerprint": mark, "progress": progress.as_plain()})


def read_state(path: Path, mark: Mapping[str, Plain]) -> tuple[dict[str, dict[str, Tensor]], Progress]:
    """Reads what :func:`write_state` wrote.

    Raises:
        CheckpointError: the file is no state of a training.
        UsageError: it is the state of a training with other settings or data.
    """
    bundle = read_bundle(path)
    try:
        theirs, progress = dict(bundle.metadata["fingerprint"]), Progress.from_plain(bundle.metadata["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError("not the state of a training", where=str(path), why=repr(error)) from None
    for name in dict.fromkeys([*mark, *theirs]):
        if theirs.get(name) != mark.get(name):
            there, now = str(theirs.get(name)), str(mark.get(name))
            raise UsageError(
                f"the saved training has another {name}",
                where=str(path),
                why=f"{there} there, {now} now" if len(there) + len(now) < 100 else "",
                hint="Resume with the same settings, or train into another folder.",
            )
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bundle.tensors.items():
        group, _, name = key.partition("|")
        groups.setdefault(group, {})[name] = tensor
    return groups, progress
