"""Random numbers that belong to an image, not to a moment.

A draw is keyed by (seed, purpose, image id), so that it is the same whatever was drawn before it, in whatever
batch, order or process. Nothing here or above touches a global generator.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def stream_key(seed: int, purpose: str, identity: int | str = "") -> int:
    """A 63-bit key for one stream of random numbers.

    >>> stream_key(0, "posterior", 7) == stream_key(0, "posterior", 7)
    True
    >>> stream_key(0, "posterior", 7) == stream_key(0, "posterior", 8)
    False
    """
    digest = blake2b(f"{seed}/{purpose}/{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_stream(seed: int, purpose: str, identity: int | str = "") -> torch.Generator:
    """A torch generator of its own for one purpose."""
    return torch.Generator().manual_seed(stream_key(seed, purpose, identity))


def numpy_stream(seed: int, purpose: str, identity: int | str = "") -> np.random.Generator:
    """A NumPy generator of its own for one purpose."""
    return np.random.Generator(np.random.Philox(stream_key(seed, purpose, identity)))


def normals(seed: int, purpose: str, ids: Iterable[int], size: int) -> Tensor:
    r"""Standard normal draws, one row for each image id, shape :math:`(N, size)`, float32."""
    generator = torch.Generator()
    rows = [torch.randn(size, generator=generator.manual_seed(stream_key(seed, purpose, int(i)))) for i in ids]
    return torch.stack(rows) if rows else torch.empty(0, size)


def uniforms(seed: int, purpose: str, ids: Iterable[int], size: int) -> NDArray[np.float64]:
    r"""Uniform draws in [0, 1), one row for each image id, shape :math:`(N, size)`."""
    rows = [numpy_stream(seed, purpose, int(i)).random(size) for i in ids]
    return np.stack(rows) if rows else np.empty((0, size))
