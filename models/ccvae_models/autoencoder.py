"""What every model here shares: an encoder, a decoder, a likelihood, settings, and the context it was built for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Generator, Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain, Points
from ccvae_eval.model.interface import LabelSchema, LatentLayout, ModelContext
from ccvae_models.likelihood import Likelihood, LikelihoodName
from ccvae_models.networks import Decoder, Encoder, Network, NetworkName
from ccvae_models.settings import read_settings


class NetworkSettings(Protocol):
    """The fields that every model's settings have."""

    @property
    def likelihood(self) -> LikelihoodName: ...

    @property
    def likelihood_scale(self) -> float: ...

    @property
    def network(self) -> NetworkName: ...

    @property
    def hidden(self) -> int: ...


S = TypeVar("S", bound=NetworkSettings)


class Autoencoder(nn.Module, Generic[S]):
    """q(z|x) and p(x|z) with a layout of the latent columns. A base class: a model adds its objective, and other
    networks where it has them (``_encoder``, ``_decoder``).

    Args:
        settings: the model's own frozen dataclass.
        context: labels, shape of the input and p(y).
        layout: which latent columns belong to which label.
    """

    Settings: ClassVar[type[Any]]

    encoder: Any
    decoder: Any

    def __init__(self, settings: S, context: ModelContext, layout: LatentLayout) -> None:
        super().__init__()
        if len(context.input_shape) not in (1, 3) or min(context.input_shape) < 1:
            raise UsageError(f"input shape {context.input_shape} is neither (C, H, W) nor (D,)")
        self._settings, self._context, self._layout = settings, context, layout
        self.network = Network(settings.network, settings.hidden)
        self.likelihood = Likelihood(settings.likelihood, settings.likelihood_scale, context.input_shape)
        self.encoder, self.decoder = self._encoder(), self._decoder()

    def _encoder(self) -> nn.Module:
        return Encoder(self.context.input_shape, self.layout.dim, self.network)

    def _decoder(self) -> nn.Module:
        return Decoder(self.context.input_shape, self.layout.dim, self.network)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Plain], context: ModelContext, seed: int = 0) -> Self:
        """An untrained model; see ``ccvae_eval.model.interface.Rebuildable``."""
        name = cls.__name__.lower()
        build: Any = cls
        model: Self = build(read_settings(cls.Settings, settings, name), context, torch_stream(seed, "weights", name))
        return model

    @property
    def settings(self) -> S:
        return self._settings

    @property
    def context(self) -> ModelContext:
        return self._context

    @property
    def layout(self) -> LatentLayout:
        return self._layout

    @property
    def labels(self) -> LabelSchema:
        return self._context.labels

    def encode(self, images: Images | Points, labels: Labels | None = None) -> Gaussian:
        """q(z|x), a diagonal Gaussian over all columns; the labels are not looked at."""
        del labels
        posterior: Gaussian = self.encoder(images)
        return posterior

    def decode(self, codes: Codes) -> Images | Points:
        """The mean of p(x|z)."""
        return self.likelihood.mean(self.decoder(codes))

    @property
    def likelihood_name(self) -> str:
        """p(x|z) in words, for reports."""
        scale = "" if self.likelihood.name == "bernoulli" else f", scale {self.likelihood.scale:g}"
        return self.likelihood.name + scale

    def log_likelihood(self, x: Images | Points, codes: Codes) -> Tensor:
        """log p(x|z) of each row, shape (N,)."""
        return self.likelihood.log_prob(x, self.decoder(codes))


def noise_like(posterior: Gaussian, generator: Generator) -> Tensor:
    """Standard normal draws in the shape of a posterior, from the generator's own device."""
    loc = posterior.loc
    return torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=generator.device).to(loc.device)


def kl_standard(posterior: Gaussian) -> Tensor:
    r"""KL(q(z|x) || N(0, I)) of each column in nats, shape :math:`(N, D)`.

    >>> kl_standard(Gaussian(torch.zeros(1, 2), torch.ones(1, 2)))
    tensor([[0., 0.]])
    """
    return 0.5 * (posterior.loc.square() + posterior.scale.square() - 1) - posterior.scale.log()
