"""Fixed batches: a network always sees 32 rows; the last batch is padded and its output truncated.

Float32 convolutions over few rows can differ in the last bit from those over many, so a fixed size makes every number
independent of the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ccvae_eval.core.types import Gaussian

FIXED_BATCH = 32
"""Rows of each call of a network."""


def padded(rows: Tensor, size: int = FIXED_BATCH) -> Tensor:
    """Returns the rows, padded to a full batch by repeating the last one."""
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def in_fixed_batches(call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Applies a network to any number of rows in fixed batches."""
    parts = [call(padded(part))[: len(part)] for part in torch.split(rows, FIXED_BATCH)]
    return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else call(rows)  # avoids copying a single batch


def unpadded(value: Tensor | Gaussian, size: int) -> Tensor | Gaussian:
    """Returns the first ``size`` rows of the output for a padded batch, on the CPU."""
    if isinstance(value, Gaussian):
        return Gaussian(value.loc[:size].cpu(), value.scale[:size].cpu())
    return value[:size].cpu()


def concatenated(parts: Sequence[Tensor | Gaussian]) -> Tensor | Gaussian:
    """Concatenates the outputs of batches: all tensors, or all Gaussians."""
    gaussians = [part for part in parts if isinstance(part, Gaussian)]
    if gaussians:
        return Gaussian(torch.cat([g.loc for g in gaussians]), torch.cat([g.scale for g in gaussians]))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])
