"""Inside a region, outside it with a band left out, and the whole image: sums over pixels and over keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccvae_eval.metrics.matchers.contract import Matches
from ccvae_eval.metrics.windows import widened

INSIDE, OUTSIDE, WHOLE = range(3)
"""The places of the zones along an axis of three."""


@dataclass(frozen=True, slots=True)
class Zones:
    """The three zones of some images, shape (N, 3, H, W), 1 or 0; a pixel of the band is in none of the first two."""

    masks: Tensor

    def pixel_sums(self, maps: Tensor) -> Tensor:
        r"""Sums over the pixels of each zone, shape :math:`(N, 3)`.

        Args:
            maps: shape :math:`(N, H, W)`.
        """
        return (maps.flatten(1)[:, None] @ self.masks.flatten(2).transpose(1, 2))[:, 0]

    def sizes(self) -> Tensor:
        """Pixels of each zone, shape (N, 3)."""
        return self.masks.flatten(2).sum(2)

    def of_points(self, matches: Matches) -> Tensor:
        """Which points lie in each zone, shape (N, K, 3), float; none that is not valid."""
        height, width = self.masks.shape[2:]
        row, column = matches.pixels(height, width).unbind(2)
        # a matcher may work on the CPU whatever the images are on
        masks = self.masks.to(row.device).flatten(2)
        zones = masks.gather(2, (row * width + column)[:, None].expand(-1, masks.shape[1], -1))
        return (zones * matches.valid[:, None]).transpose(1, 2)


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
            [0., 0., 1., 1., 1.],
            [1., 1., 1., 1., 1.]])
    """
    count, _, height, width = like.shape
    masks = like.new_zeros(count, 3, height, width)
    masks[:, WHOLE] = 1
    if region is None:
        return Zones(masks)
    inside = region.to(like.device)
    for zone, pixels in ((INSIDE, inside), (OUTSIDE, ~widened(inside, guard))):
        masks[:, zone] = pixels.view(torch.uint8)  # bools take seven times as long
    share = masks[:, INSIDE].mean((1, 2))
    masks[:, :WHOLE] *= ((share > 0) & (share <= largest)).to(masks)[:, None, None, None]
    return Zones(masks)
