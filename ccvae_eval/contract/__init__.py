"""What every model, data set and metric must keep, ours or a stranger's: functions that raise ``ContractBroken``."""

from ccvae_eval.contract.breach import ContractBroken
from ccvae_eval.contract.data import check_data_set
from ccvae_eval.contract.features import check_features
from ccvae_eval.contract.matchers import check_matcher
from ccvae_eval.contract.metrics import check_metric
from ccvae_eval.contract.models import check_model
from ccvae_eval.contract.specimens import Specimen

__all__ = [
    "ContractBroken", "Specimen", "check_data_set", "check_features", "check_matcher", "check_metric", "check_model",
]  # fmt: skip
