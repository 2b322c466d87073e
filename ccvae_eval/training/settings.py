"""Settings of a training and their ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ccvae_eval.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of one training.

    Args:
        epochs: passes over the training images.
        steps: number of steps instead of epochs; 0: epochs.
        minutes: stop after this time, which makes the result depend on the machine; 0: no limit.
        batch: images per step.
        rate: supervision rate f, the share of training images with labels; a seeded choice, nested over rates.
        labels: names of the labels to learn from; empty: all labels of the data.
        label_noise: share of the labels that are replaced by another class, drawn uniformly.
        learning_rate: learning rate of Adam.
        seed: seed of the weights, the labelled images, the order of images and the samples.
        validation: share of the train split for validation, with all its labels.
        validate_every: epochs between validations.
        patience: validations without a lower loss before training stops and returns to the best weights; 0: never.
        clip: greatest norm of a gradient; 0: no limit.
        average: decay of an exponential moving average of the weights, which becomes the result; 0: no average.
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
        minimums = {
            "epochs": 1, "steps": 0, "minutes": 0, "batch": 1, "validate_every": 1, "patience": 0, "clip": 0,
            "save_minutes": 0, "cache_megabytes": 0,
        }  # fmt: skip
        for name, low in minimums.items():
            value = getattr(self, name)
            if not low <= value <= math.inf:
                raise UsageError(f"{name} must be at least {low}, got {value}", where="training")
        for name in ("rate", "label_noise"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"{name} must be 0 to 1, got {value}", where="training")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate must be a positive number, got {self.learning_rate}", where="training")
        for name in ("validation", "average"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UsageError(f"{name} must be at least 0 and below 1, got {value}", where="training")
        if self.patience and not self.validation:
            raise UsageError("patience needs validation images", where="training", hint="validation=0.05")


CHANGEABLE = frozenset({"epochs", "steps", "minutes", "patience", "save_minutes", "cache_megabytes"})
"""Settings that may change when a training is resumed: they decide when it stops, not its weights at a given step."""
