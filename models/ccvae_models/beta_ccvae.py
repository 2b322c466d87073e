r"""beta-CCVAE: the students' simplified objective, a sum of plain terms with one weight.

CCVAE's networks and densities; minimised is, with p(z) = p(z_s) prod_i sum_y p(z_c^i|y) / K_i:

.. math::
    S(x,y) &= E[-\log p(x|z)] + \beta KL(q(z_s|x) \| p(z_s)) + \beta KL(q(z_c|x) \| p(z_c|y)) - E[\log q(y|z_c)] \\
    U(x)   &= E[-\log p(x|z)] + \beta KL(q(z|x) \| p(z)) + E[H(q(y|z_c))]

all expectations over q(z|x). It is no bound on log p(x): on unlabelled images nothing ties the classifier to the
prior. The report writes its first supervised KL once over the style and once over z_c; this is the first, whose parts
are the whole of z. (Its reconstruction is printed as an expectation over p(z): a slip.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import Batch, ModelContext, Objective
from ccvae_models.autoencoder import kl_standard, noise_like
from ccvae_models.ccvae import CCVAE
from ccvae_models.characteristics import Characteristics, pick
from ccvae_models.labels import mean_of_rows, require_least
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import NetworkName


@dataclass(frozen=True, slots=True)
class BetaCCVAESettings:
    """Settings of beta-CCVAE. Those that are not its own mean what they mean in ``CCVAESettings``.

    Args:
        style: columns of z that belong to no label.
        block: columns of each label with two classes.
        class_block: columns of each label with K > 2 classes, at most K - 1.
        beta: weight of every KL; the report tries .001, .05, .2 and .4.
        likelihood: p(x|z).
        likelihood_scale: its scale.
        prior_mean: how far from 0 the means of p(z_c|y) start.
        blank: whether q(z_c|x) starts the same for every image.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    style: int = 27
    block: int = 1
    class_block: int = 2
    beta: float = 0.05
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    prior_mean: float = 2.0
    blank: bool = False
    network: NetworkName = "auto"
    hidden: int = 64

    estimator: ClassVar[str] = "simplified"
    alpha: ClassVar[float] = 0.0
    points: ClassVar[int] = 129
    draws: ClassVar[int] = 256
    posterior_samples: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class BetaCCVAEBound:
    """The terms of each row, each of shape (N,).

    Args:
        reconstruction: log p(x|z).
        kl_style: KL(q(z_s|x) || N(0, I)).
        kl_labelled: KL(q(z^i|x) || p(z^i|y^i)) over the observed labels.
        kl_mixture: log q(z^i|x) - log sum_y p(z^i|y) / K_i at one sample, over the missing labels.
        log_q_y_z: of the observed labels.
        entropy: of q(y|z) over the missing labels.
    """

    reconstruction: Tensor
    kl_style: Tensor
    kl_labelled: Tensor
    kl_mixture: Tensor
    log_q_y_z: Tensor
    entropy: Tensor

    def loss(self, beta: float) -> Tensor:
        kl = self.kl_style + self.kl_labelled + self.kl_mixture
        return -self.reconstruction + beta * kl - self.log_q_y_z + self.entropy


class BetaCCVAE(CCVAE):
    """CCVAE's model trained by a simpler objective. See the module's text."""

    Settings: ClassVar[type[Any]] = BetaCCVAESettings

    def __init__(self, settings: BetaCCVAESettings, context: ModelContext, generator: Generator) -> None:
        require_least(settings, "beta-ccvae", {"beta": 0})
        ccvae: Any = settings
        super().__init__(ccvae, context, generator)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """S over the labels seen and U over those missing, divided by the rows of the batch."""
        parts = self.parts(batch, generator)
        beta: float = self.settings.beta  # type: ignore[attr-defined]
        loss = parts.loss(beta)
        yield Objective("model", loss.mean(), _terms(parts, batch, loss), tuple(self.parameters()))

    def parts(self, batch: Batch, generator: Generator) -> BetaCCVAEBound:
        """All terms by one sample of z, but for the KLs between Gaussians. A row with some labels missing has the
        supervised terms of those seen and the unsupervised ones of the others."""
        x, y = batch.images, batch.labels
        q = self.encode(x)
        z = q.at(noise_like(q, generator))
        found = [self._of_group(group, q, z, y) for group in self.groups]
        kl_labelled, kl_mixture, log_q, entropy = (torch.stack(each).sum(0) for each in zip(*found, strict=True))
        kl_style = kl_standard(q.columns(self.layout.style)).sum(1)
        return BetaCCVAEBound(self.log_likelihood(x, z), kl_style, kl_labelled, kl_mixture, log_q, entropy)

    def _of_group(self, group: Characteristics, q: Gaussian, z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        value, seen = group.choice(y)
        own, posterior, told = group.of(z), group.posterior(q), group.log_q_y_z(z)  # (N, G, d), (N, G, K)
        p, prior = group.prior_given(value), group.prior
        ratio = posterior.scale / p.scale
        offset = (posterior.loc - p.loc) / p.scale
        kl = (0.5 * (ratio.square() + offset.square() - 1) - ratio.log()).sum(-1)
        each = Gaussian(prior.loc, prior.scale).log_prob(own.unsqueeze(2)).sum(-1)  # log p(z^i|y), (N, G, K)
        mixture = each.logsumexp(-1) - math.log(group.classes)
        surprise = posterior.log_prob(own).sum(-1) - mixture
        entropy = -(told.exp() * told).sum(-1)
        return (
            (seen * kl).sum(1),
            (~seen * surprise).sum(1),
            (seen * pick(told, value)).sum(1),
            (~seen * entropy).sum(1),
        )


def _terms(parts: BetaCCVAEBound, batch: Batch, loss: Tensor) -> dict[str, float]:
    """The parts as means over the rows with and without labels; NaN where there is no such row."""
    labelled = ~batch.labels.isnan().all(1)
    own = {"supervised": ("kl_labelled", "log_q_y_z"), "unsupervised": ("kl_mixture", "entropy")}
    terms: dict[str, float] = {}
    for kind, rows in (("supervised", labelled), ("unsupervised", ~labelled)):
        terms[f"{kind}.rows"] = int(rows.sum())
        terms[f"{kind}.value"] = mean_of_rows(-loss[rows])
        for part in ("reconstruction", "kl_style", *own[kind]):
            terms[f"{kind}.{part}"] = mean_of_rows(getattr(parts, part)[rows])
    return terms
