"""The metric ``drift``."""

from ccvae_eval.metrics.drift.metric import Drift as Drift
