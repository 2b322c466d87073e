"""The metric ``accuracy``: quality and calibration of label predictions."""

from ccvae_eval.metrics.accuracy.settings import Accuracy as Accuracy
