"""Sums over all squares of a map, and the surroundings of a mask, by additions of long runs of memory.

Lines and images run on into each other, so that each addition is one run over all of them: at 64 pixels a third of the
time of matrix products, less at larger sizes. What such a sum makes of the end of a line is never read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def box_sums(maps: Tensor, size: int) -> Tensor:
    """Sums over the squares of this size.

    Args:
        maps: shape (N, H, W), contiguous.
        size: of the squares, in pixels.

    Returns:
        Flat: the square that begins at line y and column x of map n has the place (n H + y) W + x. Meaningless where a
        square would reach beyond the edge; where the last ones would, left out.
    """
    return _combined(_combined(maps.flatten(), size, maps.shape[2], torch.add), size, 1, torch.add)


def widened(mask: Tensor, reach: int) -> Tensor:
    """The mask and all that lies within ``reach`` pixels of it in both directions, shape (N, H, W), bool.

    >>> widened(torch.tensor([[[True, False, False]]]), 1)
    tensor([[[ True,  True, False]]])
    """
    framed, size = functional.pad(mask, (reach, reach, reach, reach)), 2 * reach + 1
    height, width = framed.shape[1:]
    flat = _combined(_combined(framed.flatten(), size, width, torch.logical_or), size, 1, torch.logical_or)
    return flat.as_strided(mask.shape, (height * width, width, 1))


def _combined(values: Tensor, count: int, step: int, both: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``count`` values that lie ``step`` apart combined into one, from each place on, by doubling.

    >>> _combined(torch.arange(5), 3, 1, torch.add)
    tensor([3, 6, 9])
    """
    if count == 1:
        return values
    ahead = count // 2 * step
    half = _combined(values, count // 2, step, both)
    even = both(half[:-ahead], half[ahead:])
    if count % 2 == 0:
        return even
    last = values[(count - 1) * step :]
    return both(even[: len(last)], last)
