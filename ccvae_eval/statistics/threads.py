"""One BLAS thread, so that a sum is equal in every bit however many threads the process may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  (SciPy brings a BLAS of its own, which the controller must find loaded)
from threadpoolctl import ThreadpoolController

from ccvae_eval.types import Floats

STRIDE = 8


@cache
def _controller() -> Any:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products inside run on one thread; costs 10 us."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


def column_products(values: Floats, weights: Floats) -> Floats:
    r"""``values.T @ weights``, where each row of the result has the same bits whatever the other columns are.

    BLAS chooses its kernels by the shape, so columns are multiplied eight at a time, the last ones padded.

    Args:
        values: shape :math:`(N, C)`.
        weights: shape :math:`(N, B)`.

    Returns:
        shape :math:`(C, B)`.
    """
    columns = values.shape[1]
    padded = np.zeros((-(-columns // STRIDE) * STRIDE, len(values)))
    padded[:columns] = values.T
    with one_thread():
        parts = [padded[first : first + STRIDE] @ weights for first in range(0, len(padded), STRIDE)]
    return np.concatenate(parts)[:columns] if parts else np.empty((0, weights.shape[1]))
