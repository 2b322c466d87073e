"""The judge's network: four convolutions and a linear head for each label."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ccvae_eval.types import Images

WIDTHS = (16, 32, 64, 64)
LARGEST = 64
"""Longer edges are halved first: attributes show at this size, and the head stays small."""


def reduced(images: Images) -> Images:
    """The images, averaged down by twos until no edge is longer than 64 pixels (nothing below 128 is touched)."""
    while max(images.shape[-2:]) >= 2 * LARGEST:
        images = functional.avg_pool2d(images, 2)
    return images


def reduced_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that :func:`reduced` makes of an image's."""
    return tuple(reduced(torch.empty(1, *input_shape, device="meta")).shape[1:])


class JudgeNetwork(nn.Module):
    """Logits of all labels, one after the other; 82,600 parameters for 3 x 64 x 64 and nine labels of faces.

    The weights are blank until :func:`initialise` draws them or a state is loaded.

    Args:
        input_shape: (C, H, W).
        cardinalities: the number of classes of each label.
    """

    def __init__(self, input_shape: tuple[int, ...], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = reduced_shape(input_shape)
        layers: list[nn.Module] = []
        for wide in WIDTHS:
            layers += [
                _blank(nn.Conv2d, channels, wide, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
            ]
            channels, height, width = wide, math.ceil(height / 2), math.ceil(width / 2)
        self.trunk = nn.Sequential(*layers)
        self.heads = _blank(nn.Linear, channels * height * width, sum(cardinalities))

    def features(self, images: Images) -> Tensor:
        """The last layer before the heads, averaged over places, shape (N, 64)."""
        return self._last_layer(images).mean((2, 3))

    def _last_layer(self, images: Images) -> Tensor:
        centred = reduced(images).contiguous(memory_format=torch.channels_last) - 0.5
        layer: Tensor = self.trunk(centred)
        return layer

    def forward(self, images: Images) -> Tensor:
        features: Any = self._last_layer(images).flatten(1)
        if self.training:
            logits: Tensor = self.heads(features)
        else:
            # a matrix product's bits depend on the number of threads, these sums' do not
            logits = (features.unsqueeze(1) * self.heads.weight).sum(2) + self.heads.bias
        return logits


def _blank(kind: type[nn.Module], *shape: int, **options: Any) -> nn.Module:
    """A layer whose weights are not drawn, so that no global random state is touched."""
    layer = kind(*shape, **options, device="meta").to_empty(device=torch.get_default_device())
    if isinstance(layer, nn.Conv2d):
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


@torch.no_grad()
def initialise(network: JudgeNetwork, generator: Generator) -> None:
    """Draws the weights (He et al. 2015 for the convolutions, zero for the heads) without a global generator."""
    for layer in network.trunk:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    for parameter in network.heads.parameters():
        nn.init.zeros_(parameter)
