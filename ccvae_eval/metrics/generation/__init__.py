"""The metric ``generation``."""

from ccvae_eval.metrics.generation.metric import Generation as Generation
