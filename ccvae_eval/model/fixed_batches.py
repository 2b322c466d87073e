"""Canonical chunks: a network only ever sees 32 rows at a time, the last ones padded and cut.

So no number depends on how many rows are in flight. Measured: float32 convolutions over 32 to 512 rows are equal in
every bit, over 1 and 7 they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ccvae_eval.core.types import Gaussian

CHUNK = 32
"""Rows of one network call."""


def padded(rows: Tensor, size: int = CHUNK) -> Tensor:
    """The rows, filled up to a whole chunk by repeating the last one."""
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def in_chunks(call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Applies a network to any number of rows, 32 at a time."""
    parts = [call(padded(part))[: len(part)] for part in torch.split(rows, CHUNK)]
    # a copy of a single chunk would cost a hundredth of its decoding
    return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else call(rows)


def cut(value: Tensor | Gaussian, size: int) -> Tensor | Gaussian:
    """The first rows of what a network gave for a padded chunk, on the CPU."""
    if isinstance(value, Gaussian):
        return Gaussian(value.loc[:size].cpu(), value.scale[:size].cpu())
    return value[:size].cpu()


def joined(parts: Sequence[Tensor | Gaussian]) -> Tensor | Gaussian:
    """What a network gave chunk by chunk, all of one kind, as a whole."""
    gaussians = [part for part in parts if isinstance(part, Gaussian)]
    if gaussians:
        return Gaussian(torch.cat([g.loc for g in gaussians]), torch.cat([g.scale for g in gaussians]))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])
