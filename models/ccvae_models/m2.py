r"""M2: the label as a latent variable (Kingma, Rezende, Mohamed and Welling, NeurIPS 2014, section 2.2).

Generative model: p(y) p(z) p(x|y,z), where p(z) = N(0, I) and p(y) factorises over the labels. Inference model: q(y|x),
which factorises likewise, and q(z|x,y), a diagonal Gaussian.

.. math::
    L(x,y) &= E_{q(z|x,y)}[\log p(x|y,z)] + \log p(y) - KL(q(z|x,y) \| p(z)) \quad\text{(Eq. 6)} \\
    U(x)   &= \sum_y q(y|x) L(x,y) + H(q(y|x)) \quad\text{(Eq. 7)} \\
    J      &= \sum_S L(x,y) + \sum_U U(x) + \alpha \sum_S \log q(y|x) \quad\text{(Eqs. 8 and 9)}

For an image with some labels missing, the sum runs over the missing ones; L and U are the two extreme cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.typed import Range
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Weight, Width, kl_standard, noise_like
from ccvae_models.labels import (
    LabelClassifier,
    LabelEncoding,
    entropy,
    expected,
    log_q_by_name,
    means_by_supervision,
    observed_classes,
    observed_log_prob,
    pick,
    require_discrete_labels,
    sample_classes,
)
from ccvae_models.networks import ConditionalEncoder, concatenated, initialise

MAX_ENUMERATED = 32
"""Largest number of joint label configurations for which U(x) is summed exactly."""


@dataclass(frozen=True, slots=True)
class M2Settings(NetworkSettings):
    """Settings of M2.

    Args:
        style: latent dimensions of z (y is prepended to the code).
        alpha: weight of log q(y|x) per labelled image and value of the input (at 3 x 64 x 64 pixels, 0.02 gives 246, as
            in ccvae). The paper's 0.1 N multiplies a mean over the labelled images. At supervision rate f this is
            0.1 / f for each of them, negligible against thousands of pixels if q(y|x) and q(z|x,y) share a trunk.
        draws: samples of y, if the labels have more than 32 joint configurations.
    """

    style: Width = 27
    alpha: Weight = 0.02
    draws: Annotated[int, Range(least=2)] = 4


@dataclass(frozen=True, slots=True)
class M2Bound:
    """Terms of the bound, each of shape (N,).

    Args:
        reconstruction: E[log p(x|y,z)], over q(y|x) of the missing labels.
        kl_style: E[KL(q(z|x,y) || N(0, I))], likewise.
        kl_labels: KL(q(y|x) || p(y)) of the missing labels.
        log_p_y: log p(y) of the observed labels.
        log_q_y_x: log q(y|x) of the observed labels.
        score: 0, with the score-function gradient of sampled y; no gradient where y is summed out.
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
    """M2 (Kingma et al., NeurIPS 2014): a code is (y, z), and missing labels are summed out.

    q(y|x) is linear in the features of the trunk, which it shares with q(z|x,y).
    """

    Settings: ClassVar[type[Any]] = M2Settings

    every: Tensor

    def __init__(self, settings: M2Settings, context: ModelContext, generator: Generator) -> None:
        require_discrete_labels(context, "m2")
        encoding = LabelEncoding(context)
        super().__init__(settings, context, LatentLayout(encoding.count + settings.style, encoding.by_label))
        self.columns = encoding
        self.classifier = LabelClassifier(self.encoder.features, context.labels)
        sizes = [label.cardinality for label in context.labels]
        self.enumerates = math.prod(sizes) <= MAX_ENUMERATED
        every = torch.cartesian_prod(*(torch.arange(size) for size in sizes)) if self.enumerates else torch.empty(0, 0)
        self.register_buffer("every", every.reshape(-1, len(sizes)), persistent=False)
        initialise(self, generator)

    def _encoder(self) -> nn.Module:
        given = len(self.layout.characteristic_columns)
        return ConditionalEncoder(self.context.input_shape, given, self.settings.style, self.network)

    @property
    def given(self) -> tuple[str, ...]:
        """All labels: each observed label is part of the code itself."""
        return self.labels.names

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """A point mass at y (q(y|x) for a missing label) times q(z|x,y) (section 2.2)."""
        features = self.encoder.trunk(images)
        p = self.classifier(features).exp()
        y = self.columns.expectation(p) if labels is None else self.columns.encode(labels, p)
        q = self.encoder(features, y)
        return concatenated([Gaussian(y, torch.zeros_like(y)), q])

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log q(y|x) of each label from the images (the codes are not used), shape (N, K) each."""
        del codes
        return log_q_by_name(self.classifier(self.encoder.trunk(images)), self.labels)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """A point mass at y; NaN where the label is missing."""
        return self.columns.point_mass(labels)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """-J, divided by the number of images in the batch."""
        bound = self.bound_terms(batch.images, batch.labels, generator)
        weight = self.settings.alpha * math.prod(self.context.input_shape)
        loss = -(bound.value + weight * bound.log_q_y_x).mean()
        common, observed = ("value", "reconstruction", "kl_style"), ("log_p_y", "log_q_y_x")
        terms = means_by_supervision(batch.labels, bound, common, observed, ("kl_labels",))
        yield Objective("model", loss, terms, tuple(self.parameters()))

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """L, or U where labels are missing, shape (N,)."""
        return self.bound_terms(images, labels, generator).value

    def bound_terms(self, x: Images | Points, y: Labels, generator: Generator) -> M2Bound:
        """L of fully labelled images, U of unlabelled ones, and the cases in between.

        KL(q(y|x) || p(y)) is a sum over the labels; only the reconstruction and the KL of z need the joint y. These are
        summed over all joint classes, or averaged over samples of y with the score-function gradient. The baseline of a
        sample is the mean over the image's other samples (unbiased; Salimans and Knowles 2014, Kool et al. 2019).
        """
        features = self.encoder.trunk(x)
        log_q = self.classifier(features)
        rows, value = self._enumerate(y) if self.enumerates else self._sample(y, log_q, generator)
        one_hot = self.columns.one_hot(value)
        q = self.encoder(features[rows], one_hot)
        codes = torch.cat([one_hot, q.at(noise_like(q, generator))], 1)
        terms = torch.stack([self.log_likelihood(x[rows], codes), kl_standard(q).sum(1)], 1)  # (P, 2)
        log_q_of_value = (pick(log_q[rows], value) * y.isnan()[rows]).sum(1)  # missing labels only

        weight, score = log_q_of_value.exp(), torch.zeros_like(terms[:, 0])
        if not self.enumerates:
            draws = torch.bincount(rows, minlength=len(x)).to(terms)[rows]
            f = (terms[:, 0] - terms[:, 1]).detach()
            total = _sum_per_image(f, rows, len(x))[rows]
            advantage = torch.where(draws > 1, f - (total - f) / (draws - 1).clamp_min(1), 0.0)
            weight, score = 1 / draws, advantage / draws * (log_q_of_value - log_q_of_value.detach())
        table = torch.cat([weight.unsqueeze(1) * terms, score.unsqueeze(1)], 1)
        reconstruction, kl_style, gradient = _sum_per_image(table, rows, len(x)).unbind(1)
        negative_cross_entropy = expected(log_q, self.columns.log_prior)
        kl_labels = (y.isnan() * (-entropy(log_q) - negative_cross_entropy)).sum(1)
        log_p_y = observed_log_prob(self.columns.log_prior.expand_as(log_q), y).sum(1)
        return M2Bound(reconstruction, kl_style, kl_labels, log_p_y, observed_log_prob(log_q, y).sum(1), gradient)

    def _enumerate(self, y: Labels) -> tuple[Tensor, Tensor]:
        """All pairs of an image (P,) and joint classes (P, L) that agree with its labels."""
        agrees = (y.isnan().unsqueeze(1) | (y.unsqueeze(1) == self.every)).all(2)  # (N, J)
        rows, configuration = agrees.nonzero(as_tuple=True)
        return rows, self.every[configuration]

    def _sample(self, y: Labels, log_q: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """``draws`` pairs per image with missing labels sampled from q(y|x); one per fully labelled image."""
        repeats = torch.where(y.isnan().any(1), self.settings.draws, 1)
        rows = torch.arange(len(y), device=y.device).repeat_interleave(repeats)
        uniform = torch.rand((len(rows), y.shape[1]), generator=generator, device=generator.device).to(y.device)
        sampled = sample_classes(log_q.detach()[rows], uniform, self.columns.last)
        value, observed = observed_classes(y[rows])
        return rows, torch.where(observed, value, sampled)


def _sum_per_image(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sum over the pairs of each image. (``index_add`` is not deterministic on a GPU.)"""
    return values.new_zeros(count, *values.shape[1:]).index_put((rows,), values, accumulate=True)
