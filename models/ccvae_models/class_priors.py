"""p(z_c|y) and q(y|z_c) for all labels at once, with any number of classes and latent dimensions.

Tables over classes have shape (N, L, K), and tables over a label's latent dimensions (N, L, d), where d is the widest
block; narrower blocks are padded with entries that enter no sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ccvae_eval.core.types import Codes, Gaussian, Labels
from ccvae_eval.model.interface import LabelSchema
from ccvae_models.autoencoder import kl_diagonal
from ccvae_models.characteristics import class_directions
from ccvae_models.labels import LOG_ZERO, outside_classes
from ccvae_models.networks import positive

Blocks = Mapping[str, tuple[int, ...]]


class ClassPriors(nn.Module):
    """p(z_c|y): one diagonal Gaussian per class of each label, over the label's own latent dimensions.

    Args:
        labels: discrete labels.
        blocks: latent dimensions of each label, in the order of the labels.
        prior_mean: initial distance of the means from the origin; scales start at softplus(1) = 1.3.
    """

    place: Tensor
    own: Tensor

    def __init__(self, labels: LabelSchema, blocks: Blocks, prior_mean: float) -> None:
        super().__init__()
        start = initial_means(labels, blocks)
        self.loc = nn.Parameter(prior_mean * start)
        self.raw_scale = nn.Parameter(torch.ones_like(start))
        widest = start.shape[2]
        place = [[*block, *[0] * (widest - len(block))] for block in blocks.values()]
        own = [[j < len(block) for j in range(widest)] for block in blocks.values()]
        self.register_buffer("place", torch.tensor(place), persistent=False)
        self.register_buffer("own", torch.tensor(own), persistent=False)

    def select(self, codes: Codes) -> Tensor:
        """The labels' latent dimensions of codes, from (N, D) to (N, L, d); 0 in the padding."""
        return codes[:, self.place].masked_fill(~self.own, 0.0)

    def posterior(self, q: Gaussian) -> Gaussian:
        """q(z|x) over the labels' latent dimensions, (N, L, d); N(0, 1) in the padding."""
        return Gaussian(self.select(q.loc), torch.where(self.own, self.select(q.scale), 1.0))

    def prior(self, value: Tensor) -> Gaussian:
        """p(z_c|y) of the given classes (N, L), shape (N, L, d)."""
        label = torch.arange(value.shape[1], device=value.device)
        return Gaussian(self.loc[label, value], positive(self.raw_scale[label, value]))

    def conditional(self, labels: Labels) -> Gaussian:
        """p(z_c|y) over the latent dimensions of all labels, in order; NaN where the label is missing."""
        y = labels.to(self.loc.device)
        prior, missing = self.prior(y.nan_to_num(0).long()), y.isnan().unsqueeze(-1)
        return Gaussian(
            prior.loc.masked_fill(missing, math.nan)[:, self.own],
            prior.scale.masked_fill(missing, math.nan)[:, self.own],
        )

    def kl(self, q: Gaussian, labels: Labels) -> Tensor:
        """KL(q(z^i|x) || p(z^i|y^i)) in nats, shape (N, L); 0 where the label is missing."""
        kl = kl_diagonal(self.posterior(q), self.prior(labels.nan_to_num(0).long()))
        return (kl * self.own).sum(-1).masked_fill(labels.isnan(), 0.0)

    def log_prob(self, codes: Codes) -> Tensor:
        """log p(z^i|y) of every class, shape (N, L, K)."""
        scale = positive(self.raw_scale)
        standard = (self.select(codes).unsqueeze(2) - self.loc) / scale
        density = -0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return (density * self.own.unsqueeze(1)).sum(-1)


class BlockClassifier(nn.Module):
    """log q(y|z_c), linear in the label's own latent dimensions.

    Args:
        labels: discrete labels.
        blocks: latent dimensions of each label, in the order of the labels.
    """

    outside: Tensor

    def __init__(self, labels: LabelSchema, blocks: Blocks) -> None:
        super().__init__()
        start = initial_means(labels, blocks)
        self.weight, self.bias = nn.Parameter(start), nn.Parameter(torch.zeros(start.shape[:2]))
        self.register_buffer("outside", outside_classes(labels), persistent=False)

    def forward(self, z_c: Tensor) -> Tensor:
        """Log probabilities (N, L, K) from the labels' latent dimensions (N, L, d)."""
        logits = torch.einsum("nld,lkd->nlk", z_c, self.weight) + self.bias
        return torch.log_softmax(logits.masked_fill(self.outside, LOG_ZERO), -1)


def initial_means(labels: LabelSchema, blocks: Blocks) -> Tensor:
    """Initial class means of each label in its latent dimensions, shape (L, K, d); 0 in the padding."""
    classes, widest = max(label.cardinality for label in labels), max(map(len, blocks.values()))
    table = torch.zeros(len(labels), classes, widest)
    for i, label in enumerate(labels):
        directions = class_directions(label.cardinality, len(blocks[label.name]))
        table[i, : label.cardinality, : directions.shape[1]] = directions.to(table.device)
    return table
