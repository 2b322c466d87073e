"""The metric ``intervention``."""

from ccvae_eval.metrics.intervention.settings import Interventions as Interventions
