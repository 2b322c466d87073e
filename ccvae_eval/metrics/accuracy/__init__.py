"""The metric ``accuracy``."""

from ccvae_eval.metrics.accuracy.metric import Accuracy as Accuracy
