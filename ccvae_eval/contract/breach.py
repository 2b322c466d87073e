"""How a broken contract is reported."""

from __future__ import annotations


class ContractBroken(AssertionError):
    """A model, data set or metric does not keep what its protocol says. The message names who, and what to keep."""


def require(kept: bool, who: str, what: str) -> None:
    """Raises unless the contract is kept.

    >>> require(True, "density", "has a docstring")
    >>> require(False, "density", "has a docstring")
    Traceback (most recent call last):
    ...
    ccvae_eval.contract.breach.ContractBroken: density: broken contract: has a docstring
    """
    if not kept:
        raise ContractBroken(f"{who}: broken contract: {what}")
