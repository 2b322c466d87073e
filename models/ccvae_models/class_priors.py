"""p(z_c|y) and q(y|z_c) over blocks of columns, for all labels at once, whatever their number of classes.

Tables have the shapes (N, L, K) over classes and (N, L, d) over a block's columns, d the widest block; narrower ones
are filled up with columns that enter no sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ccvae_eval.core.types import Codes, Gaussian, Labels
from ccvae_eval.model.interface import LabelSchema
from ccvae_models.characteristics import class_directions
from ccvae_models.labels import NEVER
from ccvae_models.networks import positive

Blocks = Mapping[str, tuple[int, ...]]


def blocks_in_order(labels: LabelSchema, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The columns of each label, one label after the other, from column 0.

    >>> from ccvae_eval.model.interface import binary_schema
    >>> blocks_in_order(binary_schema("a", "b"), {"a": 2, "b": 1})
    {'a': (0, 1), 'b': (2,)}
    """
    taken: dict[str, tuple[int, ...]] = {}
    start = 0
    for name in labels.names:
        taken[name] = tuple(range(start, start + widths[name]))
        start += widths[name]
    return taken


class ClassPriors(nn.Module):
    """p(z_c|y): for each label, over its own columns, one diagonal Gaussian for each of its classes.

    Args:
        labels: with classes.
        blocks: the columns of each label, in the labels' order.
        prior_mean: distance of the means from the origin at the start; deviations start at softplus(1) = 1.3.
    """

    place: Tensor
    own: Tensor

    def __init__(self, labels: LabelSchema, blocks: Blocks, prior_mean: float) -> None:
        super().__init__()
        start = class_table(labels, blocks)
        self.loc = nn.Parameter(prior_mean * start)
        self.raw_scale = nn.Parameter(torch.ones_like(start))
        widest = start.shape[2]
        place = [[*columns, *[0] * (widest - len(columns))] for columns in blocks.values()]
        own = [[column < len(columns) for column in range(widest)] for columns in blocks.values()]
        self.register_buffer("place", torch.tensor(place), persistent=False)
        self.register_buffer("own", torch.tensor(own), persistent=False)

    def of(self, codes: Codes) -> Tensor:
        """The labels' columns of codes (N, D), shape (N, L, d); 0 beyond a block's width."""
        return codes[:, self.place].masked_fill(~self.own, 0.0)

    def prior(self, value: Tensor) -> Gaussian:
        """p(z_c|y) of classes (N, L), shape (N, L, d)."""
        label = torch.arange(value.shape[1], device=value.device)
        return Gaussian(self.loc[label, value], positive(self.raw_scale[label, value]))

    def conditional(self, labels: Labels) -> Gaussian:
        """p(z_c|y) over the blocks' columns, one label after the other; NaN where the label is missing."""
        y = labels.to(self.loc.device)
        prior, missing = self.prior(y.nan_to_num(0).long()), y.isnan().unsqueeze(-1)
        return Gaussian(
            prior.loc.masked_fill(missing, math.nan)[:, self.own],
            prior.scale.masked_fill(missing, math.nan)[:, self.own],
        )

    def kl(self, q: Gaussian, labels: Labels) -> Tensor:
        r"""KL(q(z^i|x) || p(z^i|y^i)) in nats, shape (N, L); 0 where the label is missing.

        .. math:: \sum_j \log\frac{\sigma_p}{\sigma_q} + \frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{2 \sigma_p^2} - \frac12
        """
        p = self.prior(labels.nan_to_num(0).long())
        ratio = self.of(q.scale) / p.scale
        ratio = torch.where(self.own, ratio, 1.0)
        offset = (self.of(q.loc) - p.loc) / p.scale
        each = 0.5 * (ratio.square() + offset.square() - 1) - ratio.log()
        return (each * self.own).sum(-1).masked_fill(labels.isnan(), 0.0)

    def log_prob(self, codes: Codes) -> Tensor:
        """log p(z^i|y) of every class, shape (N, L, K)."""
        scale = positive(self.raw_scale)
        standard = (self.of(codes).unsqueeze(2) - self.loc) / scale
        density = -0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return (density * self.own.unsqueeze(1)).sum(-1)


class BlockClassifier(nn.Module):
    """log q(y|z_c), linear in the label's own columns.

    Args:
        labels: with classes.
        blocks: the columns of each label, in the labels' order.
    """

    outside: Tensor

    def __init__(self, labels: LabelSchema, blocks: Blocks) -> None:
        super().__init__()
        start = class_table(labels, blocks)
        self.weight, self.bias = nn.Parameter(start), nn.Parameter(torch.zeros(start.shape[:2]))
        sizes = torch.tensor([label.cardinality for label in labels])
        self.register_buffer("outside", torch.arange(start.shape[1]) >= sizes.unsqueeze(1), persistent=False)

    def forward(self, own: Tensor) -> Tensor:
        """From the labels' columns (N, L, d) to log-probabilities (N, L, K)."""
        logits = torch.einsum("nld,lkd->nlk", own, self.weight) + self.bias
        return torch.log_softmax(logits.masked_fill(self.outside, NEVER), -1)


def class_table(labels: LabelSchema, blocks: Blocks) -> Tensor:
    """Where the classes of each label start in its columns, shape (L, K, d); 0 where there is no class or column."""
    most, widest = max(label.cardinality for label in labels), max(map(len, blocks.values()))
    table = torch.zeros(len(labels), most, widest)
    for row, label in enumerate(labels):
        directions = class_directions(label.cardinality, len(blocks[label.name]))
        table[row, : label.cardinality, : directions.shape[1]] = directions.to(table.device)
    return table
