"""Random streams keyed by (seed, purpose, image id).

A draw depends on its key alone, not on earlier draws, the batch, the order of images or the process. The toolkit never
uses a global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.types import Ids


def stream_key(seed: int, purpose: str, identity: int | str = "") -> int:
    """Returns the 63-bit seed of one random stream.

    >>> stream_key(0, "posterior", 7) == stream_key(0, "posterior", 7)
    True
    >>> stream_key(0, "posterior", 7) == stream_key(0, "posterior", 8)
    False
    """
    digest = blake2b(f"{seed}/{purpose}/{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_stream(seed: int, purpose: str, identity: int | str = "") -> torch.Generator:
    """Returns the torch generator of one random stream."""
    return torch.Generator().manual_seed(stream_key(seed, purpose, identity))


def numpy_stream(seed: int, purpose: str, identity: int | str = "") -> np.random.Generator:
    """Returns the NumPy generator of one random stream."""
    return np.random.Generator(np.random.Philox(stream_key(seed, purpose, identity)))


def normals(seed: int, purpose: str, ids: Sequence[int] | Ids, size: int) -> Tensor:
    r"""Returns standard normal draws, one row for each image id, shape :math:`(N, size)`, float32."""
    generator, draws = torch.Generator(), torch.empty(len(ids), size)
    for row, i in enumerate(ids):
        torch.randn(size, generator=generator.manual_seed(stream_key(seed, purpose, int(i))), out=draws[row])
    return draws


def uniforms(seed: int, purpose: str, ids: Sequence[int] | Ids, size: int) -> NDArray[np.float64]:
    r"""Returns uniform draws in [0, 1), one row for each image id, shape :math:`(N, size)`, float64."""
    draws = np.empty((len(ids), size))
    for row, i in zip(draws, ids, strict=True):
        numpy_stream(seed, purpose, int(i)).random(out=row)
    return draws
