"""q(y|z_c), p(z_c|y) and p(y), batched over labels with the same number of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.types import Codes, Gaussian, Labels
from ccvae_eval.model.interface import LabelSchema, ModelContext
from ccvae_models.labels import MIN_PROBABILITY
from ccvae_models.networks import positive
from ccvae_models.quadrature import QuadratureRule, class_log_probabilities, quasi_random, trapezoid


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


class Characteristics(nn.Module):
    """G labels with K classes each and d latent dimensions each.

    The classifier is linear in the label's own latent dimensions (for d = 1 and a binary label this is the diagonal
    affine map of Joy et al., initialised to w = 1, b = 0). The prior is one diagonal Gaussian per class.

    Args:
        indices: positions of the labels in the schema.
        blocks: latent dimensions of the labels, G tuples of length d.
        label_prior: p(y), G tuples of length K.
        prior_mean: initial distance of the prior means from the origin.
        points: nodes of the one-dimensional quadrature.
        draws: quasi-random draws, for integrals in more than two dimensions.
    """

    label_prior: Tensor

    def __init__(
        self,
        indices: tuple[int, ...],
        blocks: tuple[tuple[int, ...], ...],
        label_prior: tuple[tuple[float, ...], ...],
        prior_mean: float,
        points: int,
        draws: int,
    ) -> None:
        super().__init__()
        self.indices, self.points, self.draws = list(indices), points, draws
        self.classes, self.block = len(label_prior[0]), len(blocks[0])
        self.dimensions = [dimension for block in blocks for dimension in block]
        directions = class_directions(self.classes, self.block).to(torch.get_default_device())
        start = directions.expand(len(indices), -1, -1)  # (G, K, d)
        weight = start[:, 1:] if self.classes == 2 else start
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(torch.zeros(weight.shape[:2]))
        self.loc = nn.Parameter(prior_mean * start)
        self.raw_scale = nn.Parameter(torch.ones(start.shape))
        self.register_buffer("label_prior", torch.tensor(label_prior).clamp_min(MIN_PROBABILITY))

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

    def select(self, codes: Tensor) -> Tensor:
        """The labels' latent dimensions of codes, means or scales, from (N, D) to (N, G, d)."""
        return codes[:, self.dimensions].reshape(len(codes), len(self.indices), self.block)

    def posterior(self, q: Gaussian) -> Gaussian:
        """q(z|x) over the labels' latent dimensions, shape (N, G, d)."""
        return Gaussian(self.select(q.loc), self.select(q.scale))

    def observe(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """The group's labels as class indices (0 where missing), and a mask of the observed ones, (N, G) each."""
        y = labels[:, self.indices]
        return y.nan_to_num(0).long(), ~y.isnan()

    def log_q_y_z(self, codes: Codes) -> Tensor:
        """log q(y|z_c) of each class, shape (N, G, K)."""
        logits = torch.einsum("ngd,grd->ngr", self.select(codes), self.weight) + self.bias
        return class_log_probabilities(logits)

    @property
    def prior(self) -> Gaussian:
        """p(z_c|y) of each class, loc and scale of shape (G, K, d)."""
        return Gaussian(self.loc, positive(self.raw_scale))

    def prior_given(self, value: Tensor) -> Gaussian:
        """p(z_c|y) of the given classes (N, G), loc and scale of shape (N, G, d)."""
        group = torch.arange(len(self.indices), device=value.device)
        return Gaussian(self.loc[group, value], positive(self.raw_scale[group, value]))


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Select the entries of the given classes (N, G) from a table over classes (N, G, K)."""
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)


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


def group_by_classes(
    context: ModelContext, blocks: Mapping[str, tuple[int, ...]], prior_mean: float, points: int, draws: int
) -> nn.ModuleDict:
    """One :class:`Characteristics` per number of classes, named ``classes2`` and so on."""
    labels = context.labels
    groups = nn.ModuleDict()
    for classes in sorted({label.cardinality for label in labels}):
        indices = tuple(i for i, label in enumerate(labels) if label.cardinality == classes)
        groups[f"classes{classes}"] = Characteristics(
            indices,
            tuple(blocks[labels.names[i]] for i in indices),
            tuple(context.label_prior[i] for i in indices),
            prior_mean,
            points,
            draws,
        )
    return groups
