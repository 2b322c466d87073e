"""Checkpoints of disentangling-vae (github.com/YannDubs/disentangling-vae): a state_dict with specs.json beside it.

All its published models (VAE, betaH, betaB, factor, btcvae) have the networks of Burgess et al. (2018, appendix of
arXiv:1804.03599) and differ only in the loss. Sizes are read from the tensors, so specs.json is not needed. The models
have no labels; latent dimensions are assigned to labels on held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ccvae_eval.checkpoint import Bundle, network_tensors
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain
from ccvae_eval.model.interface import LabelSchema, LatentLayout

ANCHOR = "encoder.mu_logvar_gen.weight"
CHANNELS, KERNEL, HIDDEN = 32, 4, 256
SIZES = (32, 64)
TENSOR_DIMS = {
    "encoder.conv1.weight": 4,
    "encoder.lin2.weight": 2,
    "encoder.mu_logvar_gen.weight": 2,
    "decoder.lin1.weight": 2,
    "decoder.convT3.weight": 4,
}
"""Tensors that identify these networks, with their number of dimensions."""


@dataclass(frozen=True, slots=True)
class DisvaeSettings:
    """Sizes of the networks.

    Args:
        latent: number of latent dimensions.
        channels: channels of the images.
        size: image size in pixels, 32 or 64.
    """

    latent: int = 10
    channels: int = 1
    size: int = 32


class Burgess(nn.Module):
    """The networks of Burgess et al. (2018), with the tensor names of disentangling-vae."""

    def __init__(self, settings: DisvaeSettings) -> None:
        super().__init__()
        if settings.size not in SIZES:
            raise UsageError(f"must be 32 or 64, got {settings.size}", where="disvae: size")
        self.layout, self.labels = LatentLayout(settings.latent), LabelSchema(())
        self.input_shape = (settings.channels, settings.size, settings.size)
        self.encoder, self.decoder = DisvaeEncoder(settings), DisvaeDecoder(settings)

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x); the last layer interleaves mean and log variance of each latent dimension."""
        del labels
        parameters = self.encoder(images).reshape(len(images), -1, 2)
        return Gaussian(parameters[..., 0], (parameters[..., 1] / 2).exp())

    def decode(self, codes: Codes) -> Images:
        images: Images = self.decoder(codes)
        return images


class DisvaeEncoder(nn.Module):
    """Convolutions of stride 2 down to 4 x 4, two linear layers, then mean and log variance of each dimension."""

    def __init__(self, settings: DisvaeSettings) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(settings.channels, CHANNELS, KERNEL, 2, 1)
        self.conv2, self.conv3 = (nn.Conv2d(CHANNELS, CHANNELS, KERNEL, 2, 1) for _ in range(2))
        self.conv_64 = nn.Conv2d(CHANNELS, CHANNELS, KERNEL, 2, 1) if settings.size == 64 else None
        self.lin1 = nn.Linear(CHANNELS * KERNEL**2, HIDDEN)
        self.lin2 = nn.Linear(HIDDEN, HIDDEN)
        self.mu_logvar_gen = nn.Linear(HIDDEN, 2 * settings.latent)

    def forward(self, images: Images) -> torch.Tensor:
        x = images
        for layer in (self.conv1, self.conv2, self.conv3, self.conv_64):
            x = x if layer is None else layer(x).relu()
        x = self.lin2(self.lin1(x.flatten(1)).relu()).relu()
        parameters: torch.Tensor = self.mu_logvar_gen(x)
        return parameters


class DisvaeDecoder(nn.Module):
    """Mirror of the encoder, with one more linear layer."""

    def __init__(self, settings: DisvaeSettings) -> None:
        super().__init__()
        self.lin1 = nn.Linear(settings.latent, HIDDEN)
        self.lin2 = nn.Linear(HIDDEN, HIDDEN)
        self.lin3 = nn.Linear(HIDDEN, CHANNELS * KERNEL**2)
        self.convT_64 = nn.ConvTranspose2d(CHANNELS, CHANNELS, KERNEL, 2, 1) if settings.size == 64 else None
        self.convT1 = nn.ConvTranspose2d(CHANNELS, CHANNELS, KERNEL, 2, 1)
        self.convT2 = nn.ConvTranspose2d(CHANNELS, CHANNELS, KERNEL, 2, 1)
        self.convT3 = nn.ConvTranspose2d(CHANNELS, settings.channels, KERNEL, 2, 1)

    def forward(self, codes: Codes) -> Images:
        x = self.lin3(self.lin2(self.lin1(codes).relu()).relu()).relu()
        x = x.reshape(-1, CHANNELS, KERNEL, KERNEL)
        for layer in (self.convT_64, self.convT1, self.convT2):
            x = x if layer is None else layer(x).relu()
        images: Images = self.convT3(x).sigmoid()
        return images


class Disvae:
    """Adapter for checkpoints of disentangling-vae."""

    def matches(self, bundle: Bundle) -> float:
        """Share of the identifying tensors present with the right number of dimensions; 0 up to one half."""
        tensors = network_tensors(bundle.tensors, ANCHOR)
        fits = [name in tensors and tensors[name].ndim == ndim for name, ndim in TENSOR_DIMS.items()]
        share = sum(fits) / len(fits)
        return share if share > 0.5 else 0.0

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = network_tensors(bundle.tensors, ANCHOR)
        return {
            "latent": tensors[ANCHOR].shape[0] // 2,
            "channels": tensors["encoder.conv1.weight"].shape[1],
            "size": 64 if "encoder.conv_64.weight" in tensors else 32,
        }

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        return Burgess(DisvaeSettings(**settings))
