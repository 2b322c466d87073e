"""Calibration: the response of every value to perturbed models.

Defaults of a calibration, in a module without heavy imports for the command's help.
"""

from __future__ import annotations

from ccvae_eval.evaluation.metric import builtin_metrics

CALIBRATED_METRICS = builtin_metrics()
SAMPLE = 64
"""Images for metrics that decode; metrics of codes get more."""
STEPS = 11
