"""Settings of a training and their ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import Range, check


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

    epochs: Annotated[int, Range(least=1)] = 20
    steps: Annotated[int, Range(least=0)] = 0
    minutes: Annotated[float, Range(least=0)] = 0.0
    batch: Annotated[int, Range(least=1)] = 128
    rate: Annotated[float, Range(least=0, most=1)] = 1.0
    labels: tuple[str, ...] = ()
    label_noise: Annotated[float, Range(least=0, most=1)] = 0.0
    learning_rate: Annotated[float, Range(above=0, below=math.inf)] = 1e-3
    seed: int = 0
    validation: Annotated[float, Range(least=0, below=1)] = 0.05
    validate_every: Annotated[int, Range(least=1)] = 1
    patience: Annotated[int, Range(least=0)] = 0
    clip: Annotated[float, Range(least=0)] = 0.0
    average: Annotated[float, Range(least=0, below=1)] = 0.0
    save_minutes: Annotated[float, Range(least=0)] = 5.0
    cache_megabytes: Annotated[int, Range(least=0)] = 2048

    def __post_init__(self) -> None:
        check(self, "training")
        if self.patience and not self.validation:
            raise UsageError("patience needs validation images", where="training", hint="validation=0.05")


CHANGEABLE = frozenset({"epochs", "steps", "minutes", "patience", "save_minutes", "cache_megabytes"})
"""Settings that may change when a training is resumed: they decide when it stops, not its weights at a given step."""
