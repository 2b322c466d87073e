"""The variational autoencoder (Kingma and Welling, 2014): the same networks as the others, no labels.

.. math:: \\log p(x) \\ge E_{q(z|x)}[\\log p(x|z)] - KL(q(z|x) || N(0, I))
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
        latent: columns of z.
        likelihood: p(x|z).
        likelihood_scale: its scale.
        network: convolutions or perceptron; auto goes by the shape of the input.
        hidden: width of the perceptron.
    """

    latent: int = 45
    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: int = 64


class VAE(Autoencoder[VAESettings]):
    """A VAE with a N(0, I) prior. It looks at no label: no column belongs to one."""

    Settings: ClassVar[type[Any]] = VAESettings

    def __init__(self, settings: VAESettings, context: ModelContext, generator: Generator) -> None:
        if settings.latent < 1:
            raise UsageError(f"a latent space of {settings.latent} columns is none", where="vae: latent")
        super().__init__(settings, context, LatentLayout(settings.latent))
        initialise(self, generator)

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """The negative bound, mean over the rows of the batch."""
        q = self.encode(batch.images)
        z = q.at(noise_like(q, generator))
        reconstruction = self.log_likelihood(batch.images, z).mean()
        kl = kl_standard(q).sum(1).mean()
        loss = kl - reconstruction
        terms = {"reconstruction": reconstruction.item(), "kl": kl.item()}
        yield Objective("model", loss, terms, tuple(self.parameters()))
