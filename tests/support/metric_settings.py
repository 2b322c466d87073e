"""Settings of the built-in metrics for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAST: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {},
    "density": {"curve_draws": 50, "permutations": 2},
    "disentanglement": {"every": True, "draws": 50, "shuffles": 5, "votes": 200, "fits": 1, "leaves": 32},
    "diversity": {},
    "drift": {},
    "generation": {"neighbour_images": 200, "asked_images": 32},
    "intervention": {
        "repeats": (1, 2),
        "axiom_images": 32,
        "draws": 2,
        "rendered": 32,
        "assign": "Glasses=1,Smile=0",
        "features": "edges",
        "feature_images": 64,
    },
    "locality": {"steps": 5},
    "measurement": {},
    "reconstruction": {"importance": 2, "draws": 4},
}
"""Settings that make each built-in metric fast. A built-in metric that is missing here fails the suite."""
