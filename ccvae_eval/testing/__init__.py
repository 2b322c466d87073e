"""Conformance suite for models, data sets, metrics and their parts: functions that raise ``ContractBroken``."""

from ccvae_eval.core.errors import ContractBroken
from ccvae_eval.testing.data import check_data_set
from ccvae_eval.testing.metric_fixtures import MetricFixture
from ccvae_eval.testing.metrics import check_features, check_matcher, check_metric
from ccvae_eval.testing.models import check_model

__all__ = [
    "ContractBroken",
    "MetricFixture",
    "check_data_set",
    "check_features",
    "check_matcher",
    "check_metric",
    "check_model",
]
