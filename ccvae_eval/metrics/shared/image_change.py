"""Pure functions on pixels: change along a path, overlap of a change with a region, spread of several draws, and SSIM.

Structural similarity (SSIM) uses the local moments of each image, which are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.statistics.ratios import safe_ratio

SLICE = 8
"""Images processed at once, so that sums over them stay in the processor's cache; no number depends on it."""


def pixel_rows(images: Images) -> Tensor:
    r"""Return each image as a row of pixels with their channels together, shape :math:`(N, H W C)`.

    A view if the images are channels_last, otherwise a copy.
    """
    return images.permute(0, 2, 3, 1).flatten(1)


def channel_means(rows: Tensor, channels: int) -> Tensor:
    r"""Return the mean over the channels of each pixel, shape :math:`(N, H W)`; ``rows`` as from :func:`pixel_rows`."""
    return _mean(rows.reshape(len(rows), -1, channels).unbind(2))


def _mean(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total.div_(len(parts))


def mean_variance(images: Sequence[Images], chosen: Tensor | None = None) -> Tensor:
    r"""Return the variance of each pixel over S images (divisor S - 1), averaged over the channels.

    Args:
        images: S tensors of shape :math:`(N, C, H, W)`.
        chosen: mask of the images to include, shape :math:`(N, S)`, bool; with fewer than two, the variance is 0.

    Returns:
        Shape :math:`(N, H W)`; exactly 0 where all images agree.
    """
    channels = images[0].shape[1]
    if chosen is not None:
        return channel_means(_variance_among([pixel_rows(x) for x in images], chosen), channels)
    return torch.cat([channel_means(_variance(part, len(images) - 1), channels) for part in _in_slices(images)])


def deviation_map(points: Sequence[Images]) -> Tensor:
    r"""Return the standard deviation of each pixel along a path: D(p) of docs/metrics.md, section 2.

    .. math:: D(p) = \frac1C \sum_c \sqrt{\tfrac1K \sum_k (x_{k,c,p} - \bar x_{c,p})^2}

    Args:
        points: K images for each of N paths, each tensor of shape :math:`(N, C, H, W)`.

    Returns:
        Shape :math:`(N, H W)`; exactly 0 where nothing changes.

    >>> path = [torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])]
    >>> deviation_map(path)
    tensor([[0.5000, 0.0000]])
    """
    channels, count = points[0].shape[1], len(points)
    return torch.cat([channel_means(_variance(part, count).sqrt_(), channels) for part in _in_slices(points)])


def _in_slices(images: Sequence[Images]) -> Iterator[list[Tensor]]:
    """Yield a few rows of all images at a time."""
    for first in range(0, len(images[0]), SLICE):
        yield [pixel_rows(x[first : first + SLICE]) for x in images]


def _variance(rows: Sequence[Tensor], divisor: int) -> Tensor:
    # of differences to the first image, so that an unchanged pixel has a variance of exactly 0
    first = rows[0]
    total, square, difference = torch.zeros_like(first), torch.zeros_like(first), torch.empty_like(first)
    for other in rows[1:]:
        torch.sub(other, first, out=difference)
        total.add_(difference)
        square.addcmul_(difference, difference)
    square.addcmul_(total, total, value=-1 / len(rows))
    return square.div_(divisor).clamp_min_(0)


def _variance_among(rows: Sequence[Tensor], chosen: Tensor) -> Tensor:
    first = rows[0]
    included = chosen.to(first)
    total, square = torch.zeros_like(first), torch.zeros_like(first)
    for index, other in enumerate(rows[1:], 1):
        difference = other - first
        weighted = difference * included[:, index : index + 1]
        total.add_(weighted)
        square.addcmul_(weighted, difference)
    size = included.sum(1, keepdim=True)
    square.sub_(total.square_().div_(size.clamp_min(1)))
    return square.div_((size - 1).clamp_min(1)).mul_(size > 1).clamp_min_(0)


def absolute_change(before: Images, after: Images) -> Tensor:
    r"""Return the mean over the channels of \|after - before\|, shape :math:`(N, H W)`."""
    return _mean((after - before).abs_().unbind(1)).flatten(1)


def path_lengths(points: Sequence[Images]) -> tuple[Floats, Floats]:
    r"""Return the L1 and L2 lengths of the K - 1 steps of a path and, last, of the line from its start to its end.

    Sums are in float32 along each row of an image and in float64 over the rows: torch would distribute a single long
    sum over threads, and its bits would depend on their number.

    Args:
        points: K images for each of N paths, each tensor of shape :math:`(N, C, H, W)`.

    Returns:
        L1 and L2 lengths, both of shape :math:`(N, K)`.
    """
    lines = points[0].shape[2]
    absolute, square = [], []
    for part in _in_slices(points):
        pairs = [*pairwise(part), (part[0], part[-1])]
        step = torch.empty_like(part[0]).reshape(len(part[0]), lines, -1)
        sums = torch.empty(2, len(pairs), *step.shape[:2], device=step.device)
        for index, (before, after) in enumerate(pairs):
            torch.sub(after, before, out=step.view_as(after))
            torch.linalg.vector_norm(step, 2, dim=2, out=sums[1, index])
            torch.sum(step.abs_(), 2, out=sums[0, index])
        found = sums.double()
        absolute.append(found[0].sum(2).T)
        square.append(found[1].square().sum(2).T)
    l1, l2 = torch.stack([torch.cat(absolute), torch.cat(square).sqrt()]).cpu().numpy()
    return l1, l2


def path_scores(points: Sequence[Images]) -> dict[str, Floats]:
    """Return ``monotone`` and ``evenness`` of L1 lengths over all pixels, ``straightness`` of L2 lengths.

    NaN where nothing changes.
    """
    absolute, euclidean = path_lengths(points)
    scores = path_length_scores(absolute[:, -1], absolute[:, :-1])
    return {**scores, "straightness": _share(euclidean[:, -1], euclidean[:, :-1].sum(1))}


def path_length_scores(distance: Floats, steps: Floats) -> dict[str, Floats]:
    r"""Return ``monotone`` = distance / sum of steps, and ``evenness`` = mean step / largest step.

    Args:
        distance: between start and end of each path, shape :math:`(N,)`.
        steps: lengths of its steps, shape :math:`(N, K - 1)`.

    Returns:
        Both in [0, 1], shape :math:`(N,)`; NaN where all steps are 0.

    >>> path_length_scores(np.array([1.0]), np.array([[0.5, 0.25, 0.25]]))
    {'monotone': array([1.]), 'evenness': array([0.66666667])}
    """
    return {"monotone": _share(distance, steps.sum(1)), "evenness": _share(steps.mean(1), steps.max(1))}


def top_mean(change: Tensor, share: float) -> Floats:
    r"""Return the mean over the most changed pixels, shape :math:`(N,)`, float64.

    Args:
        change: shape :math:`(N, P)`.
        share: share of the pixels to average over, rounded up to whole pixels.

    >>> float(top_mean(torch.arange(100.0)[None], 0.02)[0])
    98.5
    """
    size = max(int(np.ceil(share * change.shape[1])), 1)
    top = change.topk(size, 1, sorted=False).values.cpu().numpy()
    mean: Floats = np.sort(top, axis=1).mean(1, dtype=np.float64)
    return mean


def changed_area(change: Floats) -> Floats:
    r"""Return the share of the pixels that carry a change (its participation ratio).

    .. math:: a(d) = (\sum_p d_p)^2 / (P \sum_p d_p^2) \in [1/P, 1]

    Args:
        change: change of each pixel, non-negative, shape :math:`(N, P)`.

    Returns:
        Shape :math:`(N,)`; NaN where nothing changed.

    >>> changed_area(np.eye(4).reshape(1, 16))
    array([0.25])
    """
    return safe_ratio(np.square(change.sum(1)), change.shape[1] * np.square(change).sum(1))


def average_precision(change: NDArray[np.float32], region: Bools) -> Floats:
    r"""Return the average precision of the change as a detector of the region's pixels, ties taken together.

    .. math:: AP = \frac1{|A|} \sum_{p \in A} \frac{|\{q \in A : d_q \ge d_p\}|}{|\{q : d_q \ge d_p\}|}

    Args:
        change: non-negative, shape :math:`(N, P)`, float32.
        region: shape :math:`(N, P)`.

    Returns:
        Shape :math:`(N,)`, in (0, 1]; NaN where the region is empty. Chance level: the region's share of the pixels.

    >>> average_precision(np.float32([[3, 2, 1, 0]]), np.array([[True, False, True, False]]))
    array([0.83333333])
    """
    images, pixels = change.shape
    # the bits of a non-negative float sort like the float: image, change and membership make one sortable integer
    bits = np.ascontiguousarray(change + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    keys = np.sort((bits << 1) | region, axis=1).astype(np.int64)
    every = (keys + (np.arange(images)[:, None] << 32)).ravel()
    members = every[(every & 1) == 1]
    image, size = members >> 32, region.sum(1)
    as_large = (image + 1) * pixels - np.searchsorted(every, members - 1)
    members_as_large = np.cumsum(size)[image] - np.searchsorted(members, members)
    return safe_ratio(np.bincount(image, members_as_large / as_large, images).astype(np.float64), size)


def region_scores(change: NDArray[np.float32], region: Bools) -> dict[str, Floats]:
    r"""Return the locality scores of a change map and a region, image by image (docs/metrics.md, section 2).

    Args:
        change: non-negative, shape :math:`(N, P)`.
        region: shape :math:`(N, P)`.

    Returns:
        ``area``, ``inside``, ``inside_energy``, ``focus`` and ``ap``, each of shape :math:`(N,)`. Without any change,
        all but ``area`` and ``ap`` are NaN; so are ``ap`` of an empty region and ``focus`` of one that fills the image.
    """
    d = change.astype(np.float64)
    area, energy = region.mean(1), np.square(d)
    inside = _share((d * region).sum(1), d.sum(1))
    return {
        "area": area,
        "inside": inside,
        "inside_energy": _share((energy * region).sum(1), energy.sum(1)),
        "focus": safe_ratio(inside - area, 1 - area),
        "ap": average_precision(change, region),
    }


def _share(part: Floats, whole: Floats) -> Floats:
    return np.minimum(safe_ratio(part, whole), 1.0)  # rounding could exceed 1


def pairwise_spread(variance: Floats, where: Bools) -> Floats:
    r"""Return the root mean squared pixel difference between two draws, over all pairs.

    .. math:: \sqrt{\frac{1}{S(S-1)} \sum_{s \ne s'} \frac{1}{|A|} \sum_{p \in A} (x_{s,p} - x_{s',p})^2}
        = \sqrt{\frac{2}{|A|} \sum_{p \in A} \operatorname{var}_s x_{s,p}}

    Args:
        variance: of each pixel over the draws (divisor S - 1), averaged over the channels, shape :math:`(N, P)`.
        where: mask of the pixels A of each image, shape :math:`(N, P)`.

    Returns:
        Shape :math:`(N,)`, in units of intensity; NaN where A is empty.
    """
    return np.sqrt(2 * safe_ratio((variance * where).sum(1), where.sum(1)))


def recall(true: Tensor, drawn: Tensor, neighbour: int) -> Floats:
    r"""Return the share of true images that lie closer to a drawn image than to their k-th true neighbour.

    Args:
        true: S images for each of N rows, shape :math:`(N, S, P)`, S > k.
        drawn: shape :math:`(N, S', P)`.
        neighbour: k.

    Returns:
        Shape :math:`(N,)`, in [0, 1].
    """
    among_true = torch.cdist(true, true, compute_mode="donot_use_mm_for_euclid_dist")
    radius = among_true.sort(2).values[:, :, neighbour]  # index 0 is the image itself
    nearest = torch.cdist(true, drawn, compute_mode="donot_use_mm_for_euclid_dist").amin(2)
    share: Floats = (nearest < radius).double().mean(1).cpu().numpy()
    return share


SIGMA = 1.5
"""Standard deviation of the Gaussian window, in pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. (2004), for images in [0, 1]."""

MID_GREY = 0.5

NEGLIGIBLE = 1e-4
"""Mean dissimilarity below which two images count as equal: float32 rounding may produce this much on flat images."""

ROUNDING = (1 / 255) ** 2 / 12
"""Mean squared error of rounding a pixel to 8 bits; smaller errors are treated as this one."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Grey images minus 0.5, mirrored at the borders, with their local means and mean squares of shape (N, H, W).

    Subtracting 0.5 reduces rounding errors: a variance is a difference of two mean squares.
    """

    mirrored: Tensor
    mean: Tensor
    square: Tensor
    window: int


def moments(grey: Tensor, window: int = 7) -> Moments:
    """Return the local moments of images for :func:`dissimilarity`.

    Args:
        grey: shape (N, H, W), in [0, 1].
        window: side of the Gaussian window in pixels, odd.
    """
    mirrored = _mirrored(grey - MID_GREY, window // 2)
    mean, square = _blurred(torch.stack([mirrored, mirrored.square()]), window)
    return Moments(mirrored, mean, square, window)


def dissimilarity(one: Moments, other: Moments) -> Tensor:
    r"""Return 1 - SSIM at every pixel, exactly 0 where both images are equal throughout the window.

    .. math:: SSIM = \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    Wang, Bovik, Sheikh and Simoncelli (2004), with a Gaussian window of standard deviation 1.5 and mirrored borders, as
    in ``kornia.metrics.ssim``.

    Returns:
        Shape (N, H, W), in [0, 2].

    >>> flat = moments(torch.zeros(1, 8, 8))
    >>> float(dissimilarity(flat, flat).max())
    0.0
    """
    product = one.mean * other.mean
    covariance = _blurred((one.mirrored * other.mirrored)[None], one.window)[0].sub_(product)
    squares = one.mean.square().add_(other.mean.square())
    variances = (one.square + other.square).sub_(squares)
    # (m + 1/2) (n + 1/2) = m n + (m + n + 1/2) / 2
    shift = (one.mean + other.mean).add_(2 * MID_GREY**2 + C1)
    above = product.mul_(2).add_(shift).mul_(covariance.mul_(2).add_(C2))
    below = squares.add_(shift).mul_(variances.add_(C2))
    return above.div_(below).neg_().add_(1).clamp_min_(0)  # rounding could make it negative


def similarity_scores(images: Images, rebuilt: Images, window: int) -> dict[str, Floats]:
    r"""Return ``mse``, ``psnr`` and ``ssim`` of images and their reconstructions, pair by pair.

    Args:
        images, rebuilt: shape :math:`(N, C, H, W)`, in [0, 1]; or points, shape :math:`(N, D)`.
        window: side of the SSIM window in pixels.

    Returns:
        Each of shape :math:`(N,)`. ``psnr`` is in dB and limited by the error of rounding to 8 bits; ``ssim`` is the
        mean over pixels and channels. Points have ``mse`` only; images not larger than half a window have no ``ssim``.
    """
    mse: Floats = (images.double() - rebuilt.double()).square().flatten(1).mean(1).cpu().numpy()
    found = {"mse": mse}
    if images.ndim == 4:
        found["psnr"] = -10 * np.log10(np.maximum(mse, ROUNDING))
        if min(images.shape[2:]) > window // 2:
            # one channel at a time, to stay in the processor's cache
            similar = [
                1 - dissimilarity(moments(x, window), moments(r, window)).double().mean((1, 2))
                for x, r in zip(images.unbind(1), rebuilt.unbind(1), strict=True)
            ]
            # rounding could exceed 1
            found["ssim"] = torch.stack(similar, 1).mean(1).clamp_max(1).cpu().numpy()
    return found


def _blurred(maps: Tensor, window: int) -> Tensor:
    """Return weighted means over the windows that lie inside, shape (M, N, H, W), by one grouped convolution."""
    count = maps.shape[1]
    return functional.conv2d(maps, _filters(count, window, maps.device), groups=count)


@lru_cache(maxsize=16)
def _filters(count: int, window: int, device: torch.device) -> Tensor:
    """Return the Gaussian window, repeated for each image, shape (count, 1, window, window)."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / SIGMA) ** 2)
    taps /= taps.sum()
    return torch.from_numpy(np.outer(taps, taps)).float().repeat(count, 1, 1, 1).to(device)


def _mirrored(maps: Tensor, margin: int) -> Tensor:
    """Return maps with mirrored borders, shape (N, H + 2 margin, W + 2 margin); the margin may exceed their size."""
    height, width = maps.shape[1:]
    index = _mirror_index(height, width, margin, maps.device)
    return maps.flatten(1).index_select(1, index).reshape(-1, height + 2 * margin, width + 2 * margin)


@lru_cache(maxsize=16)
def _mirror_index(height: int, width: int, margin: int, device: torch.device) -> Tensor:
    """Return the source pixel of each pixel of a mirrored map."""
    down, across = (np.pad(np.arange(side), margin, mode="reflect") for side in (height, width))
    return torch.from_numpy((down[:, None] * width + across).ravel()).to(device)
