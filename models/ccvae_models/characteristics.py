"""Labels with latent dimensions of their own: their blocks of z, the class priors p(z_c|y), and classifiers q(y|z_c).

Tables over classes have shape (N, L, K), and tables over a label's latent dimensions (N, L, d), where d is the widest
block; narrower blocks are padded with entries that enter no sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.types import Codes, Gaussian, Labels
from ccvae_eval.model.interface import LabelSchema, ModelContext
from ccvae_models.autoencoder import kl_diagonal
from ccvae_models.labels import LOG_ZERO, MIN_PROBABILITY, ClassGaussians, observed_classes, outside_classes
from ccvae_models.quadrature import QuadratureRule, class_log_probabilities, quasi_random, trapezoid

Blocks = Mapping[str, tuple[int, ...]]
"""Latent dimensions of each label, in the order of the labels."""


def class_directions(classes: int, dimensions: int) -> Tensor:
    """Initial class means as unit vectors in a label's latent dimensions, shape (K, d).

    Two classes start at -+ the diagonal. More classes start equally spaced on [-1, 1] for d = 1, on a circle for d = 2,
    and as a regular simplex for d = K - 1 (the rows of a real Fourier basis, truncated to d dimensions).

    >>> class_directions(2, 1)
    tensor([[-1.],
            [ 1.]])
    """
    if classes == 2:
        return torch.tensor([[-1.0], [1.0]], device="cpu").expand(2, dimensions) / math.sqrt(dimensions)
    if dimensions == 1:
        return torch.linspace(-1, 1, classes, device="cpu").unsqueeze(1)
    angle = 2 * math.pi * torch.arange(classes, device="cpu") / classes
    waves = [wave(angle * (1 + j)) for j in range((classes - 1) // 2) for wave in (torch.cos, torch.sin)]
    if classes % 2 == 0:
        waves.append(torch.cos(angle * (classes // 2)) / math.sqrt(2))
    basis = torch.stack(waves[:dimensions], 1)
    basis = nn.functional.pad(basis, (0, dimensions - basis.shape[1]))
    return nn.functional.normalize(basis, dim=1)


def consecutive_blocks(labels: LabelSchema, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Latent dimensions of each label, one label after the other, from dimension 0.

    >>> from ccvae_eval.model.interface import binary_schema
    >>> consecutive_blocks(binary_schema("a", "b"), {"a": 2, "b": 1})
    {'a': (0, 1), 'b': (2,)}
    """
    blocks: dict[str, tuple[int, ...]] = {}
    start = 0
    for name in labels.names:
        blocks[name] = tuple(range(start, start + widths[name]))
        start += widths[name]
    return blocks


def label_blocks(labels: LabelSchema, block: int, class_block: int) -> dict[str, tuple[int, ...]]:
    """Latent dimensions of each label: ``block`` for two classes, else ``class_block`` but at most K - 1."""
    sizes = {label.name: label.cardinality for label in labels}
    return consecutive_blocks(labels, {name: block if k == 2 else min(class_block, k - 1) for name, k in sizes.items()})


def initial_means(labels: LabelSchema, blocks: Blocks) -> Tensor:
    """Initial class means of each label in its latent dimensions, shape (L, K, d); 0 in the padding."""
    classes, widest = max(label.cardinality for label in labels), max(len(blocks[name]) for name in labels.names)
    table = torch.zeros(len(labels), classes, widest)
    for i, label in enumerate(labels):
        directions = class_directions(label.cardinality, len(blocks[label.name]))
        table[i, : label.cardinality, : directions.shape[1]] = directions.to(table.device)
    return table


class LabelBlocks(ClassGaussians):
    """Labels with their blocks of z, and p(z_c|y): one diagonal Gaussian per class, over the label's own block.

    Args:
        schema: all labels of the model.
        names: the labels described here.
        blocks: latent dimensions of each label.
    """

    place: Tensor
    own: Tensor

    def __init__(self, schema: LabelSchema, names: Sequence[str], blocks: Blocks) -> None:
        super().__init__()
        self.indices = [schema.index(name) for name in names]
        self.dimensions = [dimension for name in names for dimension in blocks[name]]
        widest = max(len(blocks[name]) for name in names)
        place = [[*blocks[name], *[0] * (widest - len(blocks[name]))] for name in names]
        own = [[j < len(blocks[name]) for j in range(widest)] for name in names]
        self.register_buffer("place", torch.tensor(place), persistent=False)
        self.register_buffer("own", torch.tensor(own), persistent=False)

    def select(self, codes: Codes) -> Tensor:
        """The labels' latent dimensions of codes, means or scales, from (N, D) to (N, L, d); 0 in the padding."""
        return codes[:, self.place].masked_fill(~self.own, 0.0)

    def posterior(self, q: Gaussian) -> Gaussian:
        """q(z|x) over the labels' latent dimensions, (N, L, d); N(0, 1) in the padding."""
        return Gaussian(self.select(q.loc), torch.where(self.own, self.select(q.scale), 1.0))

    def observe(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """Classes of these labels (0 where missing), and a mask of the observed ones, (N, L) each."""
        return observed_classes(labels[:, self.indices])

    def conditional(self, labels: Labels) -> Gaussian:
        """p(z_c|y) over the latent dimensions of these labels, in order; NaN where the label is missing."""
        value, observed = self.observe(labels.to(self.loc.device))
        prior, missing = self.of_class(value), ~observed.unsqueeze(-1)
        return Gaussian(
            prior.loc.masked_fill(missing, math.nan)[:, self.own],
            prior.scale.masked_fill(missing, math.nan)[:, self.own],
        )

    def kl(self, q: Gaussian, labels: Labels) -> Tensor:
        """KL(q(z^i|x) || p(z^i|y^i)) in nats, shape (N, L); 0 where the label is missing."""
        value, observed = self.observe(labels)
        kl = kl_diagonal(self.posterior(q), self.of_class(value))
        return (kl * self.own).sum(-1).masked_fill(~observed, 0.0)

    def log_prob(self, codes: Codes) -> Tensor:
        """log p(z^i|y) of every class, shape (N, L, K)."""
        return (self.all_classes.log_prob(self.select(codes).unsqueeze(2)) * self.own.unsqueeze(1)).sum(-1)


class ClassPriors(LabelBlocks):
    """p(z_c|y) of all labels at once, with any number of classes and latent dimensions.

    Args:
        labels: discrete labels.
        blocks: latent dimensions of each label.
        prior_mean: initial distance of the means from the origin.
    """

    def __init__(self, labels: LabelSchema, blocks: Blocks, prior_mean: float) -> None:
        super().__init__(labels, labels.names, blocks)
        self.start_at(prior_mean * initial_means(labels, blocks))


class BlockClassifier(nn.Module):
    """log q(y|z_c), linear in the label's own latent dimensions.

    Args:
        labels: discrete labels.
        blocks: latent dimensions of each label.
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


class Characteristics(LabelBlocks):
    """G labels of K classes and d latent dimensions each: p(y), p(z_c|y), and the classifier q(y|z_c) of CCVAE.

    The classifier is linear in the label's own latent dimensions (for d = 1 and a binary label this is the diagonal
    affine map of Joy et al., initialised to w = 1, b = 0).

    Args:
        context: all labels of the model, and p(y).
        names: the G labels.
        blocks: latent dimensions of each label.
        prior_mean: initial distance of the prior means from the origin.
        points: nodes of the one-dimensional quadrature.
        draws: quasi-random draws, for integrals in more than two dimensions.
    """

    label_prior: Tensor

    def __init__(
        self, context: ModelContext, names: Sequence[str], blocks: Blocks, prior_mean: float, points: int, draws: int
    ) -> None:
        super().__init__(context.labels, names, blocks)
        self.points, self.draws = points, draws
        start = initial_means(context.labels.select(list(names)), blocks)  # (G, K, d)
        self.classes, self.block = start.shape[1:]
        weight = start[:, 1:] if self.classes == 2 else start
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(torch.zeros(weight.shape[:2]))
        self.start_at(prior_mean * start)
        p = torch.tensor([context.label_prior[i] for i in self.indices])
        self.register_buffer("label_prior", p.clamp_min(MIN_PROBABILITY))

    @property
    def rank(self) -> int:
        """Dimension of the integral over one label's latent dimensions."""
        return 1 if self.classes == 2 else self.block

    def rule(self, generator: Generator | None, refined: bool = False) -> QuadratureRule:
        """Quadrature rule: 129 points in one dimension, 33 x 33 in two, quasi-random draws in more.

        Args:
            generator: shifts the quasi-random draws; without it they are fixed.
            refined: twice the points per dimension (four times the draws), for evaluation.
        """
        if self.rank > 2:
            return quasi_random(self.draws * (4 if refined else 1), self.rank, generator)
        intervals = (self.points - 1) // (4 if self.rank == 2 else 1)
        return trapezoid(intervals * (2 if refined else 1) + 1, self.rank)

    def log_q_y_z(self, codes: Codes) -> Tensor:
        """log q(y|z_c) of each class, shape (N, G, K)."""
        logits = torch.einsum("ngd,grd->ngr", self.select(codes), self.weight) + self.bias
        return class_log_probabilities(logits)


def group_by_classes(
    context: ModelContext, blocks: Blocks, prior_mean: float, points: int, draws: int
) -> nn.ModuleDict:
    """One :class:`Characteristics` per number of classes, named ``classes2`` and so on."""
    groups = nn.ModuleDict()
    for classes in sorted({label.cardinality for label in context.labels}):
        names = [label.name for label in context.labels if label.cardinality == classes]
        groups[f"classes{classes}"] = Characteristics(context, names, blocks, prior_mean, points, draws)
    return groups
