"""Codes of two labels with known distributions, and the density metric on them."""

from __future__ import annotations

import numpy as np
import torch

from ccvae_eval.evaluation.runner import measure
from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.model.interface import LatentLayout, binary_schema

QUICK = Density(curve_draws=100, permutations=5)


def measured(subject, metric=QUICK):
    found = measure(subject, [metric])
    assert found.measurements[0].status == "ok", found.measurements[0].reason
    return found


def value(run, name, characteristic=None, **at):
    (found,) = (v for v in run.measurements[0].values if (v.name, v.characteristic, v.at) == (name, characteristic, at))
    return found


def two_labels(n=3000, shift=2.0, leak=0.0, seed=0):
    """Four latent dimensions: of a, of b (each shifted by its label; b leaks into that of a), and two of style."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < [0.4, 0.5]).astype(np.float32)
    codes = rng.standard_normal((n, 4))
    codes[:, :2] += shift * labels
    codes[:, 0] += leak * labels[:, 1]
    return torch.from_numpy(codes), torch.from_numpy(labels)


SCHEMA = binary_schema("a", "b")
LAYOUT = LatentLayout(4, {"a": (0,), "b": (1,)})
