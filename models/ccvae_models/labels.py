"""Labels with classes as numbers: as columns that a network reads or that z owns, as p(y), as a classifier's output.

Tables over classes have the shape (N, L, K), K the greatest number of classes of any label; classes that a label
does not have hold the log-probability :data:`NEVER`, so that sums over K need no mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Gaussian, Labels
from ccvae_eval.model.interface import LabelSchema, ModelContext
from ccvae_models.networks import perceptron, uninitialised

NEVER = -1e9
"""The log-probability of a class that a label does not have: its exponential is 0, its product with 0 is 0."""

RAREST = 1e-6
"""The least p(y): a class that no training label has keeps a finite log-probability."""


def require_classes(context: ModelContext, model: str) -> None:
    """Refuses a model without labels, with a continuous one, or with a p(y) of other classes: a ``UsageError``."""
    if not len(context.labels):
        raise UsageError(f"{model} learns from labels and was given none", hint="Without labels: train vae.")
    for label in context.labels:
        if label.kind == "continuous":
            raise UsageError(
                f"{model} has no classes for a continuous label",
                where=label.name,
                hint="Leave it out (--labels), or cut it into classes in the data.",
            )
    if len(context.label_prior) != len(context.labels):
        raise UsageError(f"p(y) is given for {len(context.label_prior)} of {len(context.labels)} labels")
    for label, p in zip(context.labels, context.label_prior, strict=True):
        if len(p) != label.cardinality:
            raise UsageError(f"p(y) has {len(p)} classes, expected {label.cardinality}", where=label.name)


def require_least(settings: object, model: str, least: Mapping[str, float]) -> None:
    """Refuses settings below what makes sense: a ``UsageError`` that names the first."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        if not value >= lowest:  # NaN too
            raise UsageError(f"{value} is less than {lowest}", where=f"{model}: {name}")


def observed_rows(labels: Labels) -> Tensor:
    """Which rows have every label, shape (N,), bool."""
    return ~labels.isnan().any(1)


class LabelColumns(nn.Module):
    """y as columns: one for a binary label (0 absent, 1 present), K for K classes (a vertex of the simplex).

    Args:
        context: labels and p(y).
    """

    owner: Tensor
    member: Tensor
    log_prior: Tensor
    last: Tensor

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        sizes = [label.cardinality for label in context.labels]
        shown = [(row, k) for row, size in enumerate(sizes) for k in (range(size) if size > 2 else (1,))]
        log_prior = torch.full((len(sizes), max(sizes)), NEVER)
        for row, p in enumerate(context.label_prior):
            log_prior[row, : len(p)] = torch.tensor(p).clamp_min(RAREST).log()
        self.register_buffer("owner", torch.tensor([row for row, _ in shown]), persistent=False)
        self.register_buffer("member", torch.tensor([k for _, k in shown]), persistent=False)
        self.register_buffer("log_prior", log_prior, persistent=False)
        self.register_buffer("last", torch.tensor(sizes) - 1, persistent=False)
        self.count = len(shown)
        self.by_label = {
            name: tuple(c for c, (row, _) in enumerate(shown) if row == index)
            for index, name in enumerate(context.labels.names)
        }

    def vertices(self, value: Tensor) -> Tensor:
        """The columns of classes, (N, L) to (N, columns)."""
        return (value[:, self.owner] == self.member).to(self.log_prior)

    def drawn(self, log_probabilities: Tensor, uniform: Tensor) -> Tensor:
        """Classes from log-probabilities (N, L, K) and uniform numbers (N, L), shape (N, L)."""
        below = log_probabilities.exp().cumsum(-1) < uniform.unsqueeze(-1)
        return torch.minimum(below.sum(-1), self.last)  # rounding must not give a class too many

    def mixture(self, probabilities: Tensor) -> Tensor:
        """The columns of probabilities over classes, (N, L, K) to (N, columns)."""
        return probabilities[:, self.owner, self.member]

    def known(self, labels: Labels, otherwise: Tensor) -> Tensor:
        """The columns of labels; of a missing one those of probabilities (N, L, K)."""
        missing = labels.isnan()[:, self.owner]
        return torch.where(missing, self.mixture(otherwise), self.vertices(labels.nan_to_num(0).long()))

    def point_mass(self, labels: Labels) -> Gaussian:
        """p(z_c|y) of a model whose characteristics are the labels themselves; NaN where a label is missing."""
        there = labels.to(self.log_prior.device)
        missing = there.isnan()[:, self.owner]
        loc = self.vertices(there.nan_to_num(0).long()).masked_fill(missing, math.nan)
        return Gaussian(loc, torch.zeros_like(loc).masked_fill(missing, math.nan))

    def prior(self, rows: int) -> Tensor:
        """p(y) for each of some rows, shape (N, L, K)."""
        return self.log_prior.exp().expand(rows, -1, -1)


class Classifier(nn.Module):
    """log q(y|features) of every label, side by side.

    Args:
        inputs: columns of what it reads.
        labels: what it tells.
        hidden: width of two layers in between; 0 = linear.
    """

    outside: Tensor

    def __init__(self, inputs: int, labels: LabelSchema, hidden: int = 0) -> None:
        super().__init__()
        sizes = [label.cardinality for label in labels]
        self.names, self.sizes, self.most = labels.names, sizes, max(sizes)
        self.layers = perceptron(inputs, hidden) if hidden else nn.Sequential()
        self.logits = uninitialised(nn.Linear, hidden or inputs, len(sizes) * self.most)
        within = torch.arange(self.most) < torch.tensor(sizes).unsqueeze(1)
        self.register_buffer("outside", ~within, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Shape (N, L, K)."""
        logits = self.logits(self.layers(features)).reshape(-1, len(self.sizes), self.most)
        return torch.log_softmax(logits.masked_fill(self.outside, NEVER), -1)

    def by_name(self, each: Tensor) -> dict[str, Tensor]:
        """Log-probabilities (N, L, K) as (N, K) for each label, its own classes alone."""
        return {name: each[:, row, : self.sizes[row]] for row, name in enumerate(self.names)}


def of_labels(each: Tensor, labels: Labels) -> Tensor:
    """Of log-probabilities (N, L, K) those of the labels, shape (N, L); 0 where a label is missing."""
    value = labels.nan_to_num(0).long().unsqueeze(-1)
    return each.gather(-1, value).squeeze(-1).masked_fill(labels.isnan(), 0.0)


def entropy(each: Tensor) -> Tensor:
    """Entropy in nats of each label's classes from log-probabilities (N, L, K), shape (N, L)."""
    return -(each.exp() * each).sum(-1)


def mean_of_rows(values: Tensor) -> float:
    """A mean for history.csv; NaN where there is no row."""
    return values.detach().double().mean().item()
