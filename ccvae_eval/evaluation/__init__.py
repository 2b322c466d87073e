"""Evaluation of a model on a data set: subject, interventions, metrics, the pass over the images, and the run."""

from typing import TYPE_CHECKING

from ccvae_eval._moved import moved_names

if not TYPE_CHECKING:
    # version 0.1 had a module ccvae_eval.evaluation
    __getattr__ = moved_names(__name__, "api", ("data_of", "evaluate", "load", "metric_named"))
