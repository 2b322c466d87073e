"""Encoders and decoders: convolutions for images, a perceptron for points, or as a setting says.

At 64 pixels these are the networks of Joy et al. (ICLR 2021) for CelebA. Weights start as torch's own layers do
(uniform in +-1/sqrt(fan in)), but from a generator that is given: no global random state is read or changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Points

SMALLEST_SCALE = 1e-3
"""Standard deviations are ``clamp(softplus(.), 1e-3)``, as in the paper's code."""

FEATURES = 256
"""Width between the convolutions and the heads."""

STAGES: Mapping[int, tuple[tuple[int, int], ...]] = {
    28: ((32, 2), (64, 2), (128, 1)),
    32: ((32, 2), (64, 2), (128, 2)),
    64: ((32, 2), (32, 2), (64, 2), (128, 2)),
    128: ((32, 2), (32, 2), (32, 2), (64, 2), (128, 2)),
}
"""For each image size the (channels, stride) of the encoder's layers down to 4 x 4; the decoder is its mirror."""


NetworkName = Literal["auto", "convolutions", "perceptron"]


@dataclass(frozen=True, slots=True)
class Network:
    """Which networks a model has.

    Args:
        name: convolutions (square images of the sizes in :data:`STAGES`) or perceptron (points, and images of any size
            as the list of their values); auto goes by the shape of the input.
        hidden: width of the perceptron's two layers.
    """

    name: NetworkName = "auto"
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise UsageError(f"a network of {self.hidden} hidden units is none")

    def convolves(self, input_shape: tuple[int, ...]) -> bool:
        """Whether an input of this shape is convolved.

        Raises:
            UsageError: there is nothing to convolve.
        """
        if self.name == "convolutions" and len(input_shape) != 3:
            raise UsageError("network=convolutions needs images", hint="Points have network=perceptron.")
        return len(input_shape) == 3 and self.name != "perceptron"


def positive(raw: Tensor) -> Tensor:
    """The map from a free parameter to a standard deviation."""
    return functional.softplus(raw).clamp_min(SMALLEST_SCALE)


def uninitialised(kind: type[nn.Module], *shape: int, **options: Any) -> nn.Module:
    """A layer whose weights are not yet drawn (:func:`initialise` does), on the current default device."""
    layer = kind(*shape, **options, device="meta")
    return layer.to_empty(device=torch.get_default_device())


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Draws the weights of every linear and convolutional layer, in the order of ``module.modules()``."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not layer.weight.is_meta:
            reach = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                draw = torch.empty(parameter.shape, device="cpu").uniform_(-reach, reach, generator=generator)
                parameter.copy_(draw)


def _stages(input_shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    channels, height, width = input_shape
    if height != width or height not in STAGES or channels < 1:
        sizes = ", ".join(str(size) for size in STAGES)
        raise UsageError(
            f"no network for images of {channels} x {height} x {width}",
            hint=f"Square ones of {sizes} pixels: resize the data (size=64 in its spec), or --set network=perceptron.",
        )
    return STAGES[height]


def _kernel(stride: int) -> dict[str, int]:
    return {"kernel_size": 4, "stride": stride, "padding": stride - 1}


class Encoder(nn.Module):
    """q(z|x): a trunk and two heads.

    Args:
        input_shape: (C, H, W) or (D,).
        latent: columns of z.
        network: what kind.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, network: Network) -> None:
        super().__init__()
        self.trunk, features = encoder_trunk(input_shape, network)
        self.loc = uninitialised(nn.Linear, features, latent)
        self.scale = uninitialised(nn.Linear, features, latent)

    @torch.no_grad()
    def start_blank(self, columns: Sequence[int], scale: float) -> None:
        """Makes the marginal of some columns N(0, scale^2) for every image, until training moves it."""
        rows = list(columns)
        heads: tuple[tuple[Any, float], ...] = ((self.loc, 0.0), (self.scale, math.log(math.expm1(scale))))
        for head, bias in heads:
            head.weight[rows], head.bias[rows] = 0.0, bias

    def forward(self, images: Images | Points) -> Gaussian:
        features = self.trunk(images)
        return Gaussian(self.loc(features), positive(self.scale(features)))


class JoinedHeads(nn.Module):
    """A Gaussian given features and y: one layer joins them before the two heads.

    Args:
        features: columns of the features.
        given: columns of y.
        latent: columns of the Gaussian.
    """

    def __init__(self, features: int, given: int, latent: int) -> None:
        super().__init__()
        self.join = uninitialised(nn.Linear, features + given, features)
        self.loc = uninitialised(nn.Linear, features, latent)
        self.scale = uninitialised(nn.Linear, features, latent)

    def forward(self, features: Tensor, given: Tensor) -> Gaussian:
        joined = functional.relu(self.join(torch.cat([features, given], 1)))
        return Gaussian(self.loc(joined), positive(self.scale(joined)))


class ConditionalEncoder(JoinedHeads):
    """q(z|x,y) of ``trunk(x)`` and y.

    The trunk sees x alone, so that one pass of it serves every y and whatever else is told from the features.

    Args:
        input_shape: as for :class:`Encoder`.
        given: columns of y.
        latent: columns of the Gaussian.
        network: as for :class:`Encoder`.
    """

    def __init__(self, input_shape: tuple[int, ...], given: int, latent: int, network: Network) -> None:
        trunk, self.features = encoder_trunk(input_shape, network)
        super().__init__(self.features, given, latent)
        self.trunk = trunk


class Decoder(nn.Module):
    """The parameter of p(x|z) before its last map (sigmoid for images, none for points).

    Args:
        input_shape: as for :class:`Encoder`.
        latent: columns of z.
        network: as for :class:`Encoder`.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, network: Network) -> None:
        super().__init__()
        if network.convolves(input_shape):
            self.trunk = _transposed_convolutions(input_shape, latent)
        else:
            out = uninitialised(nn.Linear, network.hidden, math.prod(input_shape))
            shaped = [nn.Unflatten(1, input_shape)] if len(input_shape) > 1 else []
            self.trunk = nn.Sequential(perceptron(latent, network.hidden), out, *shaped)

    def forward(self, codes: Codes) -> Tensor:
        out: Tensor = self.trunk(codes)
        return out


def encoder_trunk(input_shape: tuple[int, ...], network: Network) -> tuple[nn.Sequential, int]:
    """The layers from x to its features, and how many features there are."""
    if network.convolves(input_shape):
        return _convolutions(input_shape), FEATURES
    layers = perceptron(math.prod(input_shape), network.hidden)
    return (nn.Sequential(nn.Flatten(), *layers) if len(input_shape) > 1 else layers), network.hidden


def _convolutions(input_shape: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for width, stride in _stages(input_shape):
        kernel = _kernel(stride)
        layers += [uninitialised(nn.Conv2d, channels, width, **kernel), nn.ReLU()]
        channels = width
    layers += [uninitialised(nn.Conv2d, channels, FEATURES, **_kernel(1)), nn.ReLU(), nn.Flatten()]
    return _channels_last(layers)


def _transposed_convolutions(input_shape: tuple[int, ...], latent: int) -> nn.Sequential:
    stages = _stages(input_shape)
    widths = [input_shape[0], *(width for width, _ in stages)]
    layers: list[nn.Module] = [uninitialised(nn.Linear, latent, FEATURES), nn.ReLU(), nn.Unflatten(1, (FEATURES, 1, 1))]
    layers += [uninitialised(nn.ConvTranspose2d, FEATURES, widths[-1], **_kernel(1)), nn.ReLU()]
    for depth in reversed(range(len(stages))):
        kernel = _kernel(stages[depth][1])
        layers += [uninitialised(nn.ConvTranspose2d, widths[depth + 1], widths[depth], **kernel), nn.ReLU()]
    return _channels_last(layers[:-1])


def _channels_last(layers: list[nn.Module]) -> nn.Sequential:
    """Layers whose weights lie channel by channel: the memory order in which convolutions run fastest here."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return nn.Sequential(*layers)


def perceptron(inputs: int, hidden: int) -> nn.Sequential:
    """Two layers of ``hidden`` units."""
    return nn.Sequential(
        uninitialised(nn.Linear, inputs, hidden), nn.ReLU(), uninitialised(nn.Linear, hidden, hidden), nn.ReLU()
    )
