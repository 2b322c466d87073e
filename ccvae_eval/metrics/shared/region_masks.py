"""Inside a region, outside it with a band left out, and the whole image: sums over pixels and over keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.metrics.matchers.interface import Matches
from ccvae_eval.metrics.shared.box_filter import widened

INSIDE, OUTSIDE, WHOLE = range(3)
"""The places of the zones along an axis of three."""


@dataclass(frozen=True, slots=True)
class Zones:
    """The zones of some images; the whole of them needs no mask.

    Args:
        masks: inside and outside, 1 or 0, shape (N, 2, H, W); a pixel of the band is in neither.
    """

    masks: Tensor

    def pixel_sums(self, maps: Tensor) -> Tensor:
        r"""Sums over the pixels of each zone, shape :math:`(N, 3)`.

        Args:
            maps: shape :math:`(N, H, W)`.
        """
        parts = (maps.flatten(1)[:, None] @ self.masks.flatten(2).transpose(1, 2))[:, 0]
        # line by line: a sum of one large image alone is shared out among threads, and its bits with it
        return torch.cat([parts, maps.sum(2).sum(1, keepdim=True)], 1)

    def sizes(self) -> Tensor:
        """Pixels of each zone, shape (N, 3)."""
        height, width = self.masks.shape[2:]
        return functional.pad(self.masks.flatten(2).sum(2), (0, 1), value=height * width)

    def of_points(self, matches: Matches) -> Tensor:
        """Which points lie in each zone, shape (N, K, 3), float; none that is not valid."""
        height, width = self.masks.shape[2:]
        row, column = matches.pixels(height, width).unbind(2)
        # a matcher may work on the CPU whatever the images are on
        masks = self.masks.to(row.device).flatten(2)
        zones = masks.gather(2, (row * width + column)[:, None].expand(-1, masks.shape[1], -1))
        return (functional.pad(zones, (0, 0, 0, 1), value=1.0) * matches.valid[:, None]).transpose(1, 2)


def point_sums(found: Matches, zones: Tensor, search: float) -> dict[str, Tensor]:
    r"""Sums over the points of each zone, each of shape :math:`(N, 3)`.

    Args:
        found: the points and where they went.
        zones: which points lie in which zone, shape :math:`(N, K, 3)`.
        search: the loss of a lost point; what went farther counts as lost.

    Returns:
        ``count`` of points, their ``loss``, how many were ``found``, and the ``displacement`` of those.
    """
    here = (found.matched & (found.displacement <= search)).float()
    count = zones.sum(1)
    again, moved = (torch.stack([here, here * found.displacement], 1) @ zones).unbind(1)
    return {"count": count, "loss": search * (count - again) + moved, "found": again, "displacement": moved}


def zones_of(region: Tensor | None, guard: int, like: Tensor, largest: float = 1.0) -> Zones:
    r"""The zones of some images.

    Args:
        region: shape :math:`(N, H, W)`, bool; None = there is none.
        guard: pixels of the band around the region that are left out, in both directions (a square, as patches are).
        like: the images, shape :math:`(N, C, H, W)`.
        largest: a region that covers more than this share, or nothing, is none: both zones are empty.

    >>> region = torch.zeros(1, 1, 5, dtype=torch.bool)
    >>> region[..., 0] = True
    >>> zones_of(region, 1, torch.zeros(1, 1, 1, 5)).masks[0, :, 0]
    tensor([[1., 0., 0., 0., 0.],
            [0., 0., 1., 1., 1.]])
    """
    count, _, height, width = like.shape
    if region is None:
        return Zones(like.new_zeros(count, 2, height, width))
    inside = region.to(like.device)
    if count > 1 and torch.equal(inside[0], inside[-1]) and bool((inside == inside[:1]).all()):
        inside = inside[:1]  # a box in a frame is looked at once (two fifths of the time)
    masks = like.new_empty(len(inside), 2, height, width)
    for zone, pixels in ((INSIDE, inside), (OUTSIDE, ~widened(inside, guard))):
        masks[:, zone] = pixels.view(torch.uint8)  # bools take seven times as long
    share = masks[:, INSIDE].mean((1, 2))
    usable = (share > 0) & (share <= largest)
    masks[~usable] = 0
    return Zones(masks.expand(count, -1, -1, -1))
