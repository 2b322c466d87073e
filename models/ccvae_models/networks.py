"""Encoders and decoders: convolutional for images, a perceptron for points (or where a setting asks for it).

At 64 pixels these are the CelebA networks of Joy et al. (ICLR 2021). Weights are initialised like torch's own layers
(uniform in +-1/sqrt(fan in)), but from an explicit generator: the global random state is neither read nor changed.
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

MIN_SCALE = 1e-3
"""Standard deviations are ``clamp(softplus(.), 1e-3)``, as in the code of Joy et al."""

FEATURES = 256
"""Number of features between the convolutions and the heads."""

STAGES: Mapping[int, tuple[tuple[int, int], ...]] = {
    28: ((32, 2), (64, 2), (128, 1)),
    32: ((32, 2), (64, 2), (128, 2)),
    64: ((32, 2), (32, 2), (64, 2), (128, 2)),
    128: ((32, 2), (32, 2), (32, 2), (64, 2), (128, 2)),
}
"""(channels, stride) of the encoder's layers down to 4 x 4, by image size; the decoder mirrors them."""

NetworkName = Literal["auto", "convolutions", "perceptron"]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Type and width of a model's networks.

    Args:
        name: "convolutions" (square images of the sizes in :data:`STAGES`), "perceptron" (points, and flattened images
            of any size), or "auto" (by the shape of the input).
        hidden: width of the perceptron's two hidden layers.
    """

    name: NetworkName = "auto"
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise UsageError(f"hidden must be at least 1, got {self.hidden}")

    def convolves(self, input_shape: tuple[int, ...]) -> bool:
        """True if inputs of this shape go through convolutions.

        Raises:
            UsageError: convolutions were asked for, but the inputs are not images.
        """
        if self.name == "convolutions" and len(input_shape) != 3:
            raise UsageError("network=convolutions needs images", hint="For points, use network=perceptron.")
        return len(input_shape) == 3 and self.name != "perceptron"


def positive(raw: Tensor) -> Tensor:
    """Map an unconstrained parameter to a standard deviation."""
    return functional.softplus(raw).clamp_min(MIN_SCALE)


def concatenated(parts: Sequence[Gaussian]) -> Gaussian:
    """Independent Gaussians side by side, as one over all of their dimensions."""
    return Gaussian(torch.cat([part.loc for part in parts], 1), torch.cat([part.scale for part in parts], 1))


def uninitialised(kind: type[nn.Module], *shape: int, **options: Any) -> nn.Module:
    """A layer with unset weights on the default device; :func:`initialise` draws them."""
    layer = kind(*shape, **options, device="meta")
    return layer.to_empty(device=torch.get_default_device())


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Initialise every linear and convolutional layer, in the order of ``module.modules()``."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not layer.weight.is_meta:
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                draw = torch.empty(parameter.shape, device="cpu").uniform_(-bound, bound, generator=generator)
                parameter.copy_(draw)


def _stages(input_shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    channels, height, width = input_shape
    if height != width or height not in STAGES or channels < 1:
        sizes = ", ".join(str(size) for size in STAGES)
        raise UsageError(
            f"the convolutional networks do not support images of {channels} x {height} x {width}",
            hint=f"Supported: square images of {sizes} pixels. Resize the data (size=64 in its spec), "
            "or use --set network=perceptron.",
        )
    return STAGES[height]


def _kernel(stride: int) -> dict[str, int]:
    return {"kernel_size": 4, "stride": stride, "padding": stride - 1}


class Encoder(nn.Module):
    """q(z|x): a trunk with two heads, for the mean and the standard deviation.

    Args:
        input_shape: (C, H, W) or (D,).
        latent: number of latent dimensions.
        network: type and width of the trunk.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, network: NetworkSpec) -> None:
        super().__init__()
        self.trunk, features = encoder_trunk(input_shape, network)
        self.loc = uninitialised(nn.Linear, features, latent)
        self.scale = uninitialised(nn.Linear, features, latent)

    @torch.no_grad()
    def start_uninformative(self, dimensions: Sequence[int], scale: float) -> None:
        """Set the initial posterior of some latent dimensions to N(0, scale^2), the same for every image."""
        chosen = list(dimensions)
        heads: tuple[tuple[Any, float], ...] = ((self.loc, 0.0), (self.scale, math.log(math.expm1(scale))))
        for head, bias in heads:
            head.weight[chosen], head.bias[chosen] = 0.0, bias

    def forward(self, images: Images | Points) -> Gaussian:
        features = self.trunk(images)
        return Gaussian(self.loc(features), positive(self.scale(features)))


class JoinedHeads(nn.Module):
    """A Gaussian conditioned on features and y: one layer joins the two before the heads.

    Args:
        features: number of features.
        given: number of columns of y.
        latent: dimension of the Gaussian.
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
    """q(z|x,y) from ``trunk(x)`` and y.

    The trunk sees x only, so its features are computed once for all y and can be shared with a classifier.

    Args:
        input_shape, latent, network: as for :class:`Encoder`.
        given: number of columns of y.
    """

    def __init__(self, input_shape: tuple[int, ...], given: int, latent: int, network: NetworkSpec) -> None:
        trunk, self.features = encoder_trunk(input_shape, network)
        super().__init__(self.features, given, latent)
        self.trunk = trunk


class Decoder(nn.Module):
    """Mean of p(x|z) before the final activation (a sigmoid for images, none for points).

    Args:
        input_shape, latent, network: as for :class:`Encoder`.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, network: NetworkSpec) -> None:
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


def encoder_trunk(input_shape: tuple[int, ...], network: NetworkSpec) -> tuple[nn.Sequential, int]:
    """Layers from x to its features, and the number of features."""
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
    """Chain of layers with their weights in channels-last order, in which convolutions run fastest on CPUs."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return nn.Sequential(*layers)


def perceptron(inputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers with ReLU."""
    return nn.Sequential(
        uninitialised(nn.Linear, inputs, hidden), nn.ReLU(), uninitialised(nn.Linear, hidden, hidden), nn.ReLU()
    )
