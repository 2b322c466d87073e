r"""MVAE: a product of experts over the image and its labels (Wu and Goodman, NeurIPS 2018).

Generative model: p(z) p(x|z) prod_i p(y^i|z), p(z) = N(0, I). Inference model, for any subset of image and labels:

.. math:: q(z|x,y) \propto N(0, I) \, q(z|x) \prod_i q(z|y^i) \quad\text{(Eqs. 3 and 4)}

which is a Gaussian whose precision is the sum of the experts' precisions. The objective is ELBO(x, y) + ELBO(x) +
ELBO(y) (section 2.2), where for a subset S

.. math:: ELBO(S) = E_{q(z|S)}[\lambda_x \log p(x|z) + \lambda_y \sum_i \log p(y^i|z)] - \beta KL(q(z|S) \| p(z))

contains the terms of S only. All of z is shared: no latent dimension belongs to a label. do(y^i = v) replaces the
expert of that label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Generator, Tensor

from ccvae_eval.core.typed import Range
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Weight, Width, kl_standard, noise_like
from ccvae_models.kl_schedule import KLSchedule
from ccvae_models.labels import (
    ClassGaussians,
    LabelClassifier,
    log_q_by_name,
    means_of_rows,
    observed_classes,
    observed_log_prob,
    require_discrete_labels,
)
from ccvae_models.networks import initialise

VARIANCE_EPSILON = 1e-8
"""Added to the variance of every expert, as in the authors' code."""


@dataclass(frozen=True, slots=True)
class MVAESettings(NetworkSettings):
    """Settings of MVAE. The authors' settings for CelebA: latent 100, lambda_image 1, lambda_labels 10, and beta rising
    from 0 to 1 over the first 20 epochs.

    Args:
        latent: number of latent dimensions.
        lambda_image: weight of log p(x|z).
        lambda_labels: weight of log p(y|z).
        beta: weight of the KL.
        warm_up: training steps over which the weight of the KL rises from 0 to beta. Without a warm-up, q(z|x) stays at
            the prior for a long time.
        label_width: width of the two hidden layers of p(y|z).
    """

    latent: Width = 100
    lambda_image: Weight = 1.0
    lambda_labels: Weight = 10.0
    beta: Weight = 1.0
    warm_up: Annotated[int, Range(least=0)] = 500
    label_width: Width = 256


class MVAE(Autoencoder[MVAESettings]):
    """MVAE (Wu and Goodman, NeurIPS 2018): image and labels are modalities of one z, joined by a product of experts."""

    Settings: ClassVar[type[Any]] = MVAESettings

    def __init__(self, settings: MVAESettings, context: ModelContext, generator: Generator) -> None:
        require_discrete_labels(context, "mvae")
        super().__init__(settings, context, LatentLayout(settings.latent))
        self.experts = LabelExperts(context, settings.latent, generator)
        self.classifier = LabelClassifier(settings.latent, context.labels, settings.label_width)
        self.warm_up = KLSchedule(settings.warm_up)
        initialise(self, generator)

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """N(0, I) q(z|x), the posterior given the image alone (Eq. 3); the labels are not used."""
        del labels
        return product([self.encoder(images)])

    def posterior(self, images: Images | Points, labels: Labels) -> Gaussian:
        """N(0, I) q(z|x) prod_i q(z|y^i), with a product over the observed labels (Eq. 3)."""
        return product([self.encoder(images), self.experts(labels)])

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log p(y|z) of each label, shape (N, K) each."""
        del images
        return log_q_by_name(self.classifier(codes), self.labels)

    def intervene(self, images: Images | Points, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes:
        """The point of N(0, I) q(z|x) prod_j q(z|y^j) q(z|y^c = v) that lies ``noise`` deviations from the mean.

        Labels without an assignment keep the class that the model predicts from the codes (argmax of p(y|z)).
        """
        labels = self.classifier(codes).argmax(-1).to(codes.dtype)
        for name, value in assignment.items():
            labels[:, self.labels.index(name)] = value
        return self.posterior(images, labels).at(noise)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """-(ELBO(x, y) + ELBO(x) + ELBO(y)), divided by the images in the batch; -ELBO(x) for an unlabelled image."""
        x, y = batch.images, batch.labels
        labelled = ~y.isnan().all(1)
        q_x, q_y = self.encoder(x), self.experts(y[labelled])
        beta = self.settings.beta * self.warm_up.next()
        elbos = {
            "unsupervised": self._elbo(product([q_x]), beta, generator, x, None),
            "supervised": self._elbo(product([q_x.rows(labelled), q_y]), beta, generator, x[labelled], y[labelled]),
            "labels": self._elbo(product([q_y]), beta, generator, None, y[labelled]),
        }
        total = sum(elbo["value"].sum() for elbo in elbos.values())
        terms: dict[str, float] = {}
        for name, elbo in elbos.items():
            terms |= means_of_rows(name, len(elbo["value"]), elbo)
        assert isinstance(total, Tensor)
        yield Objective("model", -total / len(batch), terms, tuple(self.parameters()))

    def _elbo(
        self, q: Gaussian, beta: float, generator: Generator, x: Images | Points | None, y: Labels | None
    ) -> dict[str, Tensor]:
        """ELBO of the image, the labels or both, and its terms, each of shape (N,)."""
        settings = self.settings
        z = q.at(noise_like(q, generator))
        terms = {"kl": kl_standard(q).sum(1)}
        value = -beta * terms["kl"]
        if x is not None:
            terms["reconstruction"] = self.log_likelihood(x, z)
            value = value + settings.lambda_image * terms["reconstruction"]
        if y is not None:
            terms["log_p_y_z"] = observed_log_prob(self.classifier(z), y).sum(1)
            value = value + settings.lambda_labels * terms["log_p_y_z"]
        return {"value": value, **terms}


class LabelExperts(ClassGaussians):
    """q(z|y^i): one diagonal Gaussian over all of z per class of each label.

    Args:
        context: provides the labels.
        latent: number of latent dimensions.
        generator: draws the initial means.
    """

    def __init__(self, context: ModelContext, latent: int, generator: Generator) -> None:
        super().__init__()
        shape = (len(context.labels), max(label.cardinality for label in context.labels), latent)
        start = torch.randn(shape, generator=generator, device="cpu").to(torch.get_default_device())
        self.start_at(0.1 * start)

    def forward(self, labels: Labels) -> Gaussian:
        """The experts of the labels, shape (N, L, D); the scale of a missing label's expert is infinite."""
        value, observed = observed_classes(labels)
        expert = self.of_class(value)
        return Gaussian(expert.loc, expert.scale.masked_fill(~observed.unsqueeze(-1), torch.inf))


def product(experts: list[Gaussian]) -> Gaussian:
    r"""Normalised product of N(0, I) and Gaussian experts over z.

    .. math:: \tau = 1 + \sum_e 1 / (\sigma_e^2 + 10^{-8}), \quad \mu = \sum_e \mu_e / (\sigma_e^2 + 10^{-8}) / \tau

    Args:
        experts: each of shape (N, D), or (N, L, D) for L experts. An expert with infinite scale has no effect.

    >>> product([Gaussian(torch.ones(1, 1), torch.ones(1, 1))]).loc
    tensor([[0.5000]])
    """
    first = experts[0]
    precision = torch.ones(first.loc.shape[0], first.loc.shape[-1], dtype=first.loc.dtype, device=first.loc.device)
    weighted = torch.zeros_like(precision)
    for expert in experts:
        own = 1 / (expert.scale.square() + VARIANCE_EPSILON)
        mean = own * expert.loc
        precision = precision + (own.sum(1) if own.ndim == 3 else own)
        weighted = weighted + (mean.sum(1) if mean.ndim == 3 else mean)
    return Gaussian(weighted / precision, precision.rsqrt())
