"""Small models of points in float64, for independent computation of every term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import Batch, Label, LabelSchema, ModelContext, Objective

NAN = math.nan
HAIR = Label("Hair", "categorical", ("Black", "Blond", "Brown"))
SCHEMA = LabelSchema((Label("Glasses"), HAIR, Label("Smile")))
PRIOR = ((0.75, 0.25), (0.5, 0.125, 0.375), (0.375, 0.625))
COMPLETE = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
PARTLY = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN], [NAN, 1.0, NAN]])
EVERY = torch.cat([COMPLETE, PARTLY])
"""Labels of five images; the fourth has none."""


def small(kind: Any, labels: LabelSchema = SCHEMA, prior: Sequence[Sequence[float]] = PRIOR, **options: Plain) -> Any:
    """A model of points in four dimensions, in float64, with perturbed parameters."""
    context = ModelContext(labels, (4,), tuple(tuple(p) for p in prior))
    model = kind.from_settings({"hidden": 6, **options}, context).double()
    generator = torch_stream(3, "small")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def points(rows: int, dimensions: int = 4) -> Tensor:
    return torch.randn(rows, dimensions, generator=torch_stream(5, "points"), dtype=torch.float64)


def batch_of(x: Tensor, y: Tensor) -> Batch:
    return Batch(x, y.to(x), np.arange(len(x)))


def stepped(model: Any, batch: Batch, seed: int = 0) -> list[Objective]:
    """All objectives of a batch, without optimiser steps in between."""
    return list(model.objectives(batch, torch_stream(seed, "objectives")))


def narrow(model: Any, *heads: nn.Linear) -> None:
    """Shrink the posterior's standard deviation to 1e-3, so that a sample is nearly its mean."""
    with torch.no_grad():
        for head in heads:
            head.weight.zero_()
            head.bias.fill_(-50.0)


def moved(objective: Objective, model: nn.Module) -> set[str]:
    """Names of an objective's parameters that get a nonzero gradient."""
    gradients = torch.autograd.grad(objective.loss, objective.parameters, allow_unused=True, retain_graph=True)
    own = {
        id(p) for p, g in zip(objective.parameters, gradients, strict=True) if g is not None and bool((g != 0).any())
    }
    return {name for name, p in model.named_parameters() if id(p) in own}


def agree(one: Tensor, other: Tensor, deviations: float = 4.0) -> bool:
    """True if the means of two tables of independent rounds, of shape (R, P), agree within standard errors."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return bool(((one.mean(0) - other.mean(0)).abs() <= deviations * error + 1e-12).all())
