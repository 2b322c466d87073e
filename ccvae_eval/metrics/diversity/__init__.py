"""The metric ``diversity``: variation of a characteristic's appearance within one class."""

from ccvae_eval.metrics.diversity.settings import Diversity as Diversity
