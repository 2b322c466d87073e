r"""M2: the label as a latent variable (Kingma, Rezende, Mohamed and Welling, NeurIPS 2014, section 2.2).

Generative model: p(y) p(z) p(x|y,z), p(z) = N(0, I), p(y) a product over the labels. Inference: q(y|x), a product of
classifiers, and q(z|x,y), a diagonal Gaussian.

.. math::
    L(x,y) &= E_{q(z|x,y)}[\log p(x|y,z)] + \log p(y) - KL(q(z|x,y) \| p(z)) \quad\text{(Eq. 6)} \\
    U(x)   &= \sum_y q(y|x) L(x,y) + H(q(y|x)) \quad\text{(Eq. 7)} \\
    J      &= \sum_S L(x,y) + \sum_U U(x) + \alpha \sum_S \log q(y|x) \quad\text{(Eqs. 8 and 9)}

A row with some labels missing has the observed ones fixed and the sum over the others: both equations are the ends
of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.labels import (
    Classifier,
    LabelColumns,
    entropy,
    mean_of_rows,
    of_labels,
    require_classes,
    require_least,
)
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import ConditionalEncoder, NetworkName, initialise

MOST_ENUMERATED = 32
"""Joint configurations of the labels up to which U(x) is summed exactly."""


@dataclass(frozen=True, slots=True)
class M2Settings:
    """Settings of M2.

    Args:
        style: columns of z besides those of y.
        alpha: weight of log q(y|x) for each labelled image and value of the input (at 3 x 64 x 64 pixels .02 weigh
            246, as in ccvae). The paper's .1 N stands before a mean over the labelled images: .1 / f for each of them
            at a supervision rate f, too little to be heard beside thousands of pixels through one trunk.
        draws: draws of y where the labels have more than 32 joint configurations.
        likelihood: p(x|y,z).
        likelihood_scale: its scale.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    style: int = 27
    alpha: float = 0.02
    draws: int = 4
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


@dataclass(frozen=True, slots=True)
class M2Bound:
    """The parts of the bound, each of shape (N,).

    Args:
        reconstruction: E[log p(x|y,z)] under q(y|x) of the missing labels.
        kl_style: E[KL(q(z|x,y) || N(0, I))] likewise.
        kl_labels: KL(q(y|x) || p(y)) of the missing labels.
        log_p_y: log p(y) of the observed labels.
        log_q_y_x: log q(y|x) of the observed labels.
        score: 0, with the gradient that a draw of y has by its probability; 0 where y is summed out.
    """

    reconstruction: Tensor
    kl_style: Tensor
    kl_labels: Tensor
    log_p_y: Tensor
    log_q_y_x: Tensor
    score: Tensor

    @property
    def value(self) -> Tensor:
        return self.reconstruction - self.kl_style - self.kl_labels + self.log_p_y + self.score


class M2(Autoencoder[M2Settings]):
    """The first columns of a code are y itself, the rest is z. See the module's text for the model.

    q(y|x) is linear in the features of the trunk that q(z|x,y) uses too.
    """

    Settings: ClassVar[type[Any]] = M2Settings

    def __init__(self, settings: M2Settings, context: ModelContext, generator: Generator) -> None:
        require_classes(context, "m2")
        require_least(settings, "m2", {"style": 1, "alpha": 0, "draws": 2})
        columns = LabelColumns(context)
        super().__init__(settings, context, LatentLayout(columns.count + settings.style, columns.by_label))
        self.columns = columns
        self.classifier = Classifier(self.encoder.features, context.labels)
        sizes = [label.cardinality for label in context.labels]
        self.enumerates = math.prod(sizes) <= MOST_ENUMERATED
        every = torch.cartesian_prod(*(torch.arange(size) for size in sizes)) if self.enumerates else torch.empty(0, 0)
        self.register_buffer("every", every.reshape(-1, len(sizes)), persistent=False)
        initialise(self, generator)

    every: Tensor

    def _encoder(self) -> nn.Module:
        given = len(self.layout.characteristic_columns)
        return ConditionalEncoder(self.context.input_shape, given, self.settings.style, self.network)

    @property
    def given(self) -> tuple[str, ...]:
        """Every label: its columns are the label where it is known."""
        return self.labels.names

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """A point mass at y (where it is unknown: at q(y|x)) beside q(z|x,y), section 2.2."""
        features = self.encoder.trunk(images)
        p = self.classifier(features).exp()
        y = self.columns.mixture(p) if labels is None else self.columns.known(labels, p)
        q = self.encoder(features, y)
        return Gaussian(torch.cat([y, q.loc], 1), torch.cat([torch.zeros_like(y), q.scale], 1))

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|x) of each label, shape (N, K): of the images, whatever the codes say."""
        del codes
        return {**self.classifier.by_name(self.classifier(self.encoder.trunk(images)))}

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """A point mass at y; NaN where the label is missing."""
        return self.columns.point_mass(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """-J, divided by the rows of the batch."""
        bound = self.parts(batch.images, batch.labels, generator)
        weight = self.settings.alpha * math.prod(self.context.input_shape)
        loss = -(bound.value + weight * bound.log_q_y_x).mean()
        yield Objective("model", loss, _terms(bound, batch.labels), tuple(self.parameters()))

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """L, or U where labels are missing, of each row, shape (N,)."""
        return self.parts(images, labels, generator).value

    def parts(self, x: Images | Points, y: Labels, generator: Generator) -> M2Bound:
        """L of the rows whose labels are all known, U of those with none, and what lies between.

        KL(q(y|x) || p(y)) is a sum over the labels; only the reconstruction and the KL of z need the joint y. They
        are summed over all joint classes, or averaged over draws of y with the score-function gradient, each draw's
        baseline the mean of the row's other draws (unbiased; Salimans and Knowles 2014, Kool et al. 2019).
        """
        features = self.encoder.trunk(x)
        log_q = self.classifier(features)
        rows, value = self._enumerated(y) if self.enumerates else self._drawn(y, log_q, generator)
        columns = self.columns.vertices(value)
        q = self.encoder(features[rows], columns)
        z = torch.cat([columns, q.at(noise_like(q, generator))], 1)
        parts = torch.stack([self.log_likelihood(x[rows], z), kl_standard(q).sum(1)], 1)  # (P, 2)
        chosen = log_q[rows].gather(-1, value.unsqueeze(-1)).squeeze(-1)
        log_q_of_value = (chosen * y.isnan()[rows]).sum(1)  # of the labels that are not observed

        weight, score = log_q_of_value.exp(), torch.zeros_like(parts[:, 0])
        if not self.enumerates:
            draws = torch.bincount(rows, minlength=len(x)).to(parts)[rows]
            f = (parts[:, 0] - parts[:, 1]).detach()
            total = _summed(f, rows, len(x))[rows]
            advantage = torch.where(draws > 1, f - (total - f) / (draws - 1).clamp_min(1), 0.0)
            weight, score = 1 / draws, advantage / draws * (log_q_of_value - log_q_of_value.detach())
        table = torch.cat([weight.unsqueeze(1) * parts, score.unsqueeze(1)], 1)
        reconstruction, kl_style, gradient = _summed(table, rows, len(x)).unbind(1)
        surprise = (log_q.exp() * self.columns.log_prior).sum(-1)
        kl_labels = (y.isnan() * (-entropy(log_q) - surprise)).sum(1)
        log_p_y = of_labels(self.columns.log_prior.expand_as(log_q), y).sum(1)
        return M2Bound(reconstruction, kl_style, kl_labels, log_p_y, of_labels(log_q, y).sum(1), gradient)

    def _enumerated(self, y: Labels) -> tuple[Tensor, Tensor]:
        """Every pair of a row and joint classes (P, L) that agree with its labels."""
        agrees = (y.isnan().unsqueeze(1) | (y.unsqueeze(1) == self.every)).all(2)  # (N, J)
        rows, which = agrees.nonzero(as_tuple=True)
        return rows, self.every[which]

    def _drawn(self, y: Labels, log_q: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """``draws`` pairs of each row with its missing labels drawn from q(y|x); one of a row that misses none."""
        repeats = torch.where(y.isnan().any(1), self.settings.draws, 1)
        rows = torch.arange(len(y), device=y.device).repeat_interleave(repeats)
        uniform = torch.rand((len(rows), y.shape[1]), generator=generator, device=generator.device).to(y.device)
        drawn, known = self.columns.drawn(log_q.detach()[rows], uniform), y[rows]
        return rows, torch.where(known.isnan(), drawn, known.nan_to_num(0).long())


def _summed(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sums over the pairs of each row; on a card ``index_add`` would add in another order each time."""
    return values.new_zeros(count, *values.shape[1:]).index_put((rows,), values, accumulate=True)


def _terms(bound: M2Bound, y: Labels) -> dict[str, float]:
    """The parts as means over the rows with and without labels; NaN where there is no such row."""
    labelled = ~y.isnan().all(1)
    terms: dict[str, float] = {}
    own = {"supervised": ("log_p_y", "log_q_y_x"), "unsupervised": ("kl_labels",)}
    for kind, rows in (("supervised", labelled), ("unsupervised", ~labelled)):
        terms[f"{kind}.rows"] = int(rows.sum())
        for part in ("value", "reconstruction", "kl_style", *own[kind]):
            terms[f"{kind}.{part}"] = mean_of_rows(getattr(bound, part)[rows])
    return terms
