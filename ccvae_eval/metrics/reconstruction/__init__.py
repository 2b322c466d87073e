"""The metric ``reconstruction``."""

from ccvae_eval.metrics.reconstruction.metric import Reconstruction as Reconstruction
