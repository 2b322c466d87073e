"""A lattice of points, each matched within a small window by normalised cross-correlation."""

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
from ccvae_eval.metrics.shared.region_masks import box_sums

FAINTEST = 1 / 255
"""Standard deviation below which a window has no correlation: its texture is rounding."""

TIE = 1e-6
"""Correlations that differ by less count as equal; the smallest shift wins."""

PIECE = 2048
"""Largest number of keypoints processed at once, a compromise between the number of calls and memory."""

STEP = 64
"""Pieces hold a multiple of this many keypoints, because torch prepares a convolution per number of channels."""


@dataclass(frozen=True)
class GridMatcher:
    r"""Zero-mean normalised cross-correlation of patches on a lattice (docs/metrics.md, section 3).

    A lattice point is a keypoint if its patch in the *first* image has texture in two directions; on a straight edge, a
    shift along the edge is invisible. The patch is compared with the second image at all shifts of whole pixels up to
    ``search``, both images in greyscale. It is matched if the largest correlation is at least ``peak`` and its shift at
    most ``reach``. Correlation is invariant to brightness and contrast, so it does not detect a change of tint.

    Args:
        stride: distance between lattice points, in 64ths of the shorter side, rounded to pixels.
        patch: side of a patch, in 64ths of the shorter side, rounded to an odd number of pixels.
        search: search radius, and loss of a lost point, in 64ths of the shorter side.
        reach: largest shift of a match, in 64ths of the shorter side.
        peak: least correlation of a match; the correlation is also the confidence.
        texture: least standard deviation of grey in a patch.
        corner: least root mean square slope, in grey levels (0 to 1) per unit of length, in the direction in which it
            is smallest: the root of the structure tensor's smaller eigenvalue (Shi and Tomasi 1994).

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
        """Patch radius plus search radius."""
        return self.patch // 2 + self.search

    def features(self, images: Images) -> GridFeatures:
        """Return the grey images; derived quantities are computed on first use."""
        return GridFeatures(self, grey(images) - 0.5)

    def match(self, first: GridFeatures, second: GridFeatures) -> Matches:
        """Match the lattice points of the first images; K is the number of lattice points, in column order."""
        lattice, device = first.lattice, first.grey.device
        empty = no_matches(len(first.grey), lattice.columns * lattice.rows, device)
        if not bool(first.textured.any()):
            return empty
        points = points_of(lattice, device).expand_as(empty.points)
        found = Matches(points, first.textured, empty.matched, empty.shift, empty.confidence)
        correlation = self._correlations(first, second)
        best = correlation.amax(1)
        matched = best >= self.peak
        moved, shift = self._moved(correlation, best, matched, lattice)
        matched[moved] = torch.hypot(shift[:, 0], shift[:, 1]) <= self.reach
        found.matched.view(-1)[first.keypoints] = matched
        found.shift.view(-1, 2)[first.keypoints[moved]] = shift * matched[moved, None]
        found.confidence.view(-1)[first.keypoints] = best.clamp_(0, 1).mul_(matched)
        return found

    @staticmethod
    def _moved(correlation: Tensor, best: Tensor, matched: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
        """Return the matched keypoints whose best shift is not 0, and the smallest of their equally good shifts."""
        shifts, nearness = shifts_of(lattice.search, correlation.device)
        still = correlation[:, len(shifts) // 2]
        # shift 0 is the smallest of all: only keypoints that correlate better elsewhere need a search
        moved = (matched & (still < best - TIE)).nonzero()[:, 0]
        maximal = correlation.index_select(0, moved) >= best[moved, None] - TIE
        nearest = (maximal * nearness).amax(1)
        return moved, shifts[(len(shifts) - nearest).long()] / lattice.unit

    def _correlations(self, first: GridFeatures, second: GridFeatures) -> Tensor:
        """Return the correlations of each keypoint with the second image at all shifts, shape (G, shifts)."""
        lattice, kernels = first.lattice, first.kernels
        side = 2 * lattice.search + 1
        found = kernels.new_empty(len(kernels), side**2)
        for start in range(0, len(kernels), first.piece):
            piece = slice(start, start + first.piece)
            windows = gather_runs(second.grey.flatten(), first.window_rows[piece], lattice.window)
            products = functional.conv2d(windows[None], kernels[piece], groups=first.piece)
            norms = gather_runs(second.inverse_norms, first.window_rows[piece, :side], side)
            torch.mul(products.flatten(), norms.flatten(), out=found[piece].view(-1))
        return found[: len(first.keypoints)]


@dataclass(frozen=True)
class Lattice:
    """The lattice in images of one size; lengths in pixels.

    Args:
        unit: pixels per 64th of the shorter side.
        stride: distance between points.
        radius: of a patch.
        search: search radius.
        top, left: first row and column of the first point's search window.
        rows, columns: numbers of points; 0 in an image too small for one.
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

    def corners(self, points: Tensor, height: int, width: int) -> Tensor:
        """Return the flat index, over the pixels of all images, of the first pixel of each point's search window.

        Args:
            points: flat indices of points over all images, ordered as in ``Matches``, shape (G,).
            height, width: of the images.
        """
        column, row = torch.div(points, self.rows, rounding_mode="floor"), points % self.rows
        image, column = torch.div(column, self.columns, rounding_mode="floor"), column % self.columns
        return (image * height + self.top + row * self.stride) * width + self.left + column * self.stride


@lru_cache(maxsize=16)
def points_of(lattice: Lattice, device: torch.device) -> Tensor:
    """Return the points in units of length, shape (columns * rows, 2), column by column."""
    middle = lattice.radius + lattice.search + 0.5
    x = lattice.left + middle + lattice.stride * torch.arange(lattice.columns, device=device)
    y = lattice.top + middle + lattice.stride * torch.arange(lattice.rows, device=device)
    return torch.cartesian_prod(x, y).reshape(-1, 2) / lattice.unit


@lru_cache(maxsize=16)
def shifts_of(search: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all shifts (x, y) in pixels, the smallest first, and the nearness of each shift in raster order.

    Nearness ranks the shifts by length: the number of shifts for the smallest, 1 for the largest.
    """
    side = torch.arange(-search, search + 1, dtype=torch.float32)
    down, across = torch.meshgrid(side, side, indexing="ij")
    sorting = torch.hypot(down, across).flatten().argsort(stable=True)
    shifts = torch.stack([across, down], -1).reshape(-1, 2)[sorting]
    return shifts.to(device), (len(shifts) - sorting.argsort()).float().to(device)


@lru_cache(maxsize=16)
def lattice_of(matcher: GridMatcher, height: int, width: int) -> Lattice:
    """Return the lattice of a matcher, centred in images of one size."""
    scale = unit(height, width)
    stride, search = max(round(matcher.stride * scale), 1), max(round(matcher.search * scale), 1)
    radius = max(round(matcher.patch // 2 * scale), 1)
    room = [side - 2 * (radius + search) - 1 for side in (height, width)]
    rows, columns = (max(free // stride + 1, 0) for free in room)
    top, left = (max(free, 0) % stride // 2 for free in room)
    return Lattice(scale, stride, radius, search, top, left, rows, columns)


def gather_runs(values: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return runs of consecutive values that begin at the given indices, shape (*starts, length).

    >>> gather_runs(torch.arange(5), torch.tensor([[3, 0]]), 2)
    tensor([[[3, 4],
             [0, 1]]])
    """
    return values.unfold(0, length, 1).index_select(0, starts.flatten()).reshape(*starts.shape, length)


@dataclass(frozen=True)
class GridFeatures:
    """A batch of images as the first or the second images of pairs.

    Args:
        matcher: provides the settings.
        grey: luminance minus 0.5, shape (N, H, W).
    """

    matcher: GridMatcher
    grey: Tensor

    @property
    def lattice(self) -> Lattice:
        return lattice_of(self.matcher, *self.grey.shape[1:])

    @cached_property
    def inverse_norms(self) -> Tensor:
        """Inverse norm of the patch that begins at each pixel, flat; 0 for faint patches.

        Meaningless where a patch would reach beyond the edge of the image.
        """
        least = FAINTEST**2 * self.lattice.patch**2
        return functional.threshold(self._power, least, math.inf).rsqrt_()

    @cached_property
    def textured(self) -> Tensor:
        """Mask of the lattice points that are keypoints, shape (N, K)."""
        points = self.lattice.columns * self.lattice.rows
        if points == 0:
            return torch.zeros(len(self.grey), 0, dtype=torch.bool, device=self.grey.device)
        least = (self.matcher.texture * self.lattice.patch) ** 2
        strong = self._at_points(self._power, tuple(self.grey.shape), self.lattice.search) >= least
        return strong & (self._slopes >= self.matcher.corner**2)

    @cached_property
    def keypoints(self) -> Tensor:
        """Flat indices of the keypoints among the points of all images, shape (G,)."""
        return self.textured.flatten().nonzero()[:, 0]

    @cached_property
    def piece(self) -> int:
        """Number of keypoints processed at once."""
        pieces = -(-len(self.keypoints) // PIECE)
        return -(-len(self.keypoints) // (pieces * STEP)) * STEP

    @cached_property
    def window_rows(self) -> Tensor:
        """Flat index of the first pixel of each row of each search window, (G, window); G is padded to full pieces."""
        height, width = self.grey.shape[1:]
        padded = functional.pad(self.keypoints, (0, -len(self.keypoints) % self.piece))
        corners = self.lattice.corners(padded, height, width)
        return corners[:, None] + torch.arange(self.lattice.window, device=corners.device) * width

    @cached_property
    def kernels(self) -> Tensor:
        """Patches of the keypoints as kernels of a grouped convolution, with mean 0 and norm 1, shape (G, 1, p, p)."""
        radius, search = self.lattice.radius, self.lattice.search
        rows = self.window_rows[:, search : search + 2 * radius + 1] + search
        patches = gather_runs(self.grey.flatten(), rows, self.lattice.patch).flatten(1)
        patches -= patches.mean(1, keepdim=True)
        patches /= patches.square().sum(1, keepdim=True).sqrt_()
        return patches.reshape(-1, 1, self.lattice.patch, self.lattice.patch)

    @cached_property
    def _power(self) -> Tensor:
        """Sum of the squared deviations from the mean in every patch, flat as ``inverse_norms``."""
        patch = self.lattice.patch
        total, square = box_sums(self.grey, patch), box_sums(self.grey.square(), patch)
        return square.addcmul_(total, total, value=-1 / patch**2)

    @property
    def _slopes(self) -> Tensor:
        """Smaller eigenvalue of each patch's structure tensor, from central differences, shape (N, K)."""
        lattice, grey = self.lattice, self.grey
        across = (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]) * (lattice.unit / 2)
        down = (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]) * (lattice.unit / 2)
        xx, yy, xy = (
            # the first row and column of the differences are the second ones of the image
            self._at_points(box_sums(product, lattice.patch), tuple(product.shape), lattice.search - 1)
            for product in (across.square(), down.square(), across * down)
        )
        smaller = (xx + yy - ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
        return smaller / lattice.patch**2

    def _at_points(self, flat: Tensor, shape: tuple[int, ...], offset: int) -> Tensor:
        """Return the values ``offset`` pixels below and right of the start of each search window, shape (N, K).

        Args:
            flat: flattened maps; the end of the last one may be missing.
            shape: of the maps, (N, H, W).
            offset: in pixels.
        """
        lattice, (count, height, width) = self.lattice, shape
        first = (lattice.top + offset) * width + lattice.left + offset
        steps = height * width, lattice.stride, lattice.stride * width
        return flat.as_strided((count, lattice.columns, lattice.rows), steps, first).flatten(1)
