"""The metric ``locality``."""

from ccvae_eval.metrics.locality.settings import Locality as Locality
