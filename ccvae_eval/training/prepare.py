"""An untrained model for some data, by its registered name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ccvae_eval.data.contract import DataSet
from ccvae_eval.errors import UsageError
from ccvae_eval.model import ModelContext, Rebuildable
from ccvae_eval.registry import models
from ccvae_eval.training.events import Finished
from ccvae_eval.training.loop import check
from ccvae_eval.training.settings import TrainingSettings
from ccvae_eval.training.supervision import Supervision, supervise
from ccvae_eval.types import Plain


def prepare(
    name: str, options: Mapping[str, Plain], data: DataSet, settings: TrainingSettings
) -> tuple[nn.Module, Supervision]:
    """Builds a registered model for a data set, with p(y) from the labels that the training will show.

    Args:
        name: the model's name, plain or "distribution:name".
        options: the model's settings by name, as values or as text.
        data: what it will be trained on.
        settings: how; labels, rate, noise and seed decide what the model is built for.

    Raises:
        UsageError: unknown name or settings, or settings that do not go with the data.
        DataError: there is nothing to learn from.
    """
    kind: Any = models[name]
    schema = data.schema.select(settings.labels) if settings.labels else data.schema
    supervision = supervise(data, schema, settings)
    context = ModelContext(schema, tuple(data.input_shape), supervision.label_prior)
    model = kind.from_settings(options, context, settings.seed)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} cannot be trained here", hint="It is no torch.nn.Module.")
    check(model, data, settings)
    return model, supervision


def take_weights(model: nn.Module, theirs: Mapping[str, Tensor]) -> int:
    """Copies the tensors whose names and shapes the model has too; returns how many."""
    mine = model.state_dict()
    shared = {name: tensor for name, tensor in theirs.items() if name in mine and mine[name].shape == tensor.shape}
    model.load_state_dict(shared, strict=False)
    return len(shared)


def record(
    model: Rebuildable, data: DataSet, settings: TrainingSettings, supervision: Supervision, last: Finished
) -> dict[str, Plain]:
    """What a checkpoint says about its training: seed, rate, how long, and which images were seen, but no path."""
    return {
        "seed": settings.seed,
        "rate": settings.rate,
        "label_noise": settings.label_noise,
        "epochs": last.epoch + 1,
        "steps": last.step,
        "ended": last.reason,
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
        "images": len(supervision.train),
        "labelled": int(supervision.labelled.sum()),
        "supervision": supervision.digest,
        "data": data.digest,
        "model": type(model).__name__.lower(),
    }
