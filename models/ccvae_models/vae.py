r"""The variational autoencoder (Kingma and Welling, ICLR 2014), without labels.

.. math:: \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| N(0, I))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from ccvae_eval.model.interface import Batch, LatentLayout, ModelContext, Objective
from ccvae_models.autoencoder import Autoencoder, NetworkSettings, Width, kl_standard, noise_like
from ccvae_models.networks import initialise


@dataclass(frozen=True, slots=True)
class VAESettings(NetworkSettings):
    """Settings of the VAE.

    Args:
        latent: number of latent dimensions.
    """

    latent: Width = 45


class VAE(Autoencoder[VAESettings]):
    """VAE (Kingma and Welling, 2014) with prior N(0, I). It uses no labels, so no latent dimension belongs to one."""

    Settings: ClassVar[type[Any]] = VAESettings

    def __init__(self, settings: VAESettings, context: ModelContext, generator: Generator) -> None:
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
