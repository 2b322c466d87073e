"""The metric ``reconstruction``."""

from ccvae_eval.metrics.reconstruction.settings import Reconstruction as Reconstruction
