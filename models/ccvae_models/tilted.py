r"""Draws from q(z_c|x,y) = w q(z_c|x), the posterior that has seen the labels, with pathwise gradients.

In CCVAE's bound the reconstruction is weighted by w = q(y|z_c)/q(y|x). A weighted draw from q(z|x) wastes most of a
batch: with nine labels the effective share of w is .1 to .3 early in training, and the decoder learns nothing for
thousands of steps (measured). As w factorises over labels, each label's q(z^i|x,y^i) is a density of one dimension (two
for a class on a plane), and a draw from it needs no weight:

.. math:: E_{q(z|x)}[w \log p(x|z)] = E_{q(z|x,y)}[\log p(x|z)]

The draw inverts the cumulative distribution on a grid; its gradient is implicit, dz = -dF(z) / f(z) (Figurnov, Mohamed
and Mnih, "Implicit reparameterization gradients", 2018, Eq. 5).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ccvae_eval.types import Gaussian
from ccvae_models.quadrature import REACH, class_log_probabilities, trapezoid

LINE, ACROSS = 257, 33
"""Nodes along the dimension that is drawn, and across it where the other one is integrated out."""
BISECTIONS = 24
EDGE = 1e-6
LEAST_DENSITY = 1e-8


def draw(log_density: Tensor, uniform: Tensor) -> Tensor:
    r"""A point with cumulative probability ``uniform``, differentiable in the density.

    The cumulative distribution is a fourth-order sum over the grid's cells and a cubic inside each.

    Args:
        log_density: unnormalised, at ``LINE`` equally spaced nodes of [-8, 8], shape :math:`(..., P)`; negligible at
            both ends.
        uniform: shape :math:`(...)`, in (0, 1).

    Returns:
        Points, shape :math:`(...)`; as a function of the density's parameters they move so that their cumulative
        probability stays.
    """
    points = log_density.shape[-1]
    step = 2 * REACH / (points - 1)
    density = torch.softmax(log_density.double(), -1) / step
    beyond = torch.zeros_like(density[..., :1])
    f = torch.cat([beyond, density, beyond], -1)
    cells = step / 24 * (13 * (f[..., 1:-2] + f[..., 2:-1]) - f[..., :-3] - f[..., 3:])
    cumulative = torch.cat([beyond, cells.cumsum(-1)], -1)
    total = cumulative[..., -1:]
    cumulative, density = cumulative / total, density / total
    target = uniform.double().clamp(EDGE, 1 - EDGE).unsqueeze(-1)
    with torch.no_grad():
        cell = (torch.searchsorted(cumulative.contiguous(), target) - 1).clamp(0, points - 2)
    below, above = cell, cell + 1
    curve = _Cubic(
        cumulative.gather(-1, below), cumulative.gather(-1, above), density.gather(-1, below),
        density.gather(-1, above), step,
    )  # fmt: skip
    with torch.no_grad():
        inside = curve.root(target)
        slope = curve.slope(inside).clamp_min(LEAST_DENSITY)
    place = -REACH + step * (cell + inside)
    moved = place - (curve.at(inside) - target) / slope
    # the value is the root itself; the fraction is there for its gradient alone
    return (place + (moved - moved.detach())).squeeze(-1).to(log_density.dtype)


class _Cubic(NamedTuple):
    """Hermite's cubic on cells of width ``step``: values c and derivatives f at both ends."""

    c0: Tensor
    c1: Tensor
    f0: Tensor
    f1: Tensor
    step: float

    def at(self, t: Tensor) -> Tensor:
        """The value at a share t of the cell."""
        s = 1 - t
        low = (1 + 2 * t) * self.c0 + self.step * t * self.f0
        return s * s * low + t * t * ((1 + 2 * s) * self.c1 - self.step * s * self.f1)

    def slope(self, t: Tensor) -> Tensor:
        """The derivative at a share t of the cell."""
        s = 1 - t
        return 6 * t * s * (self.c1 - self.c0) / self.step + s * (1 - 3 * t) * self.f0 + t * (1 - 3 * s) * self.f1

    def root(self, target: Tensor) -> Tensor:
        """The share of the cell at which the value is reached."""
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.at(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def tilted_noise(q: Gaussian, weight: Tensor, bias: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Standard coordinates e = (z - m)/s of a draw from q(z^i|x,y^i), for each of G labels with d columns.

    Args:
        q: q(z|x) over the labels' columns, loc and scale of shape (N, G, d).
        weight, bias: the linear classifier, shapes (G, R, d) and (G, R), R = 1 for binary labels.
        value: the observed class of each label, shape (N, G).
        noise: standard normal draws, shape (N, G, d): each is moved to its own rank under the tilted density.

    Returns:
        Shape (N, G, d), with pathwise gradients in q, weight and bias. Classes beyond two in more than two columns
        are not handled here: they keep their weights.
    """
    centre = torch.einsum("ngd,grd->ngr", q.loc, weight) + bias
    slope = q.scale.unsqueeze(2) * weight  # (N, G, R, d): logits per unit of e
    if weight.shape[1] == 1:
        return _along_the_logit(centre, slope.squeeze(2), value, noise)
    if noise.shape[-1] == 1:
        return _drawn(centre, slope[..., 0], value, noise[..., 0]).unsqueeze(-1)
    return _in_the_plane(centre, slope, value, noise)


def _along_the_logit(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """A binary label's logit is Gaussian: only the direction that moves it is tilted."""
    deviation = (slope.square().sum(-1, keepdim=True) + torch.finfo(slope.dtype).tiny).sqrt()
    direction = slope / deviation
    along = (noise * direction).sum(-1)
    moved = _drawn(centre, deviation, value, along)
    return noise + direction * (moved - along).unsqueeze(-1)


def _drawn(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """A draw along one line: logits are centre + slope e, shapes (N, G, R); value and noise (N, G)."""
    line = trapezoid(LINE, 1).like(centre)
    logits = centre.unsqueeze(2) + slope.unsqueeze(2) * line.nodes  # (N, G, P, R)
    log_q = _of_class(class_log_probabilities(logits), value)
    return draw(log_q + line.log_weights, _rank(noise))


def _in_the_plane(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Two columns: the first from its marginal, the second given the first."""
    line, across = trapezoid(LINE // 2 + 1, 1).like(centre), trapezoid(ACROSS, 1).like(centre)
    first = centre[:, :, None, None] + slope[:, :, None, None, :, 0] * line.nodes[:, None]
    logits = first + slope[:, :, None, None, :, 1] * across.nodes  # (N, G, P, Q, R)
    log_q = _of_class(class_log_probabilities(logits).flatten(2, 3), value).reshape(*logits.shape[:4])
    marginal = (log_q + across.log_weights).logsumexp(-1) + line.log_weights
    e0 = draw(marginal, _rank(noise[..., 0]))
    e1 = _drawn(centre + slope[..., 0] * e0.unsqueeze(-1), slope[..., 1], value, noise[..., 1])
    return torch.stack([e0, e1], -1)


def _of_class(log_q: Tensor, value: Tensor) -> Tensor:
    """Of log q(y|z) for every class, shape (N, G, P, K), the observed class's, shape (N, G, P)."""
    index = value[..., None, None].expand(*log_q.shape[:3], 1)
    return log_q.gather(-1, index).squeeze(-1)


def _rank(noise: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(noise.double() / math.sqrt(2)))
