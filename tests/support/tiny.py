"""A plugin file with two tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.model.interface import ModelContext


@dataclass(frozen=True)
class TinySettings:
    latent: int = 3
    hidden: int = 4
    layers: int = 1
    buffer: int = 1


class Tiny(nn.Module):
    """Maps images to ``latent`` numbers through ``hidden`` units; ``scratch`` is a non-persistent buffer."""

    Settings = TinySettings
    extra_head = False

    def __init__(self, settings: TinySettings, context: ModelContext, seed: int) -> None:
        super().__init__()
        self.settings, self.context = settings, context
        size = int(torch.Size(context.input_shape).numel())
        widths = [size, *[settings.hidden] * settings.layers]
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.latents = nn.Linear(settings.hidden, settings.latent)
        if self.extra_head:
            self.head = nn.Linear(settings.latent, len(context.labels))
        self.register_buffer("scratch", torch.zeros(settings.buffer), persistent=False)
        self.seed = seed

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], context: ModelContext, seed: int = 0) -> Self:
        try:
            return cls(TinySettings(**settings), context, seed)
        except TypeError as error:
            raise UsageError("unknown setting", why=str(error)) from error

    def forward(self, images: Tensor) -> Tensor:
        codes = images.flatten(1)
        for layer in self.body:
            codes = layer(codes).relu()
        latents: Tensor = self.latents(codes)
        return latents


class TinyHead(Tiny):
    """``Tiny`` with a classifier."""

    extra_head = True


CCVAE_EVAL = {"models": {"tiny": Tiny, "tinyhead": TinyHead}}
