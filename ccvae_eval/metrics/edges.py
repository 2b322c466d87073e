"""A descriptor of images, trained on none: mean colours and oriented edges of the squares of a lattice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.metrics.matchers.contract import grey
from ccvae_eval.types import Images


@dataclass(frozen=True)
class Edges:
    """Mean colour and oriented edges of the squares of a lattice: for any images, trained on none.

    As in histograms of oriented gradients (Dalal and Triggs 2005): each pixel's slope counts for the two nearest of
    ``bins`` directions, by its size; sums are over squares, and roots are taken so that strong edges do not outweigh
    all else. Blind to where in a square something lies, so that a small shift counts less than with pixels.

    Args:
        squares: of the lattice on a side.
        bins: directions between 0 and 180 degrees.

    >>> Edges().features(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 704])
    """

    squares: int = 8
    bins: int = 8

    def features(self, images: Images) -> Tensor:
        light = functional.pad(grey(images)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        across = (light[:, 1:-1, 2:] - light[:, 1:-1, :-2]) / 2
        down = (light[:, 2:, 1:-1] - light[:, :-2, 1:-1]) / 2
        place = torch.atan2(down, across) / torch.pi * self.bins
        centres = torch.arange(self.bins, device=images.device)[:, None, None]
        # how near each direction is, around the circle of 180 degrees
        apart = torch.remainder(place[:, None] - centres + self.bins / 2, self.bins) - self.bins / 2
        histogram = (1 - apart.abs()).clamp_min(0) * torch.hypot(across, down)[:, None]
        cells = functional.adaptive_avg_pool2d(torch.cat([images, histogram], 1), self.squares)
        colour, edges = cells[:, : images.shape[1]], cells[:, images.shape[1] :]
        return torch.cat([colour, edges.sqrt()], 1).flatten(1)
