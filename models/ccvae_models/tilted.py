r"""Draws from q(z_c|x,y) = w q(z_c|x), the posterior that has seen the labels, with pathwise gradients.

In CCVAE's bound the reconstruction is weighted by w = q(y|z_c)/q(y|x). A weighted draw from q(z|x) wastes most of a
batch: with nine labels the effective share of w is .1 to .3 early in training, and the decoder learns nothing for
thousands of steps (measured). As w factorises over labels, each label's q(z^i|x,y^i) is a density of one dimension (two
for a class on a plane), and a draw from it needs no weight:

.. math:: E_{q(z|x)}[w \log p(x|z)] = E_{q(z|x,y)}[\log p(x|z)]

The draw inverts the cumulative distribution on a grid; its gradient is implicit, dz = -dF(z) / f(z) (Figurnov, Mohamed
and Mnih, "Implicit reparameterization gradients", 2018, Eq. 5). As the logits are linear in z, dF is a sum over the
same grid, taken once on the way forwards: nothing goes back through the grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.types import Gaussian
from ccvae_models.quadrature import REACH, trapezoid

LINE, ACROSS = 257, 33
"""Nodes along the dimension that is drawn, and across it where the other one is integrated out."""
BISECTIONS = 10
"""Halvings of a cell before one step of Newton's: a thousandth of a cell squared is beyond float32."""
EDGE = 1e-6
LEAST_DENSITY = 1e-8


class Draw(NamedTuple):
    """A point of cumulative probability u, and how it moves when the density does.

    Args:
        point: shape (...).
        by_rank: d point / du, shape (...).
        by_offset: d point / d a_r, where log density has the term a_r h_r(t), shape (..., R).
        by_slope: d point / d b_r, where it has the term b_r t h_r(t), shape (..., R).
    """

    point: Tensor
    by_rank: Tensor
    by_offset: Tensor
    by_slope: Tensor


@torch.no_grad()
def draw(log_density: Tensor, influence: Tensor, uniform: Tensor) -> Draw:
    r"""Inverts a cumulative distribution: a fourth-order sum over the grid's cells and a cubic inside each.

    Args:
        log_density: unnormalised, at equally spaced nodes t of [-8, 8], shape :math:`(..., P)`; negligible at both
            ends.
        influence: h, the derivative of the log density by parameters of interest, shape :math:`(..., R, P)`.
        uniform: cumulative probabilities, shape :math:`(...)`, in (0, 1).
    """
    points = log_density.shape[-1]
    step = 2 * REACH / (points - 1)
    nodes = torch.linspace(-REACH, REACH, points, dtype=torch.float64, device=log_density.device)
    f = torch.softmax(log_density, -1).double().div_(step)
    cumulative = f.cumsum(-1).sub_(f, alpha=0.5)
    cumulative[..., 1:-1].sub_(f[..., 2:] - f[..., :-2], alpha=1 / 24)
    cumulative.mul_(step)[..., 0] = 0  # rounding must not reach the search
    target = uniform.double().clamp(EDGE, 1 - EDGE).unsqueeze(-1)
    cell = (torch.searchsorted(cumulative, target) - 1).clamp(1, points - 3)
    curve = _Cubic(
        cumulative.gather(-1, cell), cumulative.gather(-1, cell + 1), f.gather(-1, cell), f.gather(-1, cell + 1), step
    )
    inside = curve.root(target)
    point = -REACH + step * (cell + inside)
    density = curve.slope(inside).clamp_min(LEAST_DENSITY)

    # dF = the part of the density's change that lies below the point, less the point's share of all of it
    moments = torch.stack([torch.ones_like(nodes), nodes], 1)
    change = f.unsqueeze(-2) * influence  # (..., R, P)
    total = (change @ moments).transpose(-1, -2)  # (..., 2, R)
    below = change.masked_fill(torch.arange(points, device=cell.device) > cell.unsqueeze(-1), 0)
    near = (cell + torch.arange(-1, 3, device=cell.device)).unsqueeze(-2)  # (..., 1, 4)
    g = change.gather(-1, near.expand(*change.shape[:-1], 4))
    g = torch.stack([g, g * nodes[near]], -3)  # (..., 2, R, 4)
    at_cell = step * ((below @ moments).transpose(-1, -2) - g[..., 1] / 2 - (g[..., 2] - g[..., 0]) / 24)
    following = at_cell + step / 24 * (13 * (g[..., 1] + g[..., 2]) - g[..., 0] - g[..., 3])
    share = inside.unsqueeze(-1)
    below_point = _Cubic(at_cell, following, g[..., 1], g[..., 2], step).at(share)
    rates = (step * total * target.unsqueeze(-1) - below_point) / density.unsqueeze(-1)
    kind = log_density.dtype
    by_offset, by_slope = rates.to(kind).unbind(-2)
    return Draw(point.squeeze(-1).to(kind), (1 / density).squeeze(-1).to(kind), by_offset, by_slope)


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
        middle = (low + high) / 2
        ahead = (target - self.at(middle)) / (self.step * self.slope(middle).clamp_min(LEAST_DENSITY))
        return torch.clamp(middle + ahead, low, high)


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
    with torch.no_grad():
        line = trapezoid(LINE, 1).like(centre)
        logits = centre.unsqueeze(-1) + slope.unsqueeze(-1) * line.nodes[:, 0]  # (N, G, R, P)
        log_q, influence = _of_class(logits, value)
        found = draw(log_q + line.log_weights, influence, _rank(noise))
    return (
        found.point
        + found.by_rank * _without_value(_rank(noise)).to(centre)
        + (found.by_offset * _without_value(centre) + found.by_slope * _without_value(slope)).sum(-1)
    )


def _in_the_plane(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Two columns: the first from its marginal, the second given the first."""
    with torch.no_grad():
        line, across = trapezoid(LINE // 2 + 1, 1).like(centre), trapezoid(ACROSS, 1).like(centre)
        first = centre.unsqueeze(-1) + slope[..., :1] * line.nodes[:, 0]  # (N, G, R, P)
        second = slope[..., 1:] * across.nodes[:, 0]  # (N, G, R, Q)
        log_p = torch.log_softmax(first.unsqueeze(-1) + second.unsqueeze(-2), 2)  # (N, G, R, P, Q)
        own = value[:, :, None, None, None].expand(-1, -1, 1, *log_p.shape[3:])
        joint = log_p.gather(2, own).squeeze(2) + across.log_weights
        given = torch.softmax(joint, -1)  # of the second column given the first, (N, G, P, Q)
        both = torch.stack([given, given * across.nodes[:, 0]], -1)  # the second column's moments 0 and 1
        expected = torch.einsum("ngrpq,ngpqk->kngrp", log_p.exp(), both)
        seen = functional.one_hot(value, log_p.shape[2]).to(given).unsqueeze(-1)  # (N, G, R, 1)
        by_centre, by_second = seen * both.sum(-2).movedim(-1, 0).unsqueeze(3) - expected
        found = draw(joint.logsumexp(-1) + line.log_weights, torch.cat([by_centre, by_second], 2), _rank(noise[..., 0]))
        classes = centre.shape[-1]
    e0 = found.point + (
        found.by_offset[..., :classes] * _without_value(centre)
        + found.by_slope[..., :classes] * _without_value(slope[..., 0])
        + found.by_offset[..., classes:] * _without_value(slope[..., 1])
    ).sum(-1)
    e1 = _drawn(centre + slope[..., 0] * e0.unsqueeze(-1), slope[..., 1], value, noise[..., 1])
    return torch.stack([e0, e1], -1)


def _of_class(logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """log q(y|z) of the observed class, shape (N, G, P), and its derivative by each logit, shape (N, G, R, P)."""
    if logits.shape[2] == 1:
        sign = (2 * value - 1).to(logits)[:, :, None, None]
        signed = sign * logits
        return functional.logsigmoid(signed).squeeze(2), sign * torch.sigmoid(-signed)
    log_q = torch.log_softmax(logits, 2)
    index = value[:, :, None, None].expand(-1, -1, 1, logits.shape[3])
    seen = functional.one_hot(value, logits.shape[2]).to(log_q).unsqueeze(-1)
    return log_q.gather(2, index).squeeze(2), seen - log_q.exp()


def _without_value(tensor: Tensor) -> Tensor:
    """Zero, with the tensor's gradient."""
    return tensor - tensor.detach()


def _rank(noise: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(noise.double() / math.sqrt(2)))
