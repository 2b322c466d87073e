"""Where the factors of drawn data lie, so that they survive the way through float32 codes exactly."""

from __future__ import annotations

import numpy as np

from ccvae_eval.core.types import Floats

LATTICE = 2**20
"""Steps of a factor from 0 to 1: each is far below what a pixel can show, and far above float32's rounding."""


def on_lattice(values: Floats) -> Floats:
    """Factors in [0, 1], each moved to the middle of its step; those outside go to the nearest step.

    >>> (on_lattice(np.array([0.0, 0.25, 1.0])) * LATTICE).tolist()
    [0.5, 262144.5, 1048575.5]
    """
    return (np.clip(np.floor(values * LATTICE), 0, LATTICE - 1) + 0.5) / LATTICE
