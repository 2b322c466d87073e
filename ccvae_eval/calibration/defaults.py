"""What is calibrated where nobody says otherwise; apart, so that the help of the command imports nothing heavy."""

from __future__ import annotations

EVERY = (
    "density", "locality", "drift", "diversity", "accuracy", "intervention", "reconstruction", "generation",
    "disentanglement",
)  # fmt: skip
SAMPLE = 64
"""Images for the metrics that decode. Those that only look at codes, which cost nothing, get more."""
STEPS = 11
