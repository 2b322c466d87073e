"""Training of any model that has objectives: ``prepare`` a model for data, then ``fit`` it and follow the events."""

from ccvae_eval.training.events import Epoch, Event, Finished, Saved, Started, Step, Validation
from ccvae_eval.training.loop import HISTORY, check, fit
from ccvae_eval.training.prepare import prepare, record, take_weights
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
