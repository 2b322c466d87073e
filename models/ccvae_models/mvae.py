r"""MVAE: a product of experts over the image and its labels (Wu and Goodman, NeurIPS 2018).

Generative model: p(z) p(x|z) prod_i p(y^i|z), p(z) = N(0, I). Inference, for whatever set of them is seen:

.. math:: q(z|x,y) \propto N(0, I) \, q(z|x) \prod_i q(z|y^i) \quad\text{(Eqs. 3 and 4)}

a Gaussian whose precision is the sum of theirs. Maximised is ELBO(x, y) + ELBO(x) + ELBO(y) (section 2.2), with

.. math:: ELBO(S) = E_{q(z|S)}[\lambda_x \log p(x|z) + \lambda_y \sum_i \log p(y^i|z)] - \beta KL(q(z|S) \| p(z))

over what is in S. All of z is shared: no column belongs to a label. do(y^i = v) replaces that label's expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Points
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.kl_schedule import KLSchedule
from ccvae_models.labels import Classifier, mean_of_rows, of_labels, require_classes, require_least
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import NetworkName, initialise, positive

LEAST_VARIANCE = 1e-8
"""Added to every expert's variance, as in the authors' code."""


@dataclass(frozen=True, slots=True)
class MVAESettings:
    """Settings of MVAE. The authors' for CelebA: latent 100, lambda_image 1, lambda_labels 10, beta raised from 0 to
    1 over the first 20 epochs.

    Args:
        latent: columns of z.
        lambda_image: weight of log p(x|z).
        lambda_labels: weight of log p(y|z).
        beta: weight of the KL.
        warm_up: steps over which the KL's weight rises from 0 to beta. Without it nothing reaches z from the image
            for a long time: on drawn faces its KL stayed at 0 and the labels at chance after 500 steps.
        label_width: units in each of the two layers from z to p(y|z).
        likelihood: p(x|z).
        likelihood_scale: its scale.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    latent: int = 100
    lambda_image: float = 1.0
    lambda_labels: float = 10.0
    beta: float = 1.0
    warm_up: int = 500
    label_width: int = 256
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


class MVAE(Autoencoder[MVAESettings]):
    """Image and labels as modalities of one z. See the module's text for the model."""

    Settings: ClassVar[type[Any]] = MVAESettings

    def __init__(self, settings: MVAESettings, context: ModelContext, generator: Generator) -> None:
        require_classes(context, "mvae")
        least = {"latent": 1, "lambda_image": 0, "lambda_labels": 0, "beta": 0, "warm_up": 0, "label_width": 1}
        require_least(settings, "mvae", least)
        super().__init__(settings, context, LatentLayout(settings.latent))
        self.experts = LabelExperts(context, settings.latent, generator)
        self.classifier = Classifier(settings.latent, context.labels, settings.label_width)
        self.warm_up = KLSchedule(settings.warm_up)
        initialise(self, generator)

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """N(0, I) q(z|x), what is known of z from the image alone (Eq. 3); the labels are not looked at."""
        del labels
        return product([self.encoder(images)])

    def posterior(self, images: Images | Points, labels: Labels) -> Gaussian:
        """N(0, I) q(z|x) prod_i q(z|y^i) over the labels that are known (Eq. 3)."""
        return product([self.encoder(images), self.experts(labels)])

    def predict(self, images: Images | Points, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """log p(y|z) of each label at the given codes, shape (N, K)."""
        del images
        return {**self.classifier.by_name(self.classifier(codes))}

    def intervene(self, images: Images | Points, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes:
        """A point of N(0, I) q(z|x) prod_j q(z|y^j) q(z|y^c = v), ``noise`` deviations from its mean.

        The labels that are not assigned keep the class that the model itself sees at the codes (argmax of p(y|z)).
        """
        labels = self.classifier(codes).argmax(-1).to(codes.dtype)
        for name, value in assignment.items():
            labels[:, self.labels.index(name)] = value
        return self.posterior(images, labels).at(noise)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """-(ELBO(x, y) + ELBO(x) + ELBO(y)), divided by the rows of the batch; without any label: -ELBO(x)."""
        x, y = batch.images, batch.labels
        labelled = ~y.isnan().all(1)
        image, label = self.encoder(x), self.experts(y[labelled])
        seen, beta = image.rows(labelled), self.settings.beta * self.warm_up.next()
        parts = {
            "unsupervised": self._elbo(product([image]), beta, generator, x, None),
            "supervised": self._elbo(product([seen, label]), beta, generator, x[labelled], y[labelled]),
            "labels": self._elbo(product([label]), beta, generator, None, y[labelled]),
        }
        total = sum(part["value"].sum() for part in parts.values())
        terms: dict[str, float] = {}
        for name, part in parts.items():
            terms[f"{name}.rows"] = len(part["value"])
            terms |= {f"{name}.{key}": mean_of_rows(value) for key, value in part.items()}
        assert isinstance(total, Tensor)
        yield Objective("model", -total / len(batch), terms, tuple(self.parameters()))

    def _elbo(
        self, q: Gaussian, beta: float, generator: Generator, x: Images | Points | None, y: Labels | None
    ) -> dict[str, Tensor]:
        """ELBO of what is seen, and its parts, each of shape (N,)."""
        settings = self.settings
        z = q.at(noise_like(q, generator))
        parts = {"kl": kl_standard(q).sum(1)}
        value = -beta * parts["kl"]
        if x is not None:
            parts["reconstruction"] = self.log_likelihood(x, z)
            value = value + settings.lambda_image * parts["reconstruction"]
        if y is not None:
            parts["log_p_y_z"] = of_labels(self.classifier(z), y).sum(1)
            value = value + settings.lambda_labels * parts["log_p_y_z"]
        return {"value": value, **parts}


class LabelExperts(nn.Module):
    """q(z|y^i): one diagonal Gaussian over all of z for each class of each label.

    Args:
        context: the labels.
        latent: columns of z.
        generator: draws the means at the start.
    """

    def __init__(self, context: ModelContext, latent: int, generator: Generator) -> None:
        super().__init__()
        shape = (len(context.labels), max(label.cardinality for label in context.labels), latent)
        start = torch.randn(shape, generator=generator, device="cpu").to(torch.get_default_device())
        self.loc = nn.Parameter(0.1 * start)
        self.raw_scale = nn.Parameter(torch.ones(shape))

    def forward(self, labels: Labels) -> Gaussian:
        """The experts of the labels, shape (N, L, D); one of a missing label has an infinite scale."""
        value, label = labels.nan_to_num(0).long(), torch.arange(labels.shape[1], device=labels.device)
        scale = positive(self.raw_scale[label, value])
        return Gaussian(self.loc[label, value], scale.masked_fill(labels.isnan().unsqueeze(-1), torch.inf))


def product(experts: list[Gaussian]) -> Gaussian:
    r"""The product of N(0, I) and some Gaussians over z, itself one.

    .. math:: \tau = 1 + \sum_e 1 / (\sigma_e^2 + 10^{-8}), \quad \mu = \sum_e \mu_e / (\sigma_e^2 + 10^{-8}) / \tau

    Args:
        experts: each of shape (N, D), or (N, L, D) for L of them side by side. An infinite scale says nothing.

    >>> product([Gaussian(torch.ones(1, 1), torch.ones(1, 1))]).loc
    tensor([[0.5000]])
    """
    first = experts[0]
    precision = torch.ones(first.loc.shape[0], first.loc.shape[-1], dtype=first.loc.dtype, device=first.loc.device)
    weighted = torch.zeros_like(precision)
    for expert in experts:
        own = 1 / (expert.scale.square() + LEAST_VARIANCE)
        mean = own * expert.loc
        precision = precision + (own.sum(1) if own.ndim == 3 else own)
        weighted = weighted + (mean.sum(1) if mean.ndim == 3 else mean)
    return Gaussian(weighted / precision, precision.rsqrt())
