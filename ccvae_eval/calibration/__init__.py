"""Models whose disentanglement is known: the oracle, and what every value reaches on it."""

from ccvae_eval.calibration.oracle import Oracle, oracle
from ccvae_eval.calibration.references import oracle_reference, with_references

__all__ = ["Oracle", "oracle", "oracle_reference", "with_references"]
