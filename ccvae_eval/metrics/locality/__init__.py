"""The metric ``locality``."""

from ccvae_eval.metrics.locality.metric import Locality as Locality
