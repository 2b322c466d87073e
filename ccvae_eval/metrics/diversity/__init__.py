"""The metric ``diversity``."""

from ccvae_eval.metrics.diversity.metric import Diversity as Diversity
