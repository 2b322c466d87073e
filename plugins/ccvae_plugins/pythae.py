"""Folders of pythae: model_config.json, model.pt with a state_dict, and encoder.pkl and decoder.pkl for own networks.

Models of its VAE family with its default networks (one hidden layer of 512) are built here: VAE, BetaVAE,
DisentangledBetaVAE, BetaTC_VAE, FactorVAE, INFOVAE_MMD, MSSSIM_VAE, IWAE and its kin, Adversarial_AE, VAEGAN, and the
autoencoders AE, WAE_MMD, RAE_GP, RAE_L2. A discriminator has no part in encoding and decoding: its weights are kept and
not used. Models whose code is more than encoder and decoder tell (VAMP bounds its variance, VQVAE quantises, VAE_IAF
has flows) are refused by what they have besides. Own networks are pickles of code, which are never read: their weights
are in model.pt, and a class of the user's takes them (``--plugin FILE --model NAME``); what model_config.json says is
offered to that class as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import Bundle, below
from ccvae_eval.checkpoint.sidecar import json_beside
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain
from ccvae_eval.model.interface import LabelSchema, LatentLayout

CONFIG = "model_config"
FRAME = "model_state_dict."
MARK = "decoder.layers.1.0.weight"
OWN = ("encoder.layers.0.0.weight", "encoder.embedding.weight", "decoder.layers.0.0.weight", MARK)
MOST_SIDES = 8
UNUSED = "discriminator."
"""Begins the names of a network that only training needs."""


@dataclass(frozen=True, slots=True)
class PythaeSettings:
    """What is free in the default networks.

    Args:
        input_shape: (C, H, W).
        latent: columns of z.
        hidden: width of the hidden layer.
        deterministic: whether there is no variance (an autoencoder).
        unused: names and shapes of the discriminator's weights.
    """

    input_shape: tuple[int, ...] = (1, 28, 28)
    latent: int = 10
    hidden: int = 512
    deterministic: bool = False
    unused: Mapping[str, Any] = field(default_factory=dict)


class Perceptron(nn.Module):
    """pythae's default encoder and decoder under their names."""

    def __init__(self, settings: PythaeSettings) -> None:
        super().__init__()
        shape = tuple(settings.input_shape)
        if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise UsageError(f"input_shape {shape} is no (C, H, W)", where="pythae", hint="--set input_shape=[1,28,28]")
        self.layout, self.labels, self.input_shape = LatentLayout(settings.latent), LabelSchema(()), shape
        pixels = math.prod(shape)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([nn.Sequential(nn.Linear(pixels, settings.hidden), nn.ReLU())])
        self.encoder.embedding = nn.Linear(settings.hidden, settings.latent)
        if not settings.deterministic:
            self.encoder.log_var = nn.Linear(settings.hidden, settings.latent)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(settings.latent, settings.hidden), nn.ReLU()),
                nn.Sequential(nn.Linear(settings.hidden, pixels), nn.Sigmoid()),
            ]
        )
        for name, sides in settings.unused.items():
            _put(self, name, nn.Parameter(torch.empty(*sides)))

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x); an autoencoder's is a point."""
        del labels
        hidden = self.encoder.get_submodule("layers.0")(images.flatten(1))
        loc = self.encoder.get_submodule("embedding")(hidden)
        variance = dict(self.encoder.named_children()).get("log_var")
        return Gaussian(loc, torch.zeros_like(loc) if variance is None else (variance(hidden) / 2).exp())

    def decode(self, codes: Codes) -> Images:
        for name in ("layers.0", "layers.1"):
            codes = self.decoder.get_submodule(name)(codes)
        return codes.reshape(-1, *self.input_shape)


class Pythae:
    """The adapter."""

    def matches(self, bundle: Bundle) -> float:
        """1 where config and default networks are there; .4 for own networks, which it only has hints about."""
        config, framed = _config(bundle), any(FRAME in name for name in bundle.tensors)
        default = all(name in below(bundle.tensors, MARK) for name in OWN)
        if default:
            return 1.0 if config and framed else 0.6
        return 0.4 if config and framed else 0.0

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        return _config(bundle)

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = below(bundle.tensors, MARK)
        if not all(name in tensors for name in OWN):
            raise UsageError(
                "the networks of this folder are not pythae's own",
                where=str(bundle.path),
                why="encoder.pkl and decoder.pkl are code, which is never run",
                hint="Name a model of yours that has them: --plugin FILE --model NAME.",
            )
        pixels, shape = tensors[MARK].shape[0], _config(bundle).get("input_dim")
        _require_default(tensors, bundle)
        sides = [n for n in shape if type(n) is int and n > 0][:MOST_SIDES] if isinstance(shape, list) else []
        return {
            "input_shape": sides if math.prod(sides) == pixels and sides else _square(pixels),
            "latent": tensors["encoder.embedding.weight"].shape[0],
            "hidden": tensors["encoder.embedding.weight"].shape[1],
            "deterministic": "encoder.log_var.weight" not in tensors,
            "unused": {name: list(t.shape) for name, t in tensors.items() if name.startswith(UNUSED)},
        }

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        return Perceptron(PythaeSettings(**settings))

    def advice(self, bundle: Bundle) -> Iterable[str]:
        if not _config(bundle):
            yield "no model_config.json: the shape of the images is guessed; --set input_shape=[C,H,W] gives it"
        if any(name.startswith(UNUSED) for name in below(bundle.tensors, MARK)):
            yield "its discriminator has no part in encoding and decoding, and is not used"


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Registers a parameter under a dotted name, with the modules that it lies in."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in dict(module.named_children()):
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    module.register_parameter(last, parameter)


def _require_default(tensors: Mapping[str, Tensor], bundle: Bundle) -> None:
    """Refuses a model whose codes are more than encoder and decoder tell.

    Raises:
        UsageError: naming what it has besides.
    """
    known = ("encoder.layers.0.0.", "encoder.embedding.", "encoder.log_var.", "decoder.layers.", UNUSED)
    besides = sorted({name.rpartition(".")[0] or name for name in tensors if not name.startswith(known)})
    if besides:
        name = str(_config(bundle).get("name", "")).removesuffix("Config") or "model"
        raise UsageError(
            f"this {name} has more than an encoder and a decoder: {', '.join(besides)[:200]}",
            where=str(bundle.path),
            why="its codes or its variance are not what the encoder alone gives",
            hint="Write its encode and decode into a class of yours: --plugin FILE --model NAME (`ccvae-eval new model "
            "NAME` makes one to start from).",
        )


def _config(bundle: Bundle) -> dict[str, Any]:
    """model_config.json: in the folder, or beside model.pt."""
    found = bundle.metadata.get(CONFIG)
    if found is None and not bundle.path.is_dir():
        found = json_beside(bundle.path.with_name(f"{CONFIG}.json"))
    return found if isinstance(found, dict) and str(found.get("name", "")).endswith("Config") else {}


def _square(pixels: int) -> list[int]:
    """Square images of one or three channels that have so many numbers."""
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if channels * side * side == pixels:
            return [channels, side, side]
    return [1, 1, pixels]
