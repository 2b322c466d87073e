"""Interventions and traversal paths on codes, as pure functions of tensors.

docs/metrics.md defines do() and its three modes in section 0, the traversal path in section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ccvae_eval.core.types import Codes

RANK_LIMIT = 2.5758293035489004
"""Standard score of rank 0.995: transported ranks are clipped to [0.005, 0.995]."""

PATH_TAIL = 1.6448536269514722
"""Standard score of rank 0.95, where a path through several latent dimensions ends."""


def replaced(codes: Codes, columns: Sequence[int], values: Tensor) -> Codes:
    r"""Returns the codes with the values of some latent dimensions replaced.

    Args:
        codes: shape :math:`(N, D)`; not changed.
        columns: the d latent dimensions of one characteristic.
        values: the new values, shape :math:`(N, d)` or broadcastable to it.

    >>> replaced(torch.zeros(1, 3), (1,), torch.ones(1, 1))
    tensor([[0., 1., 0.]])
    """
    out = codes.clone()
    out[:, list(columns)] = values.to(codes.dtype).expand(len(codes), len(columns))
    return out


def swapped(codes: Codes, columns: Sequence[int], donors: Codes) -> Codes:
    """Returns the codes with some latent dimensions taken from the donors' codes, row by row."""
    return replaced(codes, columns, donors[:, list(columns)])


@dataclass(frozen=True)
class ClassGaussians:
    r"""A Gaussian for each class and latent dimension, fitted to codes.

    Args:
        count: number of codes of each class, shape :math:`(K,)`.
        total, square: sums of the codes and of their squares, shape :math:`(K, d)`, float64.
    """

    count: Tensor
    total: Tensor
    square: Tensor

    @cached_property
    def loc(self) -> Tensor:
        """Class means, shape (K, d); NaN for an empty class."""
        return self.total / self.count[:, None]

    @cached_property
    def scale(self) -> Tensor:
        """Standard deviations with divisor n - 1, shape (K, d); NaN for a class of fewer than two codes."""
        return _deviation(self.count[:, None], self.total, self.square)

    def leave_one_out(self, codes: Codes, classes: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and deviation of each code's class without the code itself, each of shape :math:`(N, d)`."""
        z = codes.double()
        count = self.count[classes][:, None] - 1
        total, square = self.total[classes] - z, self.square[classes] - z.square()
        return total / count, _deviation(count, total, square)


def _deviation(count: Tensor, total: Tensor, square: Tensor) -> Tensor:
    variance = (square - total.square() / count) / (count - 1)
    return torch.where(count > 1, variance, torch.nan).clamp_min(0).sqrt()


def class_gaussians(codes: Codes, classes: Tensor, cardinality: int) -> ClassGaussians:
    r"""Fits a Gaussian to the codes of each class in each latent dimension.

    Args:
        codes: shape :math:`(N, d)`.
        classes: class indices, shape :math:`(N,)`; codes of class -1 (unknown) are ignored.
        cardinality: number of classes K.
    """
    z = codes.double()
    member = torch.stack([classes == k for k in range(cardinality)]).double()
    return ClassGaussians(member.sum(1), member @ z, member @ z.square())


@dataclass(frozen=True)
class CodeRegression:
    r"""A Gaussian for each latent dimension whose mean is linear in a continuous label, fitted to codes.

    .. math:: z = \bar z + b (y - \bar y) + s e

    Args:
        count: number of codes n.
        centre, spread: mean of the label, and its sum of squared deviations.
        loc, slope: :math:`\bar z` and b, each of shape :math:`(d,)`, float64.
        residual: sum of the squared residuals, shape :math:`(d,)`.
    """

    count: int
    centre: Tensor
    spread: Tensor
    loc: Tensor
    slope: Tensor
    residual: Tensor

    def at(self, values: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and deviation (divisor n - 2) of codes with these labels, shape (N,), each of shape :math:`(N, d)`."""
        loc = self.loc + self.slope * (values.double()[:, None] - self.centre)
        return loc, (self.residual / (self.count - 2)).sqrt().expand_as(loc)

    def leave_one_out(self, codes: Codes, values: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and deviation at each code's own label in a fit without the code, each of shape :math:`(N, d)`."""
        z, offset = codes.double(), values.double()[:, None] - self.centre
        rest = 1 - 1 / self.count - offset.square() / self.spread  # 1 - leverage
        error = (z - self.loc - self.slope * offset) / rest
        residual = (self.residual - error.square() * rest).clamp_min(0)
        return z - error, (residual / (self.count - 3)).sqrt()


def code_regression(codes: Codes, values: Tensor) -> CodeRegression:
    r"""Fits the least-squares line of each latent dimension on a label.

    Args:
        codes: shape :math:`(n, d)`, n > 3.
        values: labels, shape :math:`(n,)`, not constant and without NaN.
    """
    z, y = codes.double(), values.double()
    offset = y - y.mean()
    spread = offset.square().sum()
    slope = offset @ z / spread
    residual = (z - z.mean(0) - slope * offset[:, None]).square().sum(0)
    return CodeRegression(len(z), y.mean(), spread, z.mean(0), slope, residual)


def transported(
    codes: Codes, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], limit: float = RANK_LIMIT
) -> tuple[Codes, Tensor]:
    r"""Moves codes from one Gaussian to another at the same rank, in each latent dimension.

    .. math:: z' = F_{target}^{-1}(\operatorname{clip}(F_{source}(z)))

    Args:
        codes: shape :math:`(N, d)`.
        source, target: (mean, standard deviation) of both Gaussians, each of shape :math:`(N, d)`. A code of a Gaussian
            with deviation 0 has rank 0.5.
        limit: standard score at which ranks are clipped.

    Returns:
        The moved codes, shape :math:`(N, d)`, and True for codes clipped in some dimension, shape :math:`(N,)`.
    """
    loc, scale = source
    score = torch.where(scale > 0, (codes.double() - loc) / scale, 0.0)
    clipped = (score.abs() > limit).any(1)
    moved = target[0] + target[1] * score.clamp(-limit, limit)
    return moved.to(codes.dtype), clipped


@dataclass(frozen=True, slots=True)
class LatentPath:
    r"""A straight traversal path in the latent dimensions of one characteristic.

    Args:
        start, end: its ends, each of shape :math:`(d,)`.
        separation: distance of the class means in pooled standard deviations; 0 for equal means.
    """

    start: Tensor
    end: Tensor
    separation: float

    def at(self, position: float) -> Tensor:
        """Returns the point at a position from 0 (start) to 1 (end)."""
        return self.start + position * (self.end - self.start)


def class_path(codes_from: Codes, codes_to: Codes) -> LatentPath:
    r"""Returns the path from one class to another (docs/metrics.md, section 2).

    In one dimension it runs from the 5% quantile of the lower class to the 95% quantile of the higher one, or in the
    opposite direction if ``codes_from`` is the higher one. In several it runs along the line through both means and
    extends 1.645 standard deviations (along that line) beyond each.

    Args:
        codes_from, codes_to: codes of both classes in the characteristic's dimensions, shape :math:`(N_v, d)`.
    """
    a, b = codes_from.double(), codes_to.double()
    gap = b.mean(0) - a.mean(0)
    if a.shape[1] == 1:
        pooled = ((a.var() + b.var()) / 2).sqrt()
        low, high = (0.05, 0.95) if gap >= 0 else (0.95, 0.05)
        start, end = a[:, 0].quantile(low)[None], b[:, 0].quantile(high)[None]
        return LatentPath(start, end, _ratio(gap.abs()[0], pooled))
    return _line(a.mean(0), b.mean(0), lambda direction: [(a @ direction).std(), (b @ direction).std()])


def gaussian_path(loc: tuple[Tensor, Tensor], scale: tuple[Tensor, Tensor]) -> LatentPath:
    """Returns the path between two classes given as Gaussians p(z_c|y) by mean and deviation (``range="prior"``)."""
    return _line(loc[0].double(), loc[1].double(), lambda direction: [(s.double() * direction).norm() for s in scale])


def value_path(loc: tuple[Tensor, Tensor], scale: tuple[Tensor, Tensor], span: float) -> LatentPath:
    """Returns the path between the mean codes at two values of a continuous label, which are its ends.

    Its ``separation`` is the distance of the mean codes of two values that differ by two standard deviations of the
    label, as those of two equally frequent classes do.

    Args:
        loc, scale: mean and deviation of the codes at both values, each of shape (d,).
        span: distance of both values, in units of two standard deviations of the label.
    """
    path = gaussian_path(loc, scale)
    return LatentPath(loc[0].double(), loc[1].double(), path.separation / span)


def _line(m0: Tensor, m1: Tensor, deviations: Callable[[Tensor], list[Tensor]]) -> LatentPath:
    """The path through two class means, extended at each end by ``PATH_TAIL`` deviations of that class along it."""
    gap = m1 - m0
    length = gap.norm()
    direction = gap / length if length > 0 else torch.zeros_like(gap)
    s0, s1 = deviations(direction)
    pooled = ((s0.square() + s1.square()) / 2).sqrt()
    return LatentPath(m0 - PATH_TAIL * s0 * direction, m1 + PATH_TAIL * s1 * direction, _ratio(length, pooled))


def _ratio(distance: Tensor, deviation: Tensor) -> float:
    if deviation > 0:
        return float(distance / deviation)
    return float("inf") if distance > 0 else 0.0
