"""The metric ``generation``."""

from ccvae_eval.metrics.generation.settings import Generation as Generation
