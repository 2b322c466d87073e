r"""beta-CCVAE: CCVAE with a simplified, beta-weighted objective (Benyahia, Martinez and Levechin, report, 2024).

It minimises S over labelled and U over unlabelled images, where p(z) = p(z_s) prod_i sum_y p(z_c^i|y) / K_i:

.. math::
    S(x,y) &= E[-\log p(x|z)] + \beta KL(q(z_s|x) \| p(z_s)) + \beta KL(q(z_c|x) \| p(z_c|y)) - E[\log q(y|z_c)] \\
    U(x)   &= E[-\log p(x|z)] + \beta KL(q(z|x) \| p(z)) + E[H(q(y|z_c))]

All expectations are over q(z|x). The objective does not bound log p(x): on unlabelled images nothing ties the
classifier to the prior. The report states its first supervised KL once over z_s and once over z_c; this is the former,
so that the two KLs cover all of z. (It prints the reconstruction as an expectation over p(z), presumably a slip.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Generator, Tensor

from ccvae_eval.core.typed import Range
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import Batch, ModelContext, Objective
from ccvae_models.autoencoder import NetworkSettings, Weight, Width, kl_diagonal, kl_standard, noise_like
from ccvae_models.ccvae import CCVAE
from ccvae_models.characteristics import Characteristics
from ccvae_models.labels import entropy, means_by_supervision, pick


@dataclass(frozen=True, slots=True)
class BetaCCVAESettings(NetworkSettings):
    """Settings of beta-CCVAE.

    Args:
        style: latent dimensions that belong to no label (z_s).
        block: latent dimensions per binary label.
        class_block: latent dimensions per label with K > 2 classes, at most K - 1.
        beta: weight of every KL; the report uses 0.001, 0.05, 0.2 and 0.4.
        prior_mean: initial distance of the means of p(z_c|y) from 0.
        blank: start q(z_c|x) the same for every image.
    """

    style: Annotated[int, Range(least=0)] = 27
    block: Width = 1
    class_block: Width = 2
    beta: Weight = 0.05
    prior_mean: float = 2.0
    blank: bool = False

    estimator: ClassVar[str] = "simplified"
    alpha: ClassVar[float] = 0.0
    points: ClassVar[int] = 129
    draws: ClassVar[int] = 256
    posterior_samples: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class BetaCCVAETerms:
    """Terms of the objective, each of shape (N,).

    Args:
        reconstruction: log p(x|z).
        kl_style: KL(q(z_s|x) || N(0, I)).
        kl_labelled: KL(q(z^i|x) || p(z^i|y^i)), summed over the observed labels.
        kl_mixture: log q(z^i|x) - log sum_y p(z^i|y) / K_i at one sample, summed over the missing labels.
        log_q_y_z: log q(y|z), summed over the observed labels.
        entropy: entropy of q(y|z), summed over the missing labels.
        beta: weight of every KL.
    """

    reconstruction: Tensor
    kl_style: Tensor
    kl_labelled: Tensor
    kl_mixture: Tensor
    log_q_y_z: Tensor
    entropy: Tensor
    beta: float

    @property
    def value(self) -> Tensor:
        """-S if all labels are observed, -U if all are missing."""
        kl = self.kl_style + self.kl_labelled + self.kl_mixture
        return self.reconstruction - self.beta * kl + self.log_q_y_z - self.entropy


class BetaCCVAE(CCVAE):
    """CCVAE with a simplified objective: reconstruction, beta-weighted KLs, and the cross-entropy of q(y|z_c)."""

    Settings: ClassVar[type[Any]] = BetaCCVAESettings

    def __init__(self, settings: BetaCCVAESettings, context: ModelContext, generator: Generator) -> None:
        ccvae: Any = settings
        super().__init__(ccvae, context, generator)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """(sum of S over labelled images + sum of U over unlabelled ones), divided by all images."""
        terms = self.loss_terms(batch, generator)
        common = ("value", "reconstruction", "kl_style")
        means = means_by_supervision(
            batch.labels, terms, common, ("kl_labelled", "log_q_y_z"), ("kl_mixture", "entropy")
        )
        yield Objective("model", -terms.value.mean(), means, tuple(self.parameters()))

    def loss_terms(self, batch: Batch, generator: Generator) -> BetaCCVAETerms:
        """Terms with one sample of z; KLs between Gaussians in closed form.

        An image with some labels missing gets the terms of S for the observed and those of U for the missing ones.
        """
        x, y = batch.images, batch.labels
        q = self.encode(x)
        z = q.at(noise_like(q, generator))
        found = [self._group_terms(group, q, z, y) for group in self.groups]
        kl_labelled, kl_mixture, log_q, entropies = (torch.stack(terms).sum(0) for terms in zip(*found, strict=True))
        kl_style = kl_standard(q.columns(self.layout.style)).sum(1)
        beta: float = self.settings.beta  # type: ignore[attr-defined]
        return BetaCCVAETerms(self.log_likelihood(x, z), kl_style, kl_labelled, kl_mixture, log_q, entropies, beta)

    def _group_terms(self, group: Characteristics, q: Gaussian, z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        value, observed = group.observe(y)
        z_c, posterior, log_q = group.select(z), group.posterior(q), group.log_q_y_z(z)  # (N, G, d), (N, G, K)
        kl = kl_diagonal(posterior, group.of_class(value)).sum(-1)
        log_p_z = group.all_classes.log_prob(z_c.unsqueeze(2)).sum(-1).logsumexp(-1) - math.log(group.classes)
        kl_mixture = posterior.log_prob(z_c).sum(-1) - log_p_z
        return (
            (observed * kl).sum(1),
            (~observed * kl_mixture).sum(1),
            (observed * pick(log_q, value)).sum(1),
            (~observed * entropy(log_q)).sum(1),
        )
