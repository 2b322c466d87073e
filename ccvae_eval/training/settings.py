"""How to train: every number that moves the result is a field here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ccvae_eval.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of one training.

    Args:
        epochs: passes over the training images.
        steps: steps instead of epochs, if not 0.
        minutes: stop after this long, if not 0; what was reached by then depends on the machine.
        batch: images in one step.
        rate: f, the share of the training images whose labels are shown; a seeded choice, nested over rates.
        labels: which of the data's labels to learn from; empty for all.
        label_noise: share of the shown labels that are replaced by another class, drawn evenly.
        learning_rate: Adam's.
        seed: of everything that is drawn: weights, choice of labels, order, samples.
        validation: share of the train split that is held out; its labels are all used, to validate.
        validate_every: epochs between validations.
        patience: validations without a better loss before training stops and goes back to the best weights; 0: never.
        clip: greatest norm of a gradient; 0: no limit.
        average: decay of an exponential moving average of the weights, which is then what is kept; 0: none.
        save_minutes: minutes between saved states.
        cache_megabytes: memory for images that were read or rendered once.
    """

    epochs: int = 20
    steps: int = 0
    minutes: float = 0.0
    batch: int = 128
    rate: float = 1.0
    labels: tuple[str, ...] = ()
    label_noise: float = 0.0
    learning_rate: float = 1e-3
    seed: int = 0
    validation: float = 0.05
    validate_every: int = 1
    patience: int = 0
    clip: float = 0.0
    average: float = 0.0
    save_minutes: float = 5.0
    cache_megabytes: int = 2048

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1, math.inf),
            "steps": (0, math.inf),
            "minutes": (0, math.inf),
            "batch": (1, math.inf),
            "rate": (0, 1),
            "label_noise": (0, 1),
            "validate_every": (1, math.inf),
            "patience": (0, math.inf),
            "clip": (0, math.inf),
            "save_minutes": (0, math.inf),
            "cache_megabytes": (0, math.inf),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{value} is outside {low:g} to {high:g}", where=f"training: {name}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"{self.learning_rate} is not a positive number", where="training: learning_rate")
        for name in ("validation", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{getattr(self, name)} is outside [0, 1)", where=f"training: {name}")
        if self.patience and not self.validation:
            raise UsageError("patience needs a validation part", where="training: patience", hint="validation=0.05")


BUDGET = frozenset({"epochs", "steps", "minutes", "patience", "save_minutes", "cache_megabytes"})
"""The settings that a resumed training may change: they say when to stop, not where to go."""
