"""Models with decoders of many operations, for tests of the live page."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout

LATENT = 6


class Decoded(nn.Module):
    """A model whose decoder is given: two labels with one latent dimension each, and style.

    Args:
        decoder: the decoder; its parameters and running statistics are redrawn.
        latent: number of latent dimensions.
        size: image size in pixels.
        names: names of the labels.
    """

    def __init__(
        self,
        decoder: nn.Module | Callable[[Tensor], Tensor],
        latent: int = LATENT,
        size: int = 16,
        names: tuple[str, ...] = ("Glasses", "Smile"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.decoder, self.size = decoder, size
        self.layout = LatentLayout(latent, {name: (i,) for i, name in enumerate(names)})
        self.labels = LabelSchema(tuple(Label(name) for name in names))
        if isinstance(decoder, nn.Module):
            redraw(decoder, seed)
        self.eval()

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        loc = 4 * images.flatten(1)[:, :: self.size // 2][:, : self.layout.dim] - 2
        return Gaussian(loc, torch.full_like(loc, 0.1))

    def decode(self, codes: Codes) -> Images:
        images: Images = self.decoder(codes)
        return images


def redraw(module: nn.Module, seed: int) -> None:
    """Draws parameters that let a code change its picture clearly, and running statistics of batch normalization."""
    generator = torch_stream(seed, "decoder")
    with torch.no_grad():
        for parameter in module.parameters():
            bound = 3 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def upsampling_decoder() -> nn.Module:
    """Batch normalization, bilinear and nearest upsampling, LeakyReLU, SiLU and Tanh; images of 3 x 16 x 16."""
    return nn.Sequential(
        nn.Linear(LATENT, 128), nn.BatchNorm1d(128), nn.ReLU(inplace=True), nn.Unflatten(1, (8, 4, 4)),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12),
        nn.LeakyReLU(0.1, inplace=True), nn.Dropout(), nn.Upsample(scale_factor=2), nn.Conv2d(12, 8, 3, padding=1),
        nn.SiLU(), nn.Conv2d(8, 3, 1), nn.Tanh(), nn.Conv2d(3, 3, 1), nn.Sigmoid(),
    )  # fmt: skip
