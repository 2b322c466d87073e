"""One BLAS thread, so that a sum is equal in every bit however many threads the process may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  (SciPy brings a BLAS of its own, which the controller must find loaded)
from threadpoolctl import ThreadpoolController

from ccvae_eval.core.types import Floats


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

    BLAS chooses its kernels by the shape, so columns are multiplied one by one: of two columns, as most estimates have,
    that takes a fifth of the time of a matrix product, of dozens as long.

    Args:
        values: shape :math:`(N, C)`.
        weights: shape :math:`(N, B)`.

    Returns:
        shape :math:`(C, B)`.
    """
    columns = np.ascontiguousarray(values.T)
    with one_thread():
        products = [column @ weights for column in columns]
    return np.stack(products) if products else np.empty((0, weights.shape[1]))
