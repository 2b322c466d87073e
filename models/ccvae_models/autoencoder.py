"""Base class of the models: encoder, decoder, likelihood, settings and context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.typed import Range, check, read
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain, Points
from ccvae_eval.model.interface import LatentLayout, ModelContext
from ccvae_models.likelihood import Likelihood, LikelihoodName
from ccvae_models.networks import Decoder, Encoder, NetworkName, NetworkSpec

Width = Annotated[int, Range(least=1)]
Weight = Annotated[float, Range(least=0)]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Likelihood and networks: the settings that all models share.

    Args:
        likelihood: p(x|z): laplace, gaussian or bernoulli; auto = bernoulli for grayscale images, else laplace.
        likelihood_scale: scale of the Laplace, or standard deviation of the Gaussian.
        network: convolutions or perceptron; auto = by the shape of the input.
        hidden: width of the perceptron's two hidden layers.
    """

    likelihood: LikelihoodName = "auto"
    likelihood_scale: float = 1.0
    network: NetworkName = "auto"
    hidden: Width = 64

    def __post_init__(self) -> None:
        check(self, type(self).__name__.removesuffix("Settings").lower())


S = TypeVar("S", bound=NetworkSettings)


class Autoencoder(nn.Module, Generic[S]):
    """Base class: q(z|x), p(x|z) and the layout of the latent dimensions.

    A subclass adds ``objectives`` and overrides ``_encoder`` or ``_decoder`` where its networks differ.

    Args:
        settings: the model's settings, a frozen dataclass.
        context: labels, input shape and p(y).
        layout: the latent dimensions that belong to each label.

    Raises:
        UsageError: an input shape that is neither (C, H, W) nor (D,).
    """

    Settings: ClassVar[type[Any]]

    encoder: Any
    decoder: Any

    def __init__(self, settings: S, context: ModelContext, layout: LatentLayout) -> None:
        super().__init__()
        if len(context.input_shape) not in (1, 3) or min(context.input_shape) < 1:
            raise UsageError(f"the input shape must be (C, H, W) or (D,), got {context.input_shape}")
        self.settings, self.context, self.layout, self.labels = settings, context, layout, context.labels
        self.network = NetworkSpec(settings.network, settings.hidden)
        self.likelihood = Likelihood(settings.likelihood, settings.likelihood_scale, context.input_shape)
        self.encoder, self.decoder = self._encoder(), self._decoder()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images or (D,) of points."""
        return self.context.input_shape

    def _encoder(self) -> nn.Module:
        return Encoder(self.context.input_shape, self.layout.dim, self.network)

    def _decoder(self) -> nn.Module:
        return Decoder(self.context.input_shape, self.layout.dim, self.network)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Plain], context: ModelContext, seed: int = 0) -> Self:
        """Build an untrained model; see ``ccvae_eval.model.interface.Rebuildable``."""
        name = cls.__name__.lower()
        build: Any = cls
        chosen = read(cls.Settings, settings, name, error=UsageError, words=True)
        model: Self = build(chosen, context, torch_stream(seed, "weights", name))
        return model

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """q(z|x), a diagonal Gaussian over all latent dimensions; the labels are not used."""
        del labels
        posterior: Gaussian = self.encoder(images)
        return posterior

    def decode(self, codes: Codes) -> Images | Points:
        """Mean of p(x|z)."""
        return self.likelihood.mean(self.decoder(codes))

    @property
    def likelihood_name(self) -> str:
        """Name and scale of p(x|z), for reports."""
        scale = "" if self.likelihood.name == "bernoulli" else f", scale {self.likelihood.scale:g}"
        return self.likelihood.name + scale

    def log_likelihood(self, x: Images | Points, codes: Codes) -> Tensor:
        """log p(x|z) of each row, shape (N,)."""
        return self.likelihood.log_prob(x, self.decoder(codes))


def noise_like(posterior: Gaussian, generator: Generator) -> Tensor:
    """Standard normal noise of a posterior's shape, drawn on the generator's device."""
    loc = posterior.loc
    return torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=generator.device).to(loc.device)


def kl_standard(posterior: Gaussian) -> Tensor:
    r"""KL(q(z|x) || N(0, I)) per latent dimension in nats, shape :math:`(N, D)`.

    >>> kl_standard(Gaussian(torch.zeros(1, 2), torch.ones(1, 2)))
    tensor([[0., 0.]])
    """
    return 0.5 * (posterior.loc.square() + posterior.scale.square() - 1) - posterior.scale.log()


def kl_diagonal(q: Gaussian, p: Gaussian) -> Tensor:
    r"""KL(q || p) between diagonal Gaussians per dimension in nats.

    .. math:: \log\frac{\sigma_p}{\sigma_q} + \frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{2 \sigma_p^2} - \frac12
    """
    ratio = q.scale / p.scale
    return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1) - ratio.log()
