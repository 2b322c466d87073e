"""The autoencoder of latent diffusion (Rombach et al., CVPR 2022), with the tensor names of diffusers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels
from ccvae_eval.model.interface import LabelSchema, LatentLayout

if TYPE_CHECKING:
    from ccvae_plugins.diffusers import AutoencoderKLSettings

EPSILON = 1e-6
LOG_VARIANCE = (-30.0, 20.0)
"""Range to which the encoder's log variance is clamped."""
NAMES = ("to_q", "to_k", "to_v")
OLD_NAMES = ("query", "key", "value")


class Autoencoder(nn.Module):
    """A convolutional VAE whose latent dimensions are the values of a feature map.

    The networks work on images in [-1, 1]. ``encode`` and ``decode`` convert from and to [0, 1], and clamp what the
    decoder returns to this range, as programs that show the images do.
    """

    def __init__(self, settings: AutoencoderKLSettings) -> None:
        super().__init__()
        s = settings
        if not s.widths or s.layers < 1:
            what = f"needs a block and a layer in it, got {len(s.widths)} widths and layers={s.layers}"
            raise UsageError(what, where="autoencoder-kl")
        factor = 2 ** (len(s.widths) - 1)
        if s.size < 1 or s.size % factor:
            raise UsageError(f"size must be a positive multiple of {factor}, got {s.size}", where="autoencoder-kl")
        if s.groups < 1 or any(width % s.groups for width in s.widths):
            raise UsageError(
                f"groups must divide {', '.join(map(str, s.widths))}, got {s.groups}", where="autoencoder-kl"
            )
        side = s.size // factor
        self.map_shape = (s.latent, side, side)
        self.layout, self.labels = LatentLayout(s.latent * side * side), LabelSchema(())
        self.input_shape = (s.channels, s.size, s.size)
        self.encoder, self.decoder = _Encoder(s), _Decoder(s)
        self.quant_conv = nn.Conv2d(2 * s.latent, 2 * s.latent, 1) if s.quantiser else None
        self.post_quant_conv = nn.Conv2d(s.latent, s.latent, 1) if s.post_quantiser else None

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x) of images (N, C, H, W) in [0, 1]; mean and standard deviation (N, D)."""
        del labels
        moments = self.encoder(2 * images - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)
        return Gaussian(mean.flatten(1), (log_variance.flatten(1).clamp(*LOG_VARIANCE) / 2).exp())

    def decode(self, codes: Codes) -> Images:
        """Images (N, C, H, W) in [0, 1] of codes (N, D)."""
        features = codes.reshape(len(codes), *self.map_shape)
        if self.post_quant_conv is not None:
            features = self.post_quant_conv(features)
        images: Images = ((self.decoder(features) + 1) / 2).clamp(0, 1)
        return images


class _Residual(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inside, EPSILON), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outside, EPSILON), nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv1(functional.silu(self.norm1(x)))
        change = self.conv2(functional.silu(self.norm2(change)))
        found: Tensor = change + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return found


class _Attention(nn.Module):
    """Self-attention with one head over the positions of a feature map."""

    def __init__(self, width: int, groups: int, old_names: bool) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, EPSILON)
        self.names = OLD_NAMES if old_names else NAMES
        for name in self.names:
            self.add_module(name, nn.Linear(width, width))
        if old_names:
            self.proj_attn = nn.Linear(width, width)
        else:
            self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.output = "proj_attn" if old_names else "to_out.0"

    def forward(self, x: Tensor) -> Tensor:
        flat = self.group_norm(x).flatten(2).transpose(1, 2)
        query, key, value = (self.get_submodule(name)(flat) for name in self.names)
        found = functional.scaled_dot_product_attention(query, key, value)
        change: Tensor = self.get_submodule(self.output)(found).transpose(1, 2).reshape(x.shape)
        return x + change


class _Sampler(nn.Module):
    """A convolution that halves the sides, or follows a doubling of them."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, padding=1) if up else nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0) if self.up else functional.pad(x, (0, 1, 0, 1))
        found: Tensor = self.conv(x)
        return found


class _Block(nn.Module):
    """Residual blocks; then, except in the last block, the sides are halved or doubled."""

    def __init__(self, inside: int, outside: int, layers: int, groups: int, *, up: bool, last: bool) -> None:
        super().__init__()
        widths = [inside, *[outside] * layers]
        self.resnets = nn.ModuleList(_Residual(a, b, groups) for a, b in pairwise(widths))
        name = "upsamplers" if up else "downsamplers"
        self.sampler = "" if last else f"{name}.0"
        if not last:
            self.add_module(name, nn.ModuleList([_Sampler(outside, up=up)]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return self.get_submodule(self.sampler)(x) if self.sampler else x


class _Middle(nn.Module):
    """A residual block, attention, and another residual block."""

    def __init__(self, width: int, settings: AutoencoderKLSettings) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(width, width, settings.groups) for _ in range(2))
        attention = [_Attention(width, settings.groups, settings.old_names)] if settings.attention else []
        self.attentions = nn.ModuleList(attention)

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.resnets
        x = first(x)
        for attention in self.attentions:
            x = attention(x)
        found: Tensor = last(x)
        return found


class _Encoder(nn.Module):
    """From images to mean and log variance of the feature map."""

    def __init__(self, s: AutoencoderKLSettings) -> None:
        super().__init__()
        widths = [s.widths[0], *s.widths]
        self.conv_in = nn.Conv2d(s.channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _Block(a, b, s.layers, s.groups, up=False, last=number == len(s.widths) - 1)
            for number, (a, b) in enumerate(pairwise(widths))
        )
        self.mid_block = _Middle(widths[-1], s)
        self.conv_norm_out = nn.GroupNorm(s.groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 2 * s.latent, 3, padding=1)

    def forward(self, images: Images) -> Tensor:
        x = self.conv_in(images)
        for block in self.down_blocks:
            x = block(x)
        moments: Tensor = self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(x))))
        return moments


class _Decoder(nn.Module):
    """From a feature map to images."""

    def __init__(self, s: AutoencoderKLSettings) -> None:
        super().__init__()
        widths = [s.widths[-1], *reversed(s.widths)]
        self.conv_in = nn.Conv2d(s.latent, widths[0], 3, padding=1)
        self.mid_block = _Middle(widths[0], s)
        self.up_blocks = nn.ModuleList(
            _Block(a, b, s.layers + 1, s.groups, up=True, last=number == len(s.widths) - 1)
            for number, (a, b) in enumerate(pairwise(widths))
        )
        self.conv_norm_out = nn.GroupNorm(s.groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], s.channels, 3, padding=1)

    def forward(self, features: Tensor) -> Images:
        x = self.mid_block(self.conv_in(features))
        for block in self.up_blocks:
            x = block(x)
        images: Images = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return images
