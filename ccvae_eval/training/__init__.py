"""Training of any model with objectives: ``prepare`` builds a model for data, ``fit`` trains it and yields events."""

from typing import TYPE_CHECKING

from ccvae_eval.core import names_on_demand
from ccvae_eval.training.settings import TrainingSettings

if TYPE_CHECKING:
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
    from ccvae_eval.training.state import STATE
    from ccvae_eval.training.supervision import Supervision, supervise

__all__ = [
    "HISTORY", "STATE", "Epoch", "Event", "Finished", "Saved", "Started", "Step", "Supervision", "TrainingSettings",
    "Validation", "check", "fit", "prepare", "record", "supervise", "take_weights",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = names_on_demand(
        __name__,
        {"state": ["STATE"], "supervision": ["Supervision", "supervise"], "loop": __all__},
    )
