r"""The variational autoencoder (Kingma and Welling, ICLR 2014), without labels.

.. math:: \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| N(0, I))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from ccvae_eval.core.errors import UsageError
from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, kl_standard, noise_like
from ccvae_models.likelihood import LikelihoodName
from ccvae_models.networks import NetworkName, initialise


@dataclass(frozen=True, slots=True)
class VAESettings:
    """Settings of the VAE.

    Args:
        latent: number of latent dimensions.
        likelihood: p(x|z): laplace, gaussian or bernoulli; auto = bernoulli for grayscale images, else laplace.
        likelihood_scale: scale of the Laplace, or standard deviation of the Gaussian.
        network: convolutions or perceptron; auto = by the shape of the input.
        hidden: width of the perceptron's two hidden layers.
    """

    latent: int = 45
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


class VAE(Autoencoder[VAESettings]):
    """VAE (Kingma and Welling, 2014) with prior N(0, I). It uses no labels, so no latent dimension belongs to one."""

    Settings: ClassVar[type[Any]] = VAESettings

    def __init__(self, settings: VAESettings, context: ModelContext, generator: Generator) -> None:
        if settings.latent < 1:
            raise UsageError(f"must be at least 1, got {settings.latent}", where="vae: latent")
        super().__init__(settings, context, LatentLayout(settings.latent))
        initialise(self, generator)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """The negative bound, averaged over the batch."""
        q = self.encode(batch.images)
        z = q.at(noise_like(q, generator))
        reconstruction = self.log_likelihood(batch.images, z).mean()
        kl = kl_standard(q).sum(1).mean()
        loss = kl - reconstruction
        terms = {"reconstruction": reconstruction.item(), "kl": kl.item()}
        yield Objective("model", loss, terms, tuple(self.parameters()))
