r"""Samples from q(z_c|x,y) = w q(z_c|x), the posterior given the labels, with pathwise gradients.

CCVAE's bound weights the reconstruction by w = q(y|z_c)/q(y|x). With weighted samples of q(z|x), few of a batch count:
the effective sample size of w falls fast with the number of labels. Samples of q(z|x,y) need no weight:

.. math:: E_{q(z|x)}[w \log p(x|z)] = E_{q(z|x,y)}[\log p(x|z)]

As w factorises over the labels, each q(z^i|x,y^i) is a density in one dimension (or two, for a class in a plane). The
sample inverts its cumulative distribution function F on a grid. Its gradient is implicit, dz = -dF(z) / f(z) (Figurnov,
Mohamed and Mnih, "Implicit reparameterization gradients", 2018, Eq. 5). The logits are linear in z, so dF is a sum over
the same grid, taken in the forward pass: nothing is backpropagated through the grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.types import Gaussian
from ccvae_models.quadrature import GRID_LIMIT, QuadratureRule, trapezoid

LINE_NODES, PLANE_NODES, INNER_NODES = 256, 128, 33
"""Nodes along the sampled dimension (alone, and with a second one), and along the second one, which is summed out."""
BLOCK, MARGIN = 16, 2
"""Nodes per block of a partial sum, and nodes on either side of a point's own block that are summed one by one."""
NEWTON_STEPS = 5
"""Newton steps inside a cell; each squares the error of the secant."""
MIN_RANK = 1e-6
"""Ranks are clamped to [1e-6, 1 - 1e-6]."""
MIN_DENSITY = 1e-8
"""Lower bound on the density of a node, as a fraction of the total mass."""


class QuantileGradient(NamedTuple):
    """A quantile t(u) of a density, and its derivatives.

    Args:
        point: the quantile, shape (...).
        d_rank: d point / du, shape (...).
        d_offset: d point / d a_r, if the log density has the term a_r h_r(t), shape (..., R).
        d_slope: d point / d b_r, if the log density has the term b_r t h_r(t), shape (..., R).
    """

    point: Tensor
    d_rank: Tensor
    d_offset: Tensor
    d_slope: Tensor


@torch.no_grad()
def quantile(density: Tensor, change: Tensor, rank: Tensor) -> QuantileGradient:
    r"""Invert a cumulative distribution function given on a grid.

    F is integrated to fourth order and inverted by a cubic in each cell. The whole grid is read twice, for sums over
    its blocks; everything else happens in a window around the point.

    Args:
        density: unnormalised, at equally spaced nodes t of [-8, 8], shape :math:`(..., P)`, P a multiple of 16;
            negligible at both ends.
        change: density times h, where h is the derivative of the log density with respect to R parameters, shape
            :math:`(..., R, P)`.
        rank: cumulative probabilities in (0, 1), shape :math:`(...)`.
    """
    points, kind, device = density.shape[-1], density.dtype, density.device
    step = 2 * GRID_LIMIT / (points - 1)
    blocks = density.reshape(*density.shape[:-1], -1, BLOCK)
    mass = (blocks @ blocks.new_ones(BLOCK)).double()
    cumulative = mass.cumsum(-1)
    total = cumulative[..., -1:]
    target = rank.double().clamp(MIN_RANK, 1 - MIN_RANK).unsqueeze(-1) * total
    block = torch.searchsorted(cumulative, target).clamp_max(mass.shape[-1] - 1)
    first = block * BLOCK
    places = torch.arange(BLOCK + 2 * MARGIN, device=device)
    window = (first - MARGIN).clamp(0, points - len(places)) + places
    earlier = window < first

    # F at each inner node of the window, by the Euler-Maclaurin formula
    f = density.gather(-1, window).double()
    before = cumulative.gather(-1, block) - mass.gather(-1, block) - (f * earlier).sum(-1, keepdim=True)
    up_to = (before + f.cumsum(-1) - f / 2)[..., 1:-1] - (f[..., 2:] - f[..., :-2]) / 24
    cell = (up_to < target).sum(-1, keepdim=True).clamp(1, len(places) - 3)
    near = cell + places[:4] - 1
    cubic = _Cubic.of(up_to.gather(-1, cell - 1), f.gather(-1, near))
    inside = cubic.root(target)
    point = step * (window[..., :1] + cell + inside) - GRID_LIMIT
    slope = torch.maximum(cubic.slope(inside), MIN_DENSITY * total)

    # dF = the density's change below the point, minus rank times its total change
    nodes = torch.linspace(-GRID_LIMIT, GRID_LIMIT, points, dtype=torch.float64, device=device)
    at_start = torch.stack([nodes[:BLOCK].new_ones(BLOCK), nodes[:BLOCK] - nodes[0]], 1).to(kind)
    changes = change.reshape(*change.shape[:-1], -1, BLOCK)
    moments = (changes @ at_start).double()  # (..., R, blocks, 2), the second relative to the block's start
    moments[..., 1] += moments[..., 0] * nodes[::BLOCK]  # relative to 0
    complete = torch.arange(mass.shape[-1], device=device) < block
    weight = ((places <= cell).double() - earlier.double()).scatter_add_(-1, near, cubic.weights(inside))
    weights = torch.stack([weight, weight * nodes[window]], -2)  # (..., 2, window)
    own = change.gather(-1, window.unsqueeze(-2).expand(*change.shape[:-1], -1)).double()
    below = (moments * complete[..., None, :, None]).sum(-2) + own @ weights.transpose(-1, -2)
    rates = step * (moments.sum(-2) * (target / total).unsqueeze(-1) - below) / slope.unsqueeze(-1)
    d_rank = step * total / slope
    return QuantileGradient(point.squeeze(-1).to(kind), d_rank.squeeze(-1).to(kind), *rates.to(kind).unbind(-1))


class _Cubic(NamedTuple):
    """Cubic Hermite interpolant c + f t + a t^2 + b t^3 on a cell of width 1, for t in [0, 1]."""

    c: Tensor
    f: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, start: Tensor, near: Tensor) -> _Cubic:
        """The integral, from its value at the cell's start and the integrand at the four nearest nodes, (..., 4)."""
        f0, f1, f2, f3 = torch.chunk(near, 4, -1)
        rise = (13 * (f1 + f2) - f0 - f3) / 24
        return cls(start, f1, 3 * rise - 2 * f1 - f2, f1 + f2 - 2 * rise)

    @staticmethod
    def weights(t: Tensor) -> Tensor:
        """Weights of the four nodes in the integral to t, added to the sum of all nodes up to the cell's start."""
        square, cube = t * t, t**3
        risen = (3 * square - 2 * cube) / 24
        half = 1 / 24 - risen
        return torch.cat(
            [half, 13 * risen + t - 2 * square + cube - 0.5, 13 * risen + cube - square - 1 / 24, -risen], -1
        )

    def slope(self, t: Tensor) -> Tensor:
        """Derivative at t."""
        return self.f + t * (2 * self.a + 3 * t * self.b)

    def root(self, target: Tensor) -> Tensor:
        """The t at which the cubic reaches the target."""
        rise = target - self.c
        t = (rise / (self.f + self.a + self.b)).nan_to_num_(0.5).clamp_(0, 1)
        for _ in range(NEWTON_STEPS):
            excess = t * (self.f + t * (self.a + t * self.b)) - rise
            t = (t - excess / self.slope(t)).nan_to_num_(0.5).clamp_(0, 1)
        return t


def label_conditioned_noise(q: Gaussian, weight: Tensor, bias: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Sample e = (z - m)/s with z from q(z^i|x,y^i), for each of G labels with d latent dimensions.

    Args:
        q: q(z|x) over the labels' latent dimensions, loc and scale of shape (N, G, d).
        weight, bias: the linear classifier, shapes (G, R, d) and (G, R), with R = 1 for binary labels.
        value: observed class of each label, shape (N, G).
        noise: standard normal noise, shape (N, G, d); each is mapped to the quantile of its own rank.

    Returns:
        Shape (N, G, d), with pathwise gradients in q, weight and bias. Labels with more than two classes in more than
        two latent dimensions are not supported: they keep their weights.
    """
    centre = torch.einsum("ngd,grd->ngr", q.loc, weight) + bias
    slope = q.scale.unsqueeze(2) * weight  # (N, G, R, d): logits per unit of e
    if weight.shape[1] == 1:
        return _sample_along_logit(centre, slope.squeeze(2), value, noise)
    if noise.shape[-1] == 1:
        return _sample_line(centre, slope[..., 0], value, noise[..., 0]).unsqueeze(-1)
    return _sample_plane(centre, slope, value, noise)


def _sample_along_logit(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Binary labels: y changes the density only along the direction of the logit."""
    deviation = (slope.square().sum(-1, keepdim=True) + torch.finfo(slope.dtype).tiny).sqrt()
    direction = slope / deviation
    along = (noise * direction).sum(-1)
    moved = _sample_line(centre, deviation, value, along)
    return noise + direction * (moved - along).unsqueeze(-1)


def _sample_line(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Sample one dimension; the logits are centre + slope e, of shape (N, G, R); value and noise (N, G)."""
    line = trapezoid(LINE_NODES, 1).like(centre)
    if centre.shape[-1] == 1:
        sign = (2 * value - 1).to(centre).unsqueeze(-1)
        centre, slope = sign * centre, sign * slope
        density, change = _binary_density(centre.detach(), slope.detach(), line)
    else:
        logits = centre.detach().unsqueeze(-1) + slope.detach().unsqueeze(-1) * line.nodes[:, 0]  # (N, G, R, P)
        log_q = torch.log_softmax(logits, 2)
        index = value[:, :, None, None].expand(-1, -1, 1, LINE_NODES)
        observed = functional.one_hot(value, logits.shape[2]).to(log_q).unsqueeze(-1)
        density = torch.softmax(log_q.gather(2, index).squeeze(2) + line.log_weights, -1)
        change = density.unsqueeze(2) * (observed - log_q.exp())
    found = quantile(density, change, _normal_cdf(noise))
    return (
        found.point
        + found.d_rank * _gradient_only(_normal_cdf(noise)).to(centre)
        + (found.d_offset * _gradient_only(centre) + found.d_slope * _gradient_only(slope)).sum(-1)
    )


def _binary_density(centre: Tensor, slope: Tensor, line: QuadratureRule) -> tuple[Tensor, Tensor]:
    """phi(e) sigmoid(centre + slope e), shape (N, G, P), and its derivative by the log odds, shape (N, G, 1, P).

    Both are scaled by one factor per row, so that rows with large odds against the label do not underflow.
    """
    largest = (centre + GRID_LIMIT * slope.abs()).clamp_max(0)
    against = torch.addcmul(largest - centre, slope, line.nodes[:, 0], value=-1).exp_()
    factor = largest.exp()
    q = against.add_(factor).reciprocal_()  # sigmoid / factor
    density = q * line.log_weights.exp()
    change = torch.mul(density, q).mul_(-factor).add_(density)
    return density, change.unsqueeze(2)


def _sample_plane(centre: Tensor, slope: Tensor, value: Tensor, noise: Tensor) -> Tensor:
    """Two dimensions: the first from its marginal, the second given the first."""
    with torch.no_grad():
        line, inner = trapezoid(PLANE_NODES, 1).like(centre), trapezoid(INNER_NODES, 1).like(centre)
        first = centre.unsqueeze(-1) + slope[..., :1] * line.nodes[:, 0]  # (N, G, R, P)
        second = slope[..., 1:] * inner.nodes[:, 0]  # (N, G, R, Q)
        log_q = torch.log_softmax(first.unsqueeze(-1) + second.unsqueeze(-2), 2)  # (N, G, R, P, Q)
        own = value[:, :, None, None, None].expand(-1, -1, 1, *log_q.shape[3:])
        joint = log_q.gather(2, own).squeeze(2) + inner.log_weights
        conditional = torch.softmax(joint, -1)  # of the second dimension given the first, (N, G, P, Q)
        both = torch.stack([conditional, conditional * inner.nodes[:, 0]], -1)  # its moments 0 and 1
        expected = torch.einsum("ngrpq,ngpqk->kngrp", log_q.exp(), both)
        observed = functional.one_hot(value, log_q.shape[2]).to(conditional).unsqueeze(-1)  # (N, G, R, 1)
        by_centre, by_second = observed * both.sum(-2).movedim(-1, 0).unsqueeze(3) - expected
        density = torch.softmax(joint.logsumexp(-1) + line.log_weights, -1)
        influence = torch.cat([by_centre, by_second], 2)
        found = quantile(density, density.unsqueeze(2) * influence, _normal_cdf(noise[..., 0]))
        classes = centre.shape[-1]
    e0 = found.point + (
        found.d_offset[..., :classes] * _gradient_only(centre)
        + found.d_slope[..., :classes] * _gradient_only(slope[..., 0])
        + found.d_offset[..., classes:] * _gradient_only(slope[..., 1])
    ).sum(-1)
    e1 = _sample_line(centre + slope[..., 0] * e0.unsqueeze(-1), slope[..., 1], value, noise[..., 1])
    return torch.stack([e0, e1], -1)


def _gradient_only(tensor: Tensor) -> Tensor:
    """Zero, with the tensor's gradient."""
    return tensor - tensor.detach()


def _normal_cdf(noise: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(noise.double() / math.sqrt(2)))
