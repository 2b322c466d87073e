"""A lattice of points, each searched for in a small window by normalised cross-correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.metrics.matchers.contract import Matches, grey, no_matches, unit
from ccvae_eval.types import Images

FAINTEST = 1 / 255
"""Windows that deviate less than one grey level correlate with nothing: their shape is rounding."""

TIE = 1e-6
"""Peaks that differ by less are equal: the nearest of them is taken."""

PIECE = 512
"""Keypoints that are searched for at a time: their windows fit a processor's own cache, and the convolution is prepared
for one shape only (measured: a third less time than all at once)."""


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
        points = lattice.points(device).expand_as(none.points)
        found = Matches(points, first.textured, none.matched, none.shift, none.confidence)
        places = first.keypoints[0]
        best, near = self._best(first, second)
        shifts = shifts_of(lattice.search, device)[0]
        shift = shifts[(len(shifts) - near).long()] / lattice.unit
        matched = (best >= self.peak) & (torch.hypot(shift[:, 0], shift[:, 1]) <= self.reach)
        found.matched.view(-1)[places] = matched
        found.shift.view(-1, 2)[places] = shift * matched[:, None]
        found.confidence.view(-1)[places] = best.clamp(0, 1) * matched
        return found

    def _best(self, first: GridFeatures, second: GridFeatures) -> tuple[Tensor, Tensor]:
        """The highest correlation of each keypoint, and how near the nearest shift that reaches it is."""
        lattice, (places, kernels) = first.lattice, first.keypoints
        nearness = shifts_of(lattice.search, first.grey.device)[1]
        best, near = places.new_empty(2, len(kernels), dtype=torch.float32)
        filled = functional.pad(places, (0, len(kernels) - len(places)))
        for start in range(0, len(kernels), PIECE):
            piece = slice(start, start + PIECE)
            windows = second.windows.at(filled[piece]).reshape(1, PIECE, lattice.window, lattice.window)
            products = functional.conv2d(windows, kernels[piece], groups=PIECE).reshape(PIECE, -1)
            correlation = products.mul_(
                second.sharpness.index_select(0, first.searched[piece].flatten()).reshape_as(products)
            )
            torch.amax(correlation, 1, out=best[piece])
            # in place: a mask of its own and where() take as long as all else here
            reached = torch.ge(correlation, best[piece, None] - TIE, out=correlation)
            torch.amax(reached.mul_(nearness), 1, out=near[piece])
        return best[: len(places)], near[: len(places)]


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

    def points(self, device: torch.device) -> Tensor:
        """The points in units of length, shape (columns * rows, 2), one column after the other."""
        middle = self.radius + self.search + 0.5
        x = self.left + middle + self.stride * torch.arange(self.columns, device=device)
        y = self.top + middle + self.stride * torch.arange(self.rows, device=device)
        return torch.cartesian_prod(x, y).reshape(-1, 2) / self.unit


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
    def windows(self) -> Squares:
        """The search window of every point of every image."""
        return Squares(self.grey, self.lattice, self.lattice.window)

    @cached_property
    def sharpness(self) -> Tensor:
        """One over the norm of every patch of every image, flat, by upper left corners; 0 for faint ones."""
        patch = self.lattice.patch
        total, square = (_boxes(maps, patch) for maps in (self.grey, self.grey.square()))
        power = torch.addcmul(square, total, total, value=-1 / patch**2)
        return functional.threshold(power, FAINTEST**2 * patch**2, math.inf).rsqrt_().flatten()

    @cached_property
    def searched(self) -> Tensor:
        """Which of all patches every keypoint is compared with, as places in ``sharpness``, shape (G, shifts)."""
        lattice, (places, kernels) = self.lattice, self.keypoints
        height, width = (side - lattice.patch + 1 for side in self.grey.shape[1:])
        filled = functional.pad(places, (0, len(kernels) - len(places)))
        column, row = torch.div(filled, lattice.rows, rounding_mode="floor"), filled % lattice.rows
        image, column = torch.div(column, lattice.columns, rounding_mode="floor"), column % lattice.columns
        first = (image * height + lattice.top + row * lattice.stride) * width + lattice.left + column * lattice.stride
        side = torch.arange(2 * lattice.search + 1, device=places.device)
        return (first[:, None, None] + side[:, None] * width + side).flatten(1)

    @cached_property
    def textured(self) -> Tensor:
        """Which points of each image are keypoints, shape (N, K)."""
        points = self.lattice.columns * self.lattice.rows
        if points == 0:
            return torch.zeros(len(self.grey), 0, dtype=torch.bool, device=self.grey.device)
        strong = self._patches[1].div(self.lattice.patch) >= self.matcher.texture
        return strong.reshape(-1, points) & (self._slopes >= self.matcher.corner**2)

    @cached_property
    def keypoints(self) -> tuple[Tensor, Tensor]:
        """The places of the keypoints among all points, and their patches as kernels of a grouped convolution, of
        mean 0 and norm 1, shape (G, 1, p, p), G rounded up to whole pieces with zeros."""
        places = self.textured.flatten().nonzero()[:, 0]
        patches, norms = self._patches
        kernels = patches.index_select(0, places) / norms.index_select(0, places)[:, None]
        kernels = functional.pad(kernels, (0, 0, 0, -len(places) % PIECE))
        return places, kernels.reshape(-1, 1, self.lattice.patch, self.lattice.patch)

    @cached_property
    def _patches(self) -> tuple[Tensor, Tensor]:
        """The patch of each point less its mean, and its norm."""
        inner = self.grey[:, self.lattice.search :, self.lattice.search :]
        patches = Squares(inner, self.lattice, self.lattice.patch).every()
        patches -= patches.mean(1, keepdim=True)
        return patches, patches.square().sum(1).sqrt()

    @property
    def _slopes(self) -> Tensor:
        """The smaller eigenvalue of each patch's structure tensor (central differences), shape (N, K)."""
        lattice, grey = self.lattice, self.grey
        across = (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]) * (lattice.unit / 2)
        down = (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]) * (lattice.unit / 2)
        means = []
        for product in (across.square(), down.square(), across * down):
            # the differences' first row and column are the image's second
            boxes = _boxes(product, lattice.patch)[:, lattice.search - 1 :, lattice.search - 1 :]
            taken = boxes[:, lattice.top :: lattice.stride, lattice.left :: lattice.stride]
            means.append(taken[:, : lattice.rows, : lattice.columns].transpose(1, 2).flatten(1) / lattice.patch**2)
        xx, yy, xy = means
        return (xx + yy - ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2


class Squares:
    """A square for each point of a lattice, cut out of some maps.

    Kept as strips, one for each column of points, out of which squares of a whole number of rows are long runs of
    memory (measured at 64 pixels: 15 us for each image, against 160 by unfolding in both directions at once). Strips
    are as long as a whole number of steps; what lies below the image is never read.

    Args:
        maps: shape (N, H, W); the first point's square begins at the lattice's top and left.
        lattice: where the points lie.
        size: of the squares.
    """

    def __init__(self, maps: Tensor, lattice: Lattice, size: int) -> None:
        self.rows, self.count = lattice.rows, len(maps) * lattice.columns * lattice.rows
        height = maps.shape[1] - lattice.top
        self.steps = -(-height // lattice.stride)
        strips = maps.new_empty(len(maps), lattice.columns, self.steps * lattice.stride, size)
        for column in range(lattice.columns):
            left = lattice.left + column * lattice.stride
            strips[:, column, :height] = maps[:, lattice.top :, left : left + size]
        run, step = size * size, lattice.stride * size
        self.squares = strips.as_strided((max((strips.numel() - run) // step + 1, 0), run), (step, 1))

    def at(self, places: Tensor) -> Tensor:
        """The squares of some points, shape (len(places), size * size); points are counted as in ``Matches``."""
        strip = torch.div(places, self.rows, rounding_mode="floor")
        return self.squares.index_select(0, strip * self.steps + places - strip * self.rows)

    def every(self) -> Tensor:
        """The squares of all points, shape (N * K, size * size)."""
        return self.at(torch.arange(self.count, device=self.squares.device))


@lru_cache(maxsize=32)
def _band(side: int, size: int, device: torch.device) -> Tensor:
    """Ones where a box of this size covers a pixel, shape (side - size + 1, side)."""
    offset = torch.arange(side)[None] - torch.arange(side - size + 1)[:, None]
    return ((offset >= 0) & (offset < size)).float().to(device)


def _boxes(maps: Tensor, size: int) -> Tensor:
    """Sums over all squares of this size that lie inside, as two matrix products: quicker than pooling."""
    down, across = (_band(side, size, maps.device) for side in maps.shape[1:])
    return down @ (maps @ across.T)
