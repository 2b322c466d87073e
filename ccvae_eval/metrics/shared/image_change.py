"""How images change along a path and how far apart draws lie: pure functions on pixels.

Images are read once or twice and in place, because decoding them is cheap; what leaves is small and float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.types import Bools, Floats, Images

SLICE = 8
"""Rows of images that are worked on at once; no number depends on it."""


def rows_of(images: Images) -> Tensor:
    r"""The images as rows of pixels with their channels together, shape :math:`(N, H W C)`.

    A view where the images are channels_last, as our decoders give them; else a copy.
    """
    return images.permute(0, 2, 3, 1).flatten(1)


def over_channels(rows: Tensor, channels: int) -> Tensor:
    r"""The mean over the channels of each pixel, shape :math:`(N, H W)`."""
    if channels == 1:
        return rows
    parts = rows.reshape(len(rows), -1, channels).unbind(2)
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total.div_(channels)


def mean_variance(images: Sequence[Images], chosen: Tensor | None = None) -> Tensor:
    r"""The variance of each pixel over some images of each row, divisor S - 1, averaged over the channels.

    Args:
        images: S tensors of shape :math:`(N, C, H, W)`.
        chosen: which of them count, shape :math:`(N, S)`, bool; where fewer than two do, the variance is 0.

    Returns:
        Shape :math:`(N, H W)`; 0 exactly where nothing differs.
    """
    channels = images[0].shape[1]
    if chosen is not None:
        return over_channels(_variance_among([rows_of(x) for x in images], chosen), channels)
    parts = [over_channels(_variance(part, len(images) - 1), channels) for part in _in_slices(images)]
    return torch.cat(parts)


def deviation_map(points: Sequence[Images]) -> Tensor:
    r"""How much each pixel changes along a path: D(p) of docs/metrics.md, section 2.

    .. math:: D(p) = \frac1C \sum_c \sqrt{\tfrac1K \sum_k (x_{k,c,p} - \bar x_{c,p})^2}

    Args:
        points: the K images of each row's path, each of shape :math:`(N, C, H, W)`.

    Returns:
        Shape :math:`(N, H W)`; 0 exactly where nothing changes.

    >>> path = [torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])]
    >>> deviation_map(path)
    tensor([[0.5000, 0.0000]])
    """
    channels = points[0].shape[1]
    parts = [over_channels(_variance(part, len(points)).sqrt_(), channels) for part in _in_slices(points)]
    return torch.cat(parts)


def _in_slices(images: Sequence[Images]) -> Iterator[list[Tensor]]:
    """A few rows of all images at a time: what is summed over them stays in the processor's cache (3 times faster)."""
    for first in range(0, len(images[0]), SLICE):
        yield [rows_of(x[first : first + SLICE]) for x in images]


def _variance(rows: Sequence[Tensor], divisor: int) -> Tensor:
    """Sums are of differences to the first image, so that an unchanged pixel has a variance of exactly 0."""
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
    share = chosen.to(first)
    total, square = torch.zeros_like(first), torch.zeros_like(first)
    for place, other in enumerate(rows[1:], 1):
        difference = other - first
        weighted = difference * share[:, place : place + 1]
        total.add_(weighted)
        square.addcmul_(weighted, difference)
    size = share.sum(1, keepdim=True)
    square.sub_(total.square_().div_(size.clamp_min(1)))
    return square.div_((size - 1).clamp_min(1)).mul_(size > 1).clamp_min_(0)


def absolute_change(before: Images, after: Images) -> Tensor:
    r"""The mean over the channels of \|after - before\|, shape :math:`(N, H W)`."""
    change = (after - before).abs_()
    total = change[:, 0] if change.shape[1] == 1 else change[:, 0] + change[:, 1]
    for channel in change.unbind(1)[2:]:
        total += channel
    return total.div_(change.shape[1]).flatten(1)


def path_lengths(points: Sequence[Images]) -> tuple[Floats, Floats]:
    r"""L1 and L2 lengths of the K - 1 steps of a path and, last, of the way from its start to its end.

    Summed in float32 along each line of the image, in float64 over the lines: no sum is left to one result alone,
    which torch would share out among threads.

    Args:
        points: the K images of each row's path, each of shape :math:`(N, C, H, W)`.

    Returns:
        Both of shape :math:`(N, K)`.
    """
    lines = points[0].shape[2]
    absolute, square = [], []
    for part in _in_slices(points):
        pairs = [*pairwise(part), (part[0], part[-1])]
        step = torch.empty_like(part[0]).reshape(len(part[0]), lines, -1)
        sums = torch.empty(2, len(pairs), *step.shape[:2], device=step.device)
        for place, (before, after) in enumerate(pairs):
            torch.sub(after, before, out=step.view_as(after))
            torch.linalg.vector_norm(step, 2, dim=2, out=sums[1, place])
            torch.sum(step.abs_(), 2, out=sums[0, place])
        found = sums.double().cpu()
        absolute.append(found[0].sum(2).T)
        square.append(found[1].square().sum(2).T)
    return torch.cat(absolute).numpy(), torch.cat(square).sqrt().numpy()


def top_mean(change: NDArray[np.float32], share: float) -> Floats:
    r"""The mean over the most changed pixels.

    Args:
        change: shape :math:`(N, P)`.
        share: of the pixels, rounded up to whole ones.

    >>> float(top_mean(np.arange(100, dtype=np.float32)[None], 0.02)[0])
    98.5
    """
    pixels = change.shape[1]
    size = max(int(np.ceil(share * pixels)), 1)
    top = np.partition(change, pixels - size, axis=1)[:, pixels - size :]
    mean: Floats = np.sort(top, axis=1).mean(1, dtype=np.float64)
    return mean


def changed_area(change: Floats) -> Floats:
    r"""Share of the pixels that carry a change (its participation ratio).

    .. math:: a(d) = (\sum_p d_p)^2 / (P \sum_p d_p^2) \in [1/P, 1]

    Args:
        change: how much each pixel changed, not negative, shape :math:`(N, P)`.

    Returns:
        One share for each image, shape :math:`(N,)`; NaN where nothing changed.

    >>> changed_area(np.eye(4).reshape(1, 16))
    array([0.25])
    """
    energy = np.square(change).sum(1)
    share = np.square(change.sum(1)) / (change.shape[1] * np.where(energy > 0, energy, 1.0))
    return np.where(energy > 0, share, np.nan)


def average_precision(change: NDArray[np.float32], region: Bools) -> Floats:
    r"""How well the size of the change finds the region: average precision, ties taken together.

    .. math:: AP = \frac1{|A|} \sum_{p \in A} \frac{|\{q \in A : d_q \ge d_p\}|}{|\{q : d_q \ge d_p\}|}

    The bits of a float that is not negative sort as the float does. So image, size and membership make one integer,
    all images are sorted at once, and only the pixels of the regions are looked up.

    Args:
        change: not negative, shape :math:`(N, P)`, float32.
        region: shape :math:`(N, P)`.

    Returns:
        Shape :math:`(N,)`, chance = the region's share; NaN where the region is empty.

    >>> average_precision(np.float32([[3, 2, 1, 0]]), np.array([[True, False, True, False]]))
    array([0.83333333])
    """
    images, pixels = change.shape
    bits = np.ascontiguousarray(change + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    keys = np.sort((bits << 1) | region, axis=1).astype(np.int64)
    everyone = (keys + (np.arange(images)[:, None] << 32)).ravel()
    members = everyone[(everyone & 1) == 1]
    image, size = members >> 32, region.sum(1)
    as_large = (image + 1) * pixels - np.searchsorted(everyone, members - 1)
    members_as_large = np.cumsum(size)[image] - np.searchsorted(members, members)
    precision = np.bincount(image, members_as_large / as_large, images)
    return np.where(size > 0, precision / np.maximum(size, 1), np.nan)


def path_scores(points: Sequence[Images]) -> dict[str, Floats]:
    """``monotone`` and ``evenness`` from L1 distances over all pixels, ``straightness`` from L2; NaN for no change."""
    absolute, euclidean = path_lengths(points)
    scores = course_scores(absolute[:, -1], absolute[:, :-1])
    return {**scores, "straightness": _share(euclidean[:, -1], euclidean[:, :-1].sum(1))}


def course_scores(way: Floats, steps: Floats) -> dict[str, Floats]:
    r"""How direct and how even a course is.

    Args:
        way: the distance from its start to its end, shape :math:`(N,)`.
        steps: the lengths of its steps, shape :math:`(N, K - 1)`.

    Returns:
        ``monotone`` = way / sum of steps, and ``evenness`` = mean step / largest step; NaN where nothing moves.

    >>> course_scores(np.array([1.0]), np.array([[0.5, 0.25, 0.25]]))
    {'monotone': array([1.]), 'evenness': array([0.66666667])}
    """
    return {"monotone": _share(way, steps.sum(1)), "evenness": _share(steps.mean(1), steps.max(1))}


def region_scores(change: NDArray[np.float32], region: Bools) -> dict[str, Floats]:
    r"""What locality says of a change map and a region, image by image (docs/metrics.md, section 2).

    Args:
        change: shape :math:`(N, P)`, not negative.
        region: shape :math:`(N, P)`.

    Returns:
        ``area``, ``inside``, ``inside_energy``, ``focus`` and ``ap``, each of shape :math:`(N,)`; NaN where nothing
        changed (``area`` and ``ap`` excepted), ``ap`` where the region is empty, ``focus`` where it is everything.
    """
    d = change.astype(np.float64)
    area, energy = region.mean(1), np.square(d)
    inside = _share((d * region).sum(1), d.sum(1))
    return {
        "area": area,
        "inside": inside,
        "inside_energy": _share((energy * region).sum(1), energy.sum(1)),
        "focus": np.where(area < 1, (inside - area) / np.where(area < 1, 1 - area, 1.0), np.nan),
        "ap": average_precision(change, region),
    }


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where there is no whole; rounding does not carry it above 1."""
    return np.where(whole > 0, np.minimum(part / np.where(whole > 0, whole, 1.0), 1.0), np.nan)


def pairwise_spread(variance: Floats, where: Bools) -> Floats:
    r"""How far apart two draws lie: the root of the mean squared difference of a pixel.

    .. math:: \sqrt{\frac{1}{S(S-1)} \sum_{s \ne s'} \frac{1}{|A|} \sum_{p \in A} (x_{s,p} - x_{s',p})^2}
        = \sqrt{\frac{2}{|A|} \sum_{p \in A} \operatorname{var}_s x_{s,p}}

    with the variance's divisor S - 1: no pair is ever formed.

    Args:
        variance: of each pixel over the draws, averaged over the channels, shape :math:`(N, P)`.
        where: the pixels A of each image, shape :math:`(N, P)`.

    Returns:
        Shape :math:`(N,)`, intensity; NaN where A is empty.
    """
    size = where.sum(1)
    mean = (variance * where).sum(1) / np.maximum(size, 1)
    return np.where(size > 0, np.sqrt(2 * mean), np.nan)


def recall(true: Tensor, drawn: Tensor, neighbour: int) -> Floats:
    r"""The share of true images closer to some drawn one than to their own k-th true neighbour, row by row.

    Args:
        true: shape :math:`(N, S, P)`, S > k.
        drawn: shape :math:`(N, S', P)`.
        neighbour: k.

    Returns:
        Shape :math:`(N,)`.
    """
    among_true = torch.cdist(true, true, compute_mode="donot_use_mm_for_euclid_dist")
    radius = among_true.sort(2).values[:, :, neighbour]  # place 0 is the image itself
    nearest = torch.cdist(true, drawn, compute_mode="donot_use_mm_for_euclid_dist").amin(2)
    share: Floats = (nearest < radius).double().mean(1).cpu().numpy()
    return share
