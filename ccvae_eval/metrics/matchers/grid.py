"""A lattice of points, each searched for in a small window by normalised cross-correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.types import Images
from ccvae_eval.metrics.matchers.interface import Matches, grey, no_matches, unit
from ccvae_eval.metrics.shared.box_filter import box_sums

FAINTEST = 1 / 255
"""Windows that deviate less than one grey level correlate with nothing: their shape is rounding."""

TIE = 1e-6
"""Peaks that differ by less are equal: the nearest of them is taken."""

PIECE = 2048
"""The most keypoints that are searched for at a time (measured: fewer pay for more calls, more for more memory)."""

STEP = 64
"""Pieces are whole multiples of it, because a convolution is prepared for each number of channels."""


@dataclass(frozen=True)
class GridMatcher:
    r"""Zero-mean normalised cross-correlation of patches on a lattice (docs/metrics.md, section 3).

    A point of the lattice is a keypoint if its patch in the *first* image has texture, and texture in two directions
    (on a plain edge a shift along the edge is invisible). It is searched for in the grey second image at all whole
    shifts up to ``search``; it is matched if the best correlation is at least ``peak`` and lies no farther than
    ``reach``. Correlation ignores brightness and contrast: a tint is invisible to it.

    Greyscale, not colour: a third of the work, and what moves without moving in luminance is the business of L1.

    Args:
        stride, patch, search, reach: in 64ths of the image's shorter side, rounded to whole pixels (the patch to an
            odd number). At 64 pixels: 13 x 13 points, 49 shifts.
        peak: the least correlation of a match, which is also the confidence.
        texture: the least standard deviation of grey in a patch.
        corner: the least root mean square slope, in grey per unit of length, in the direction in which it is smallest
            (the root of the structure tensor's smaller eigenvalue; Shi and Tomasi 1994). Measured on soft photographs
            of faces with a tenth of their variation as noise: below .015 more than 5 % of the points seem to move.

    >>> GridMatcher().guard
    7.0
    """

    name: ClassVar[str] = "grid"
    bounded: ClassVar[bool] = True

    stride: float = 4.0
    patch: float = 9.0
    search: float = 3.0
    reach: float = 2.0
    peak: float = 0.8
    texture: float = 0.02
    corner: float = 0.015

    @property
    def guard(self) -> float:
        """Patch radius and search radius."""
        return self.patch // 2 + self.search

    def features(self, images: Images) -> GridFeatures:
        """The grey images with what is derived from them when it is first needed."""
        return GridFeatures(self, grey(images) - 0.5)

    def match(self, first: GridFeatures, second: GridFeatures) -> Matches:
        """Where the lattice points of the first images went; K is the number of lattice points, in column order."""
        lattice, device = first.lattice, first.grey.device
        none = no_matches(len(first.grey), lattice.columns * lattice.rows, device)
        if not bool(first.textured.any()):
            return none
        points = points_of(lattice, device).expand_as(none.points)
        found = Matches(points, first.textured, none.matched, none.shift, none.confidence)
        correlation = self._correlations(first, second)
        best = correlation.amax(1)
        matched = best >= self.peak
        moved, shift = self._moved(correlation, best, matched, lattice)
        matched[moved] = torch.hypot(shift[:, 0], shift[:, 1]) <= self.reach
        found.matched.view(-1)[first.places] = matched
        found.shift.view(-1, 2)[first.places[moved]] = shift * matched[moved, None]
        found.confidence.view(-1)[first.places] = best.clamp_(0, 1).mul_(matched)
        return found

    @staticmethod
    def _moved(correlation: Tensor, best: Tensor, matched: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
        """Which of the matched keypoints correlate best somewhere else, and the nearest shift that is as good."""
        shifts, nearness = shifts_of(lattice.search, correlation.device)
        still = correlation[:, len(shifts) // 2]
        # nothing is nearer than no shift at all: only where another one does better are all compared with the best
        moved = (matched & (still < best - TIE)).nonzero()[:, 0]
        reached = correlation.index_select(0, moved) >= best[moved, None] - TIE
        near = (reached * nearness).amax(1)
        return moved, shifts[(len(shifts) - near).long()] / lattice.unit

    def _correlations(self, first: GridFeatures, second: GridFeatures) -> Tensor:
        """Of each keypoint with the second image at all shifts, line by line, shape (G, shifts)."""
        lattice, kernels = first.lattice, first.kernels
        found = kernels.new_empty(len(kernels), (2 * lattice.search + 1) ** 2)
        for start in range(0, len(kernels), first.piece):
            piece = slice(start, start + first.piece)
            windows = runs_of(second.grey.flatten(), first.lines[piece], lattice.window)
            products = functional.conv2d(windows[None], kernels[piece], groups=first.piece)
            sharpness = runs_of(second.sharpness, first.lines[piece, : 2 * lattice.search + 1], 2 * lattice.search + 1)
            torch.mul(products.flatten(), sharpness.flatten(), out=found[piece].view(-1))
        return found[: len(first.places)]


@dataclass(frozen=True)
class Lattice:
    """Where the points lie in images of one size; lengths in pixels.

    Args:
        unit: pixels per 64th of the shorter side.
        stride, radius, search: of the lattice, of a patch, of the search.
        top, left: the first row and column of the first point's search window.
        rows, columns: how many points; 0 in an image too small for one.
    """

    unit: float
    stride: int
    radius: int
    search: int
    top: int
    left: int
    rows: int
    columns: int

    @property
    def patch(self) -> int:
        return 2 * self.radius + 1

    @property
    def window(self) -> int:
        return self.patch + 2 * self.search

    def corners(self, places: Tensor, height: int, width: int) -> Tensor:
        """Where the search windows of some points begin, counted through all images' pixels line by line.

        Args:
            places: of the points among those of all images, counted as in ``Matches``, shape (G,).
            height, width: of the images.
        """
        column, row = torch.div(places, self.rows, rounding_mode="floor"), places % self.rows
        image, column = torch.div(column, self.columns, rounding_mode="floor"), column % self.columns
        return (image * height + self.top + row * self.stride) * width + self.left + column * self.stride


@lru_cache(maxsize=16)
def points_of(lattice: Lattice, device: torch.device) -> Tensor:
    """The points in units of length, shape (columns * rows, 2), one column after the other."""
    middle = lattice.radius + lattice.search + 0.5
    x = lattice.left + middle + lattice.stride * torch.arange(lattice.columns, device=device)
    y = lattice.top + middle + lattice.stride * torch.arange(lattice.rows, device=device)
    return torch.cartesian_prod(x, y).reshape(-1, 2) / lattice.unit


@lru_cache(maxsize=16)
def shifts_of(search: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All shifts (x, y) in pixels, the nearest first, and for each correlation how near its shift is: from the number
    of shifts (none is nearer) down to 1.
    """
    side = torch.arange(-search, search + 1, dtype=torch.float32)
    down, across = torch.meshgrid(side, side, indexing="ij")
    sorting = torch.hypot(down, across).flatten().argsort(stable=True)
    shifts = torch.stack([across, down], -1).reshape(-1, 2)[sorting]
    return shifts.to(device), (len(shifts) - sorting.argsort()).float().to(device)


@lru_cache(maxsize=16)
def lattice_of(matcher: GridMatcher, height: int, width: int) -> Lattice:
    """The lattice of a matcher in images of one size, in the middle of them."""
    scale = unit(height, width)
    stride, search = max(round(matcher.stride * scale), 1), max(round(matcher.search * scale), 1)
    radius = max(round(matcher.patch // 2 * scale), 1)
    room = [side - 2 * (radius + search) - 1 for side in (height, width)]
    rows, columns = (max(free // stride + 1, 0) for free in room)
    top, left = (max(free, 0) % stride // 2 for free in room)
    return Lattice(scale, stride, radius, search, top, left, rows, columns)


def runs_of(values: Tensor, starts: Tensor, length: int) -> Tensor:
    """Runs of neighbouring values, shape (*starts, length): long runs of memory, whatever they overlap with.

    >>> runs_of(torch.arange(5), torch.tensor([[3, 0]]), 2)
    tensor([[[3, 4],
             [0, 1]]])
    """
    return values.unfold(0, length, 1).index_select(0, starts.flatten()).reshape(*starts.shape, length)


@dataclass(frozen=True)
class GridFeatures:
    """Some images as the first or the second of a pair.

    Args:
        matcher: whose settings hold.
        grey: luminance less .5, shape (N, H, W).
    """

    matcher: GridMatcher
    grey: Tensor

    @property
    def lattice(self) -> Lattice:
        return lattice_of(self.matcher, *self.grey.shape[1:])

    @cached_property
    def sharpness(self) -> Tensor:
        """One over the norm of every patch, flat, by where it begins; 0 for faint ones, and meaningless where a patch
        would reach beyond the image's edge."""
        least = FAINTEST**2 * self.lattice.patch**2
        return functional.threshold(self._power, least, math.inf).rsqrt_()

    @cached_property
    def textured(self) -> Tensor:
        """Which points of each image are keypoints, shape (N, K)."""
        points = self.lattice.columns * self.lattice.rows
        if points == 0:
            return torch.zeros(len(self.grey), 0, dtype=torch.bool, device=self.grey.device)
        least = (self.matcher.texture * self.lattice.patch) ** 2
        strong = self._at_points(self._power, tuple(self.grey.shape), self.lattice.search) >= least
        return strong & (self._slopes >= self.matcher.corner**2)

    @cached_property
    def places(self) -> Tensor:
        """The places of the keypoints among all points of all images, shape (G,)."""
        return self.textured.flatten().nonzero()[:, 0]

    @cached_property
    def piece(self) -> int:
        """How many keypoints are searched for at a time."""
        pieces = -(-len(self.places) // PIECE)
        return -(-len(self.places) // (pieces * STEP)) * STEP

    @cached_property
    def lines(self) -> Tensor:
        """Where the lines of each keypoint's search window begin, shape (G, window), G rounded up to whole pieces."""
        height, width = self.grey.shape[1:]
        filled = functional.pad(self.places, (0, -len(self.places) % self.piece))
        corners = self.lattice.corners(filled, height, width)
        return corners[:, None] + torch.arange(self.lattice.window, device=corners.device) * width

    @cached_property
    def kernels(self) -> Tensor:
        """The keypoints' patches as kernels of a grouped convolution, of mean 0 and norm 1, shape (G, 1, p, p)."""
        radius, search = self.lattice.radius, self.lattice.search
        lines = self.lines[:, search : search + 2 * radius + 1] + search
        patches = runs_of(self.grey.flatten(), lines, self.lattice.patch).flatten(1)
        patches -= patches.mean(1, keepdim=True)
        patches /= patches.square().sum(1, keepdim=True).sqrt_()
        return patches.reshape(-1, 1, self.lattice.patch, self.lattice.patch)

    @cached_property
    def _power(self) -> Tensor:
        """The squared deviations from its mean in every patch, summed; flat as in ``sharpness``."""
        patch = self.lattice.patch
        total, square = box_sums(self.grey, patch), box_sums(self.grey.square(), patch)
        return square.addcmul_(total, total, value=-1 / patch**2)

    @property
    def _slopes(self) -> Tensor:
        """The smaller eigenvalue of each patch's structure tensor (central differences), shape (N, K)."""
        lattice, grey = self.lattice, self.grey
        across = (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]) * (lattice.unit / 2)
        down = (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]) * (lattice.unit / 2)
        xx, yy, xy = (
            # the differences' first row and column are the image's second
            self._at_points(box_sums(product, lattice.patch), tuple(product.shape), lattice.search - 1)
            for product in (across.square(), down.square(), across * down)
        )
        smaller = (xx + yy - ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
        return smaller / lattice.patch**2

    def _at_points(self, flat: Tensor, shape: tuple[int, ...], offset: int) -> Tensor:
        """What stands ``offset`` pixels down and right of where each point's search window begins, shape (N, K).

        Args:
            flat: maps one after the other, the end of the last one cut off.
            shape: theirs, (N, H, W).
            offset: in pixels.
        """
        lattice, (count, height, width) = self.lattice, shape
        first = (lattice.top + offset) * width + lattice.left + offset
        steps = height * width, lattice.stride, lattice.stride * width
        return flat.as_strided((count, lattice.columns, lattice.rows), steps, first).flatten(1)
