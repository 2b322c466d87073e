"""Discrete labels as network inputs (one-hot), as p(y), and as the output of a classifier.

Tables over classes have shape (N, L, K), where K is the largest number of classes of any label. Classes that a label
does not have hold the log probability :data:`LOG_ZERO`, so sums over K need no mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Gaussian, Labels
from ccvae_eval.model.interface import LabelSchema, ModelContext
from ccvae_models.networks import perceptron, positive, uninitialised

LOG_ZERO = -1e9
"""Finite stand-in for log 0: its exponential is 0, and 0 times it is 0 (not NaN)."""

MIN_PROBABILITY = 1e-6
"""Lower bound on p(y): a class absent from the training labels keeps a finite log probability."""


def require_discrete_labels(context: ModelContext, model: str) -> None:
    """Check that all labels are discrete and that p(y) matches their classes.

    Raises:
        UsageError: no labels, a continuous label, or a p(y) of the wrong size.
    """
    if not len(context.labels):
        raise UsageError(f"{model} needs at least one label", hint="To train without labels, use vae.")
    for label in context.labels:
        if label.kind == "continuous":
            raise UsageError(
                f"{model} does not support continuous labels",
                where=label.name,
                hint="Leave the label out (--labels), or discretise it in the data.",
            )
    if len(context.label_prior) != len(context.labels):
        raise UsageError(f"p(y) is given for {len(context.label_prior)} of {len(context.labels)} labels")
    for label, p in zip(context.labels, context.label_prior, strict=True):
        if len(p) != label.cardinality:
            raise UsageError(f"p(y) must have {label.cardinality} classes, got {len(p)}", where=label.name)


def fully_labelled(labels: Labels) -> Tensor:
    """True for the rows with every label observed, shape (N,)."""
    return ~labels.isnan().any(1)


def observed_classes(labels: Labels) -> tuple[Tensor, Tensor]:
    """Class of each label (0 where missing), and a mask of the observed labels, (N, L) each."""
    return labels.nan_to_num(0).long(), ~labels.isnan()


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Select the entries of the given classes (N, L) from a table over classes (N, L, K)."""
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def expected(log_q: Tensor, values: Tensor) -> Tensor:
    """Expectation over the classes of a table of values, under log probabilities, from (N, L, K) to (N, L)."""
    return (log_q.exp() * values).sum(-1)


class ClassGaussians(nn.Module):
    """One diagonal Gaussian per class of each label."""

    loc: nn.Parameter
    raw_scale: nn.Parameter

    def start_at(self, means: Tensor) -> None:
        """Create the parameters, from means of shape (L, K, d); all scales start at softplus(1) = 1.3."""
        self.loc = nn.Parameter(means)
        self.raw_scale = nn.Parameter(torch.ones_like(means))

    @property
    def all_classes(self) -> Gaussian:
        """The Gaussians of all classes, shape (L, K, d)."""
        return Gaussian(self.loc, positive(self.raw_scale))

    def of_class(self, value: Tensor) -> Gaussian:
        """The Gaussians of the given classes (N, L), shape (N, L, d)."""
        label = torch.arange(value.shape[1], device=value.device)
        return Gaussian(self.loc[label, value], positive(self.raw_scale[label, value]))


class LabelEncoding(nn.Module):
    """y as network input: one column (0 or 1) for a binary label, K one-hot columns for a label with K classes.

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
        columns = [(i, k) for i, size in enumerate(sizes) for k in (range(size) if size > 2 else (1,))]
        log_prior = torch.full((len(sizes), max(sizes)), LOG_ZERO)
        for i, p in enumerate(context.label_prior):
            log_prior[i, : len(p)] = torch.tensor(p).clamp_min(MIN_PROBABILITY).log()
        self.register_buffer("owner", torch.tensor([i for i, _ in columns]), persistent=False)
        self.register_buffer("member", torch.tensor([k for _, k in columns]), persistent=False)
        self.register_buffer("log_prior", log_prior, persistent=False)
        self.register_buffer("last", torch.tensor(sizes) - 1, persistent=False)
        self.count = len(columns)
        self.by_label = {
            name: tuple(c for c, (i, _) in enumerate(columns) if i == index)
            for index, name in enumerate(context.labels.names)
        }

    def one_hot(self, classes: Tensor) -> Tensor:
        """Encode classes, (N, L) to (N, columns)."""
        return (classes[:, self.owner] == self.member).to(self.log_prior)

    def expectation(self, probabilities: Tensor) -> Tensor:
        """Expected encoding under class probabilities, (N, L, K) to (N, columns)."""
        return probabilities[:, self.owner, self.member]

    def encode(self, labels: Labels, probabilities: Tensor) -> Tensor:
        """Encode labels; a missing label gets its expectation under the probabilities (N, L, K)."""
        value, observed = observed_classes(labels)
        return torch.where(observed[:, self.owner], self.one_hot(value), self.expectation(probabilities))

    def point_mass(self, labels: Labels) -> Gaussian:
        """p(z_c|y) of a model whose characteristics are the labels themselves; NaN where a label is missing."""
        value, observed = observed_classes(labels.to(self.log_prior.device))
        missing = ~observed[:, self.owner]
        loc = self.one_hot(value).masked_fill(missing, math.nan)
        return Gaussian(loc, torch.zeros_like(loc).masked_fill(missing, math.nan))

    def prior(self, rows: int) -> Tensor:
        """p(y), repeated for a number of rows, shape (N, L, K)."""
        return self.log_prior.exp().expand(rows, -1, -1)


def outside_classes(labels: LabelSchema) -> Tensor:
    """True where an (L, K) table over classes has no class of its label."""
    sizes = [label.cardinality for label in labels]
    return torch.arange(max(sizes)) >= torch.tensor(sizes).unsqueeze(1)


class LabelClassifier(nn.Module):
    """log q(y|features) of every label.

    Args:
        inputs: number of features.
        labels: the labels to predict.
        hidden: width of the two hidden layers; 0 = a linear classifier.
    """

    outside: Tensor

    def __init__(self, inputs: int, labels: LabelSchema, hidden: int = 0) -> None:
        super().__init__()
        sizes = [label.cardinality for label in labels]
        self.layers = perceptron(inputs, hidden) if hidden else nn.Sequential()
        self.logits = uninitialised(nn.Linear, hidden or inputs, len(sizes) * max(sizes))
        self.register_buffer("outside", outside_classes(labels), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Log probabilities, shape (N, L, K)."""
        logits = self.logits(self.layers(features)).reshape(-1, *self.outside.shape)
        return torch.log_softmax(logits.masked_fill(self.outside, LOG_ZERO), -1)


def sample_classes(log_probabilities: Tensor, uniform: Tensor, last: Tensor) -> Tensor:
    """Sample classes from log probabilities (N, L, K) with uniform numbers (N, L); ``last`` is each label's K - 1."""
    below = log_probabilities.exp().cumsum(-1) < uniform.unsqueeze(-1)
    return torch.minimum(below.sum(-1), last)  # guards against a rounded total below 1


def log_q_by_name(log_q: Tensor, labels: LabelSchema) -> dict[str, Tensor | Gaussian]:
    """Split log probabilities (N, L, K) by label: shape (N, K) each, with the label's own classes only."""
    return {label.name: log_q[:, i, : label.cardinality] for i, label in enumerate(labels)}


def observed_log_prob(log_q: Tensor, labels: Labels) -> Tensor:
    """Log probabilities of the observed classes, from (N, L, K) to (N, L); 0 where a label is missing."""
    value, observed = observed_classes(labels)
    return pick(log_q, value).masked_fill(~observed, 0.0)


def entropy(log_q: Tensor) -> Tensor:
    """Entropy of each label's distribution in nats, from log probabilities (N, L, K) to (N, L)."""
    return -expected(log_q, log_q)


def means_of_rows(kind: str, rows: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Number of rows and means of terms of shape (N,), as floats for history.csv; means without rows are NaN."""
    return {f"{kind}.rows": rows} | {f"{kind}.{n}": term.detach().double().mean().item() for n, term in terms.items()}


def means_by_supervision(
    labels: Labels, terms: object, common: Iterable[str], supervised: Iterable[str], unsupervised: Iterable[str]
) -> dict[str, float]:
    """Means of terms over images with and over images without labels, for history.csv; NaN without rows.

    Args:
        labels: shape (N, L); an image has labels if any is observed.
        terms: has the terms as attributes, of shape (N,), or (N, L) to be summed over the labels.
        common: names of the terms for both.
        supervised, unsupervised: names of the terms for one of them only.
    """
    labelled = ~labels.isnan().all(1)
    means: dict[str, float] = {}
    for kind, rows, own in (("supervised", labelled, supervised), ("unsupervised", ~labelled, unsupervised)):
        found: dict[str, Tensor] = {name: getattr(terms, name) for name in (*common, *own)}
        of_rows = {name: (term if term.ndim == 1 else term.sum(1))[rows] for name, term in found.items()}
        means |= means_of_rows(kind, int(rows.sum()), of_rows)
    return means
