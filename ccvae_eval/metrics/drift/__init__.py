"""The metric ``drift``: displacement outside a characteristic's region when it is changed."""

from ccvae_eval.metrics.drift.settings import Drift as Drift
