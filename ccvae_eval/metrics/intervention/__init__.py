"""The metric ``intervention``."""

from ccvae_eval.metrics.intervention.metric import Interventions as Interventions
