"""The state of a training on disk: enough to go on to the same weights after a kill at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.errors import CheckpointError, UsageError
from ccvae_eval.training.history import Averages
from ccvae_eval.training.settings import BUDGET, TrainingSettings
from ccvae_eval.types import Plain

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
