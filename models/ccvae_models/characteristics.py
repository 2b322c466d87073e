"""q(y|z_c), p(z_c|y) and p(y) for labels of one kind: those with the same number of classes, side by side."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Labels
from ccvae_eval.model.interface import Label, LabelSchema, ModelContext
from ccvae_models.networks import positive
from ccvae_models.quadrature import Rule, class_log_probabilities, quasi_random, trapezoid

RAREST = 1e-6
"""The least p(y): a class that no training label has keeps a finite log probability."""


def class_directions(classes: int, columns: int) -> Tensor:
    """Where the classes start, as unit vectors in the label's columns, shape (K, d).

    Two classes lie at -+ the diagonal; one column holds the classes in a row from -1 to 1; two hold them on a
    circle; K - 1 hold a regular simplex (the rows of a real Fourier basis, cut to d columns).

    >>> class_directions(2, 1)
    tensor([[-1.],
            [ 1.]])
    """
    if classes == 2:
        return torch.tensor([[-1.0], [1.0]], device="cpu").expand(2, columns) / math.sqrt(columns)
    if columns == 1:
        return torch.linspace(-1, 1, classes, device="cpu").unsqueeze(1)
    turn = 2 * math.pi * torch.arange(classes, device="cpu") / classes
    waves = [wave(turn * (1 + j)) for j in range((classes - 1) // 2) for wave in (torch.cos, torch.sin)]
    if classes % 2 == 0:
        waves.append(torch.cos(turn * (classes // 2)) / math.sqrt(2))
    basis = torch.stack(waves[:columns], 1)
    basis = nn.functional.pad(basis, (0, columns - basis.shape[1]))
    return nn.functional.normalize(basis, dim=1)


class Choice(NamedTuple):
    """Labels of one group as indices: which class is observed, and where."""

    value: Tensor  # (N, G) int64, 0 where missing
    observed: Tensor  # (N, G) bool


class Characteristics(nn.Module):
    """G labels of K classes, each with d latent columns of its own.

    The classifier is linear in the label's own columns (for one column and a binary label: the paper's diagonal
    affine map, starting at w = 1, b = 0); the prior is one diagonal Gaussian for each class.

    Args:
        rows: the labels' places in the schema.
        columns: the labels' latent columns, G tuples of d.
        label_prior: p(y), G tuples of K.
        prior_mean: distance of the prior means from the origin at the start.
        points: nodes of the one-dimensional rule.
        draws: quasi-random draws where the rule has more than two dimensions.
    """

    label_prior: Tensor

    def __init__(
        self,
        rows: tuple[int, ...],
        columns: tuple[tuple[int, ...], ...],
        label_prior: tuple[tuple[float, ...], ...],
        prior_mean: float,
        points: int,
        draws: int,
    ) -> None:
        super().__init__()
        self.rows, self.columns, self.points, self.draws = list(rows), columns, points, draws
        self.classes, self.block = len(label_prior[0]), len(columns[0])
        directions = class_directions(self.classes, self.block).to(torch.get_default_device())
        everywhere = directions.expand(len(rows), -1, -1)  # (G, K, d)
        weight = everywhere[:, 1:] if self.classes == 2 else everywhere
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(torch.zeros(weight.shape[:2]))
        self.loc = nn.Parameter(prior_mean * everywhere)
        self.raw_scale = nn.Parameter(torch.ones(everywhere.shape))
        self.register_buffer("label_prior", torch.tensor(label_prior).clamp_min(RAREST))

    @property
    def rank(self) -> int:
        """Dimensions of the integral over one label's columns."""
        return 1 if self.classes == 2 else self.block

    def rule(self, generator: Generator | None, refined: bool = False) -> Rule:
        """The quadrature: 129 points in one dimension, 33 x 33 in two, quasi-random draws beyond.

        Args:
            generator: shifts the quasi-random draws; without it they are fixed.
            refined: twice the points in each dimension (four times the draws), for evaluation.
        """
        if self.rank > 2:
            return quasi_random(self.draws * (4 if refined else 1), self.rank, generator)
        intervals = (self.points - 1) // (4 if self.rank == 2 else 1)
        return trapezoid(intervals * (2 if refined else 1) + 1, self.rank)

    def of(self, codes: Tensor) -> Tensor:
        """The labels' columns of codes, means or scales (N, D): shape (N, G, d)."""
        flat = [column for block in self.columns for column in block]
        return codes[:, flat].reshape(len(codes), len(self.rows), self.block)

    def posterior(self, q: Gaussian) -> Gaussian:
        """q(z|x) over the labels' columns, shape (N, G, d)."""
        return Gaussian(self.of(q.loc), self.of(q.scale))

    def choice(self, labels: Labels) -> Choice:
        """Which class of each label is observed."""
        y = labels[:, self.rows]
        return Choice(y.nan_to_num(0).long(), ~y.isnan())

    def log_q_y_z(self, codes: Codes) -> Tensor:
        """log q(y|z_c) of each class, shape (N, G, K)."""
        logits = torch.einsum("ngd,grd->ngr", self.of(codes), self.weight) + self.bias
        return class_log_probabilities(logits)

    @property
    def prior(self) -> Gaussian:
        """p(z_c|y) for each class, loc and scale of shape (G, K, d)."""
        return Gaussian(self.loc, positive(self.raw_scale))

    def prior_given(self, index: Tensor) -> Gaussian:
        """p(z_c|y) for given classes (N, G): loc and scale of shape (N, G, d)."""
        group = torch.arange(len(self.rows), device=index.device)
        return Gaussian(self.loc[group, index], positive(self.raw_scale[group, index]))


def pick(each: Tensor, index: Tensor) -> Tensor:
    """Of values for each class (N, G, K), those of given classes (N, G)."""
    return each.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def block_size(label: Label, block: int, class_block: int) -> int:
    """How many columns a label owns: ``block`` if it has two classes, else ``class_block`` but at most K - 1."""
    return block if label.cardinality == 2 else min(class_block, label.cardinality - 1)


def blocks(labels: LabelSchema, block: int, class_block: int) -> dict[str, tuple[int, ...]]:
    """The columns of each label, in the schema's order, from column 0."""
    taken: dict[str, tuple[int, ...]] = {}
    start = 0
    for label in labels:
        stop = start + block_size(label, block, class_block)
        taken[label.name] = tuple(range(start, stop))
        start = stop
    return taken


def grouped(
    context: ModelContext, columns: dict[str, tuple[int, ...]], prior_mean: float, points: int, draws: int
) -> nn.ModuleDict:
    """One :class:`Characteristics` for each number of classes among the labels, named ``classes2`` and so on."""
    labels = context.labels
    if len(context.label_prior) != len(labels):
        raise UsageError(f"p(y) is given for {len(context.label_prior)} of {len(labels)} labels")
    for label, p in zip(labels, context.label_prior, strict=True):
        if len(p) != label.cardinality:
            raise UsageError(f"p(y) has {len(p)} classes, expected {label.cardinality}", where=label.name)
    groups = nn.ModuleDict()
    for classes in sorted({label.cardinality for label in labels}):
        rows = tuple(row for row, label in enumerate(labels) if label.cardinality == classes)
        names = [labels.names[row] for row in rows]
        groups[f"classes{classes}"] = Characteristics(
            rows,
            tuple(columns[name] for name in names),
            tuple(context.label_prior[row] for row in rows),
            prior_mean,
            points,
            draws,
        )
    return groups
