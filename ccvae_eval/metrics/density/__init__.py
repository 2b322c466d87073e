"""The metric ``density``: information about each label in its own and in other latent dimensions."""

from ccvae_eval.metrics.density.settings import Density as Density
