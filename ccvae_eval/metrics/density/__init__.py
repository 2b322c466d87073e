"""The metric ``density``."""

from ccvae_eval.metrics.density.metric import Density as Density
