"""Interventions on codes: pure functions, no model, no images.

docs/metrics.md defines do() and its three modes in section 0, the path of a traversal in section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ccvae_eval.core.types import Codes

RANK_LIMIT = 2.5758293035489004
"""Standard score of the rank .995: transported ranks are clipped to [.005, .995]."""

TAIL = 1.6448536269514722
"""Standard score of the rank .95: where the path of several columns begins and ends."""


def replaced(codes: Codes, columns: Sequence[int], values: Tensor) -> Codes:
    r"""The codes with some columns replaced, all others as they were.

    Args:
        codes: shape :math:`(N, D)`.
        columns: the columns of one characteristic.
        values: what they become, shape :math:`(N, d)` or broadcastable to it.

    >>> replaced(torch.zeros(1, 3), (1,), torch.ones(1, 1))
    tensor([[0., 1., 0.]])
    """
    out = codes.clone()
    out[:, list(columns)] = values.to(codes.dtype).expand(len(codes), len(columns))
    return out


def swapped(codes: Codes, columns: Sequence[int], donors: Codes) -> Codes:
    """The codes with some columns taken from the donors' codes, row by row."""
    return replaced(codes, columns, donors[:, list(columns)])


@dataclass(frozen=True)
class ClassGaussians:
    r"""A Gaussian for each class and column, fitted to codes.

    Args:
        count: how many codes of each class, shape :math:`(K,)`.
        total, square: sums of the codes and of their squares, shape :math:`(K, d)`, float64.
    """

    count: Tensor
    total: Tensor
    square: Tensor

    @cached_property
    def loc(self) -> Tensor:
        return self.total / self.count[:, None]

    @cached_property
    def scale(self) -> Tensor:
        """Deviations with divisor n - 1; NaN for a class of fewer than two codes."""
        return _deviation(self.count[:, None], self.total, self.square)

    def without(self, codes: Codes, classes: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and deviation of each code's own class, the code itself left out, each of shape :math:`(N, d)`."""
        z = codes.double()
        count = self.count[classes][:, None] - 1
        total, square = self.total[classes] - z, self.square[classes] - z.square()
        return total / count, _deviation(count, total, square)


def _deviation(count: Tensor, total: Tensor, square: Tensor) -> Tensor:
    variance = (square - total.square() / count) / (count - 1)
    return torch.where(count > 1, variance, torch.nan).clamp_min(0).sqrt()


def class_gaussians(codes: Codes, classes: Tensor, cardinality: int) -> ClassGaussians:
    r"""Fits a Gaussian to each class; codes of unknown class (-1) do not enter.

    Args:
        codes: shape :math:`(N, d)`.
        classes: class indices, shape :math:`(N,)`, -1 = unknown.
        cardinality: number of classes.
    """
    z = codes.double()
    member = torch.stack([classes == k for k in range(cardinality)]).double()
    return ClassGaussians(member.sum(1), member @ z, member @ z.square())


def transported(
    codes: Codes, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], limit: float = RANK_LIMIT
) -> tuple[Codes, Tensor]:
    r"""Moves codes from one Gaussian to another at the same rank, column by column.

    .. math:: z' = F_{then}^{-1}(\operatorname{clip}(F_{now}(z)))

    Args:
        codes: shape :math:`(N, d)`.
        now, then: (mean, deviation) of both Gaussians, each of shape :math:`(N, d)`. A deviation of 0 puts the
            code at its rank .5.
        limit: the standard score at which ranks are clipped.

    Returns:
        The moved codes, and which of them were clipped in some column, shape :math:`(N,)`.
    """
    loc, scale = now
    score = torch.where(scale > 0, (codes.double() - loc) / scale, 0.0)
    clipped = (score.abs() > limit).any(1)
    moved = then[0] + then[1] * score.clamp(-limit, limit)
    return moved.to(codes.dtype), clipped


@dataclass(frozen=True, slots=True)
class LatentPath:
    r"""The ends of a traversal, in the columns of one characteristic, each of shape :math:`(d,)`.

    ``separated`` is the distance of the class means in pooled deviations.
    """

    start: Tensor
    end: Tensor
    separated: float

    def at(self, position: float) -> Tensor:
        """The point at a position from 0 (start) to 1 (end)."""
        return self.start + position * (self.end - self.start)


def class_path(codes_from: Codes, codes_to: Codes) -> LatentPath:
    r"""The path from one class to another (docs/metrics.md, section 2).

    One column: from the 5 % quantile of the class that lies lower to the 95 % quantile of the other one, in the
    direction from ``codes_from`` to ``codes_to``. Several: along the line through both means, 1.645 deviations
    (along that line) beyond each.

    Args:
        codes_from, codes_to: codes of both classes in the characteristic's columns, shape :math:`(N_v, d)`.
    """
    a, b = codes_from.double(), codes_to.double()
    gap = b.mean(0) - a.mean(0)
    if a.shape[1] == 1:
        pooled = ((a.var() + b.var()) / 2).sqrt()
        low, high = (0.05, 0.95) if gap >= 0 else (0.95, 0.05)
        start, end = a[:, 0].quantile(low)[None], b[:, 0].quantile(high)[None]
        return LatentPath(start, end, _ratio(gap.abs()[0], pooled))
    length = gap.norm()
    direction = gap / length if length > 0 else torch.zeros_like(gap)
    along_a, along_b = (a @ direction).std(), (b @ direction).std()
    start, end = a.mean(0) - TAIL * along_a * direction, b.mean(0) + TAIL * along_b * direction
    return LatentPath(start, end, _ratio(length, ((along_a.square() + along_b.square()) / 2).sqrt()))


def gaussian_path(loc: tuple[Tensor, Tensor], scale: tuple[Tensor, Tensor]) -> LatentPath:
    """The same path from the classes' means and deviations, as p(z_c|y) gives them (``range="prior"``)."""
    (m0, m1), (s0, s1) = (loc[0].double(), loc[1].double()), (scale[0].double(), scale[1].double())
    gap = m1 - m0
    length = gap.norm()
    direction = gap / length if length > 0 else torch.zeros_like(gap)
    along = [(s * direction).norm() for s in (s0, s1)]
    start, end = m0 - TAIL * along[0] * direction, m1 + TAIL * along[1] * direction
    return LatentPath(start, end, _ratio(length, ((along[0].square() + along[1].square()) / 2).sqrt()))


def _ratio(distance: Tensor, deviation: Tensor) -> float:
    if deviation > 0:
        return float(distance / deviation)
    return float("inf") if distance > 0 else 0.0
