"""Region masks (inside a region, outside it, whole image), sums over their pixels and keypoints, box sums, dilation.

:func:`box_sums` and :func:`dilated` treat all rows of all images as one flat array, so that each addition is a single
pass over it. Squares that reach beyond the end of a row mix two rows; callers never read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.types import Bools
from ccvae_eval.metrics.matchers.interface import Matches


def box_sums(maps: Tensor, size: int) -> Tensor:
    """Return the sums over all squares of one size.

    Args:
        maps: shape (N, H, W), contiguous.
        size: side of the squares in pixels.

    Returns:
        Flat tensor: the square whose first pixel is (y, x) of map n has the index (n H + y) W + x. Squares that reach
        beyond the right or lower edge hold meaningless sums; the last ones of the last map are missing.
    """
    return _combined(_combined(maps.flatten(), size, maps.shape[2], torch.add), size, 1, torch.add)


def dilated(mask: Tensor, reach: int) -> Tensor:
    """Return a mask dilated by a square of side 2 reach + 1, shape (N, H, W), bool.

    >>> dilated(torch.tensor([[[True, False, False]]]), 1)
    tensor([[[ True,  True, False]]])
    """
    framed, size = functional.pad(mask, (reach, reach, reach, reach)), 2 * reach + 1
    height, width = framed.shape[1:]
    flat = _combined(_combined(framed.flatten(), size, width, torch.logical_or), size, 1, torch.logical_or)
    return flat.as_strided(mask.shape, (height * width, width, 1))


def _combined(values: Tensor, count: int, step: int, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine ``count`` values that lie ``step`` apart, starting at every index, by recursive doubling.

    >>> _combined(torch.arange(5), 3, 1, torch.add)
    tensor([3, 6, 9])
    """
    if count == 1:
        return values
    ahead = count // 2 * step
    half = _combined(values, count // 2, step, operation)
    even = operation(half[:-ahead], half[ahead:])
    if count % 2 == 0:
        return even
    last = values[(count - 1) * step :]
    return operation(even[: len(last)], last)


INSIDE, OUTSIDE, WHOLE = range(3)
"""Indices of the three masks along the last axis."""


@dataclass(frozen=True, slots=True)
class RegionMasks:
    """Masks inside and outside a region for each image; the whole image needs no mask.

    Args:
        masks: inside and outside, 1 or 0, shape (N, 2, H, W). Pixels of the guard band between them are in neither.
    """

    masks: Tensor

    def pixel_sums(self, maps: Tensor) -> Tensor:
        r"""Return sums over the pixels of each mask, shape :math:`(N, 3)`; ``maps`` has shape :math:`(N, H, W)`."""
        parts = (maps.flatten(1)[:, None] @ self.masks.flatten(2).transpose(1, 2))[:, 0]
        # row by row: torch would distribute the sum over one large image to threads, which changes its bits
        return torch.cat([parts, maps.sum(2).sum(1, keepdim=True)], 1)

    def sizes(self) -> Tensor:
        """Return the number of pixels in each mask, shape (N, 3)."""
        height, width = self.masks.shape[2:]
        return functional.pad(self.masks.flatten(2).sum(2), (0, 1), value=height * width)

    def membership(self, matches: Matches) -> Tensor:
        """Return 1 for each valid point that lies in a mask and 0 otherwise, shape (N, K, 3), float."""
        height, width = self.masks.shape[2:]
        row, column = matches.pixels(height, width).unbind(2)
        # a matcher may work on the CPU although the images are on another device
        masks = self.masks.to(row.device).flatten(2)
        inside = masks.gather(2, (row * width + column)[:, None].expand(-1, masks.shape[1], -1))
        return (functional.pad(inside, (0, 0, 0, 1), value=1.0) * matches.valid[:, None]).transpose(1, 2)


def point_sums(matches: Matches, membership: Tensor, search: float) -> dict[str, Tensor]:
    r"""Return sums over the points in each region mask.

    Args:
        matches: the points and their displacements.
        membership: of the points in the masks, shape :math:`(N, K, 3)`, as from :meth:`RegionMasks.membership`.
        search: loss of a lost point; a point that moved farther also counts as lost.

    Returns:
        ``count`` of points, their total ``loss``, the number ``found`` again and the total ``displacement`` of those,
        each of shape :math:`(N, 3)`.
    """
    refound = (matches.matched & (matches.displacement <= search)).float()
    count = membership.sum(1)
    found, moved = (torch.stack([refound, refound * matches.displacement], 1) @ membership).unbind(1)
    return {"count": count, "loss": search * (count - found) + moved, "found": found, "displacement": moved}


def masks_of(region: Tensor | None, guard: int, like: Tensor, largest: float = 1.0) -> RegionMasks:
    r"""Return the region masks of some images.

    Args:
        region: shape :math:`(N, H, W)`, bool; None if the data have no region.
        guard: width in pixels of the band around the region that belongs to neither mask (a square dilation).
        like: the images, shape :math:`(N, C, H, W)`; they give the size, dtype and device.
        largest: largest share of an image that a region may cover. Both masks of an image are empty if its region is
            larger or empty.

    >>> region = torch.zeros(1, 1, 5, dtype=torch.bool)
    >>> region[..., 0] = True
    >>> masks_of(region, 1, torch.zeros(1, 1, 1, 5)).masks[0, :, 0]
    tensor([[1., 0., 0., 0., 0.],
            [0., 0., 1., 1., 1.]])
    """
    count, _, height, width = like.shape
    if region is None:
        return RegionMasks(like.new_zeros(count, 2, height, width))
    inside = region.to(like.device)
    if count > 1 and torch.equal(inside[0], inside[-1]) and bool((inside == inside[:1]).all()):
        inside = inside[:1]  # a box shared by all images is processed once
    masks = like.new_empty(len(inside), 2, height, width)
    for index, pixels in ((INSIDE, inside), (OUTSIDE, ~dilated(inside, guard))):
        masks[:, index] = pixels.view(torch.uint8)  # copying from bool is slower
    share = masks[:, INSIDE].mean((1, 2))
    usable = (share > 0) & (share <= largest)
    masks[~usable] = 0
    return RegionMasks(masks.expand(count, -1, -1, -1))


def region_pixels(region: Bools | Tensor | None, largest: float) -> Bools | None:
    """Mask of a region, shape (N, H W); empty where it covers more than ``largest``; None without a region.

    Args:
        region: shape (N, H, W), on the CPU.
        largest: largest share of an image that a region may cover.
    """
    if region is None:
        return None
    pixels: Bools = np.asarray(region).reshape(len(region), -1)
    share = pixels.mean(1, keepdims=True)
    return np.asarray(pixels & (share > 0) & (share <= largest))
