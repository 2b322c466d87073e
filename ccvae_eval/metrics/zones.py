"""Inside a region, outside it with a band left out, and the whole image: sums over pixels and over keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ccvae_eval.metrics.matchers.contract import Matches

INSIDE, OUTSIDE, WHOLE = range(3)
"""The places of the zones along an axis of three."""


@dataclass(frozen=True, slots=True)
class Zones:
    """The three zones of some images, shape (N, 3, H, W), 1 or 0; a pixel of the band is in none of the first two."""

    masks: Tensor

    def pixel_sums(self, maps: Tensor) -> Tensor:
        r"""Sums over the pixels of each zone, shape :math:`(N, M, 3)`.

        Args:
            maps: shape :math:`(N, M, H, W)`.
        """
        return maps.flatten(2) @ self.masks.flatten(2).transpose(1, 2)

    def sizes(self) -> Tensor:
        """Pixels of each zone, shape (N, 3)."""
        return self.masks.flatten(2).sum(2)

    def of_points(self, matches: Matches) -> Tensor:
        """Which points lie in each zone, shape (N, K, 3), float; none that is not valid."""
        place = matches.pixels(*self.masks.shape[2:])
        images = torch.arange(len(place), device=place.device)[:, None]
        # a matcher may work on the CPU whatever the images are on
        masks = self.masks.to(place.device)
        return masks[images, :, place[..., 0], place[..., 1]] * matches.valid[..., None]


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
    loss = search + here * (found.displacement - search)
    numbers = torch.stack([torch.ones_like(here), loss, here, here * found.displacement], 1)
    return dict(zip(("count", "loss", "found", "displacement"), (numbers @ zones).unbind(1), strict=True))


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
    inside = region.to(like.device).float()
    share = inside.flatten(1).mean(1)
    usable = ((share > 0) & (share <= largest)).float()[:, None, None]
    down, across = (_reach(side, guard, like.device) for side in (height, width))
    torch.mul(inside, usable, out=masks[:, INSIDE])
    torch.mul(down @ (inside @ across) == 0, usable, out=masks[:, OUTSIDE])
    return Zones(masks)


@lru_cache(maxsize=16)
def _reach(side: int, guard: int, device: torch.device) -> Tensor:
    """Which positions of an axis lie within the guard of each other, shape (side, side)."""
    place = torch.arange(side, device=device)
    return ((place[:, None] - place).abs() <= guard).float()
