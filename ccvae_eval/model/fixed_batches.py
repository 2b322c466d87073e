"""Fixed batches: a network always sees the same number of rows; the last batch is padded and its output truncated.

Float32 convolutions over few rows can differ in the last bit from those over many. A fixed number of rows makes every
value independent of ``--batch-size``. It depends on the kind of device, because 32 rows would leave a GPU idle, and on
the size of an image, because 512 large images would not fit into its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from ccvae_eval.core.large_arrays import MAX_IN_MEMORY, mapped_array
from ccvae_eval.core.types import Codes, Gaussian, Ids, Images

FIXED_BATCH = 32
"""Rows of each call of a network, except on CUDA."""

CUDA_BATCH = 512
"""Rows of each call of a network on CUDA, for images of up to 64 x 64 pixels; fewer for larger ones."""

CUDA_NUMBERS = CUDA_BATCH * 3 * 64 * 64
"""Most numbers in the images of a batch on CUDA, unless ``FIXED_BATCH`` images have more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed batch of a subject's images.

    Args:
        rows: their range among the subject's images.
        ids: their ids in the data set.
        images: inputs of the encoder, on the subject's device.
        posterior: q(z|x) of each image.
        codes: posterior sample of each image, shared by all metrics.
    """

    rows: slice
    ids: Ids
    images: Images
    posterior: Gaussian
    codes: Codes

    def __len__(self) -> int:
        return len(self.ids)

    def within(self, limit: int) -> Chunk | None:
        """The part of this batch that is among the subject's first ``limit`` images; None if there is none.

        The limit is rounded up to a multiple of 32, as many images as a batch has on a CPU, so that every device
        measures the same images.
        """
        count = -(-limit // FIXED_BATCH) * FIXED_BATCH - self.rows.start
        if count <= 0:
            return None
        if count >= len(self):
            return self
        first = slice(0, count)
        rows = slice(self.rows.start, self.rows.start + count)
        return Chunk(rows, self.ids[first], self.images[first], self.posterior.rows(first), self.codes[first])


def fixed_batch(device: torch.device, shape: Sequence[int]) -> int:
    """Rows of each call of a network.

    Args:
        device: device of the network.
        shape: shape of an image or a point.

    Returns:
        32, and on CUDA the power of two from 32 to 512 whose images have at most ``CUDA_NUMBERS`` numbers.

    >>> cuda = torch.device("cuda")
    >>> fixed_batch(torch.device("cpu"), (3, 64, 64)), fixed_batch(cuda, (3, 64, 64)), fixed_batch(cuda, (3, 128, 128))
    (32, 512, 128)
    """
    if device.type != "cuda":
        return FIXED_BATCH
    fitting = max(CUDA_NUMBERS // math.prod(shape), 1)
    return min(max(1 << fitting.bit_length() - 1, FIXED_BATCH), CUDA_BATCH)


def whole_batches(count: int, batch: int) -> int:
    """The largest multiple of ``batch`` that is at most ``count``; at least one batch."""
    return max(count // batch, 1) * batch


def padded(rows: Tensor, size: int = FIXED_BATCH) -> Tensor:
    """Returns the rows, padded to a batch of ``size`` rows by repeating the last one."""
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def in_fixed_batches(call: Callable[[Tensor], Tensor], rows: Tensor, size: int = FIXED_BATCH) -> Tensor:
    """Applies a network to any number of rows in batches of ``size`` rows."""
    parts = [call(padded(part, size))[: len(part)] for part in torch.split(rows, size)]
    return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else call(rows)  # avoids copying a single batch


def unpadded(value: Tensor | Gaussian, size: int) -> Tensor | Gaussian:
    """Returns the first ``size`` rows of the output for a padded batch, on the CPU."""
    if isinstance(value, Gaussian):
        return Gaussian(value.loc[:size].cpu(), value.scale[:size].cpu())
    return value[:size].cpu()


def empty_rows(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """An array for one row of each image; the rows of many images are mapped from a temporary file."""
    mapped = shape[0] > MAX_IN_MEMORY and 0 not in shape
    return mapped_array(shape, dtype) if mapped else np.empty(shape, dtype)


def rows_like(part: Tensor | Gaussian, count: int) -> Tensor | Gaussian:
    """Uninitialised rows of the shape and type of a batch's output; many are in a temporary file."""
    if isinstance(part, Gaussian):
        return Gaussian(_rows_like(part.loc, count), _rows_like(part.scale, count))
    return _rows_like(part, count)


def _rows_like(part: Tensor, count: int) -> Tensor:
    size = math.prod(part.shape[1:]) * part.element_size()
    found = torch.from_numpy(empty_rows((count, size), np.uint8))  # NumPy lacks bfloat16
    return found.view(part.dtype).reshape(count, *part.shape[1:])


def set_rows(found: Tensor | Gaussian, rows: slice, part: Tensor | Gaussian) -> None:
    """Assigns the output for a batch to some rows.

    Raises:
        ValueError: the output is of another type, or has another shape.
    """
    tensors = [(each.loc, each.scale) if isinstance(each, Gaussian) else (each,) for each in (found, part)]
    if len(tensors[0]) != len(tensors[1]):
        raise ValueError("the output must be a tensor for every batch, or a Gaussian for every batch")
    for whole, values in zip(*tensors, strict=True):
        wanted = (rows.stop - rows.start, *whole.shape[1:])
        if values.shape != wanted:
            raise ValueError(f"the output for {wanted[0]} images must have shape {wanted}, got {tuple(values.shape)}")
        whole[rows] = values
