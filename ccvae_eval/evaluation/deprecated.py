"""Methods of version 0.1 that metrics of plugins may use or define: they work, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ccvae_eval.core.results import Measurement
from ccvae_eval.statistics.resampling import ResampleWeights

if TYPE_CHECKING:
    from ccvae_eval.evaluation.metric import Accumulator, Decoded


def deprecated_method(old: str, new: str) -> Callable[..., Any]:
    """A method ``old`` that warns and calls the method ``new`` of the same object."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        kind = type(self).__name__
        warnings.warn(f"{kind}.{old} is deprecated, use {kind}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)(*args, **kwargs)

    method.__name__, method.__doc__ = old, f"Deprecated: use ``{new}``."
    return method


def as_accumulator(accumulator: Any) -> Accumulator:
    """The accumulator; one with the methods ``see`` and ``finish`` of version 0.1 is wrapped."""
    if hasattr(accumulator, "update") or not hasattr(accumulator, "see"):
        found: Accumulator = accumulator
        return found
    kind = type(accumulator).__name__
    warnings.warn(
        f"{kind}.see and {kind}.finish are deprecated, call them update and compute", DeprecationWarning, stacklevel=2
    )
    return _SeeFinish(accumulator)


class _SeeFinish:
    """An accumulator of version 0.1 with the current method names."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def update(self, batch: Decoded) -> None:
        self.inner.see(batch)

    def compute(self, weights: ResampleWeights) -> Measurement:
        found: Measurement = self.inner.finish(weights)
        return found
