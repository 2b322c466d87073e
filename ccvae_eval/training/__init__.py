"""Training of any model that has objectives: ``prepare`` a model for data, then ``fit`` it and follow the events."""

from ccvae_eval.training.loop import (
    HISTORY,
    Epoch,
    Event,
    Finished,
    Saved,
    Started,
    Step,
    Validation,
    check,
    fit,
    prepare,
    record,
    take_weights,
)
from ccvae_eval.training.settings import TrainingSettings
from ccvae_eval.training.state import STATE
from ccvae_eval.training.supervision import Supervision, supervise

__all__ = [
    "HISTORY",
    "STATE",
    "Epoch",
    "Event",
    "Finished",
    "Saved",
    "Started",
    "Step",
    "Supervision",
    "TrainingSettings",
    "Validation",
    "check",
    "fit",
    "prepare",
    "record",
    "supervise",
    "take_weights",
]
