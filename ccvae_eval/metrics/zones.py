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
    """The three zones of some images, shape (N, 3, H, W), bool; a pixel of the band is in neither of the first two."""

    masks: Tensor

    def pixel_sums(self, maps: Tensor) -> Tensor:
        r"""Sums over the pixels of each zone, shape :math:`(N, M, 3)`.

        Args:
            maps: shape :math:`(N, M, H, W)`.
        """
        return maps.flatten(2) @ self.masks.flatten(2).to(maps.dtype).transpose(1, 2)

    def sizes(self) -> Tensor:
        """Pixels of each zone, shape (N, 3)."""
        return self.masks.flatten(2).sum(2)

    def of_points(self, matches: Matches) -> Tensor:
        """Which points lie in each zone, shape (N, K, 3), float; none that is not valid."""
        place = matches.pixels(*self.masks.shape[2:])
        images = torch.arange(len(place), device=place.device)[:, None]
        return (self.masks[images, :, place[..., 0], place[..., 1]] & matches.valid[..., None]).float()


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
    >>> zones_of(region, 1, torch.zeros(1, 1, 1, 5)).masks[0, :, 0].int()
    tensor([[1, 0, 0, 0, 0],
            [0, 0, 1, 1, 1],
            [1, 1, 1, 1, 1]], dtype=torch.int32)
    """
    count, _, height, width = like.shape
    whole = torch.ones(count, height, width, dtype=torch.bool, device=like.device)
    if region is None:
        return Zones(torch.stack([~whole, ~whole, whole], 1))
    inside = region.to(like.device)
    share = inside.flatten(1).float().mean(1)
    usable = ((share > 0) & (share <= largest))[:, None, None]
    down, across = (_reach(side, guard, like.device) for side in (height, width))
    near = (down @ (inside.float() @ across)) > 0
    return Zones(torch.stack([inside & usable, ~near & usable, whole], 1))


@lru_cache(maxsize=16)
def _reach(side: int, guard: int, device: torch.device) -> Tensor:
    """Which positions of an axis lie within the guard of each other, shape (side, side)."""
    place = torch.arange(side, device=device)
    return ((place[:, None] - place).abs() <= guard).float()
