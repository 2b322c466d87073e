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

from ccvae_eval.core.types import Gaussian
from ccvae_models.quadrature import REACH, Rule, trapezoid

LINE, PLANE, ACROSS = 256, 128, 33
"""Nodes along the dimension that is drawn: alone, and where there is another; and across, where that one is summed."""
BLOCK, MARGIN = 16, 2
"""Nodes are summed in blocks; one by one only those of a point's own block, and this many on either side of it."""
NEWTON = 5
"""Steps from the cell's secant: the error is squared by each."""
EDGE = 1e-6
LEAST_DENSITY = 1e-8
"""Of the whole mass, per node."""


class PosteriorDraw(NamedTuple):
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
def draw(density: Tensor, change: Tensor, uniform: Tensor) -> PosteriorDraw:
    r"""Inverts a cumulative distribution: a fourth-order sum over the grid's cells and a cubic inside each.

    The grid itself is passed through twice, by sums over its blocks; all else happens in a window around the point.

    Args:
        density: unnormalised, at equally spaced nodes t of [-8, 8], shape :math:`(..., P)`, P a multiple of 16;
            negligible at both ends.
        change: h times it, h the derivative of the log density by parameters of interest, shape
            :math:`(..., R, P)`.
        uniform: cumulative probabilities, shape :math:`(...)`, in (0, 1).
    """
    points, kind, device = density.shape[-1], density.dtype, density.device
    step = 2 * REACH / (points - 1)
    blocks = density.reshape(*density.shape[:-1], -1, BLOCK)
    mass = (blocks @ blocks.new_ones(BLOCK)).double()
    cumulative = mass.cumsum(-1)
    whole = cumulative[..., -1:]
    target = uniform.double().clamp(EDGE, 1 - EDGE).unsqueeze(-1) * whole
    block = torch.searchsorted(cumulative, target).clamp_max(mass.shape[-1] - 1)
    first = block * BLOCK
    places = torch.arange(BLOCK + 2 * MARGIN, device=device)
    window = (first - MARGIN).clamp(0, points - len(places)) + places
    earlier = window < first

    # up to each node of the window but its ends, by Euler and Maclaurin
    f = density.gather(-1, window).double()
    before = cumulative.gather(-1, block) - mass.gather(-1, block) - (f * earlier).sum(-1, keepdim=True)
    up_to = (before + f.cumsum(-1) - f / 2)[..., 1:-1] - (f[..., 2:] - f[..., :-2]) / 24
    cell = (up_to < target).sum(-1, keepdim=True).clamp(1, len(places) - 3)
    near = cell + places[:4] - 1
    curve = _Cubic.of(up_to.gather(-1, cell - 1), f.gather(-1, near))
    inside = curve.root(target)
    point = step * (window[..., :1] + cell + inside) - REACH
    slope = torch.maximum(curve.slope(inside), LEAST_DENSITY * whole)

    # dF = the part of the density's change that lies below the point, less the point's share of all of it
    nodes = torch.linspace(-REACH, REACH, points, dtype=torch.float64, device=device)
    at_start = torch.stack([nodes[:BLOCK].new_ones(BLOCK), nodes[:BLOCK] - nodes[0]], 1).to(kind)
    changes = change.reshape(*change.shape[:-1], -1, BLOCK)
    moments = (changes @ at_start).double()  # (..., R, blocks, 2), the second from the block's start
    moments[..., 1] += moments[..., 0] * nodes[::BLOCK]  # from 0
    complete = torch.arange(mass.shape[-1], device=device) < block
    weight = ((places <= cell).double() - earlier.double()).scatter_add_(-1, near, curve.weights(inside))
    weights = torch.stack([weight, weight * nodes[window]], -2)  # (..., 2, window)
    own = change.gather(-1, window.unsqueeze(-2).expand(*change.shape[:-1], -1)).double()
    below = (moments * complete[..., None, :, None]).sum(-2) + own @ weights.transpose(-1, -2)
    rates = step * (moments.sum(-2) * (target / whole).unsqueeze(-1) - below) / slope.unsqueeze(-1)
    by_rank = step * whole / slope
    return PosteriorDraw(point.squeeze(-1).to(kind), by_rank.squeeze(-1).to(kind), *rates.to(kind).unbind(-1))


class _Cubic(NamedTuple):
    """Hermite's cubic on a cell of width 1, as a polynomial of the share t of the cell: c + f t + a t^2 + b t^3."""

    c: Tensor
    f: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, start: Tensor, near: Tensor) -> _Cubic:
        """The integral, from its value at the cell's start and the integrand at the four nodes around, (..., 4)."""
        f0, f1, f2, f3 = torch.chunk(near, 4, -1)
        rise = (13 * (f1 + f2) - f0 - f3) / 24
        return cls(start, f1, 3 * rise - 2 * f1 - f2, f1 + f2 - 2 * rise)

    @staticmethod
    def weights(t: Tensor) -> Tensor:
        """What the integral to t has of the four nodes, beside the sum of all nodes up to the cell's start."""
        square, cube = t * t, t**3
        risen = (3 * square - 2 * cube) / 24
        half = 1 / 24 - risen
        return torch.cat(
            [half, 13 * risen + t - 2 * square + cube - 0.5, 13 * risen + cube - square - 1 / 24, -risen], -1
        )

    def slope(self, t: Tensor) -> Tensor:
        """The derivative at a share t of the cell."""
        return self.f + t * (2 * self.a + 3 * t * self.b)

    def root(self, target: Tensor) -> Tensor:
        """The share of the cell at which the value is reached."""
        sought = target - self.c
        t = (sought / (self.f + self.a + self.b)).nan_to_num_(0.5).clamp_(0, 1)
        for _ in range(NEWTON):
            excess = t * (self.f + t * (self.a + t * self.b)) - sought
            t = (t - excess / self.slope(t)).nan_to_num_(0.5).clamp_(0, 1)
        return t


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
    if centre.shape[-1] == 1:
        sign = (2 * value - 1).to(centre).unsqueeze(-1)
        centre, slope = sign * centre, sign * slope
        density, change = _of_the_odds(centre.detach(), slope.detach(), line)
    else:
        logits = centre.detach().unsqueeze(-1) + slope.detach().unsqueeze(-1) * line.nodes[:, 0]  # (N, G, R, P)
        log_q = torch.log_softmax(logits, 2)
        index = value[:, :, None, None].expand(-1, -1, 1, LINE)
        seen = functional.one_hot(value, logits.shape[2]).to(log_q).unsqueeze(-1)
        density = torch.softmax(log_q.gather(2, index).squeeze(2) + line.log_weights, -1)
        change = density.unsqueeze(2) * (seen - log_q.exp())
    found = draw(density, change, _rank(noise))
    return (
        found.point
        + found.by_rank * _without_value(_rank(noise)).to(centre)
        + (found.by_offset * _without_value(centre) + found.by_slope * _without_value(slope)).sum(-1)
    )


def _of_the_odds(centre: Tensor, slope: Tensor, line: Rule) -> tuple[Tensor, Tensor]:
    """phi(e) sigmoid(centre + slope e), shape (N, G, P), and its derivative by the log odds, shape (N, G, 1, P).

    Up to a factor for each row, so that no row underflows whose odds are against the label everywhere.
    """
    most = (centre + REACH * slope.abs()).clamp_max(0)
    against = torch.addcmul(most - centre, slope, line.nodes[:, 0], value=-1).exp_()
    least = most.exp()
    q = against.add_(least).reciprocal_()  # sigmoid / least
    density = q * line.log_weights.exp()
    change = torch.mul(density, q).mul_(-least).add_(density)
    return density, change.unsqueeze(2)


def _in_the_plane(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Two columns: the first from its marginal, the second given the first."""
    with torch.no_grad():
        line, across = trapezoid(PLANE, 1).like(centre), trapezoid(ACROSS, 1).like(centre)
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
        density = torch.softmax(joint.logsumexp(-1) + line.log_weights, -1)
        influence = torch.cat([by_centre, by_second], 2)
        found = draw(density, density.unsqueeze(2) * influence, _rank(noise[..., 0]))
        classes = centre.shape[-1]
    e0 = found.point + (
        found.by_offset[..., :classes] * _without_value(centre)
        + found.by_slope[..., :classes] * _without_value(slope[..., 0])
        + found.by_offset[..., classes:] * _without_value(slope[..., 1])
    ).sum(-1)
    e1 = _drawn(centre + slope[..., 0] * e0.unsqueeze(-1), slope[..., 1], value, noise[..., 1])
    return torch.stack([e0, e1], -1)


def _without_value(tensor: Tensor) -> Tensor:
    """Zero, with the tensor's gradient."""
    return tensor - tensor.detach()


def _rank(noise: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(noise.double() / math.sqrt(2)))
