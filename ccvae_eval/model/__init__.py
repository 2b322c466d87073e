"""The model interface, ``wrap`` for a model in Python, and checks of a model's return values."""

from ccvae_eval.model.interface import *  # noqa: F403 - models may import the interface from here
