"""What a training tells whoever iterates over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
