"""Lightning checkpoints of disent (github.com/nmichlo/disent) with the networks ``EncoderConv64``, ``DecoderConv64``.

All its frameworks (Ae, Vae, BetaVae, AdaVae, BetaTcVae, ...) keep the networks under ``_model`` and differ in the loss.
Sizes are read from the tensors. The checkpoint also holds the configuration of the training as pickled objects, which
are read as data: its loss decides how the decoder's output becomes an image. The models have no labels; latent
dimensions are assigned to labels on held-out images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ccvae_eval.checkpoint import Bundle, network_tensors
from ccvae_eval.checkpoint.bundle import Record
from ccvae_eval.core.errors import UnsupportedError, UsageError
from ccvae_eval.core.typed import Range, read
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    from torch import nn

ANCHOR, OUT, IN = "_encoder.model.0.weight", "_encoder.model.11.weight", "_decoder.model.0.weight"
KERNELS = "_encoder.model.4.weight"
TENSOR_DIMS = {
    ANCHOR: 4, KERNELS: 4, "_encoder.model.9.weight": 2, OUT: 2, IN: 2, "_decoder.model.5.weight": 4,
    "_decoder.model.11.weight": 4,
}  # fmt: skip
"""Tensors that identify these networks, with their number of dimensions."""
SIGMOID_LOSSES = ("bce", "bernoulli", "continuous_bernoulli")


@dataclass(frozen=True, slots=True)
class DisentSettings:
    """Sizes of the networks, and the conversion of images.

    Args:
        latent: number of latent dimensions.
        channels: channels of the images, which have 64 x 64 pixels.
        kernel: side of the kernels of the encoder's last two convolutions, 2 in older versions.
        deterministic: True for an autoencoder, which has no variance.
        activation: of the decoder: linear, sigmoid (losses of a Bernoulli), or halved: (x + 1) / 2, in early versions.
        mean, std: of each channel, if the images were normalised for training; empty otherwise.
    """

    latent: Annotated[int, Range(least=1)] = 6
    channels: Annotated[int, Range(least=1)] = 3
    kernel: Literal[2, 4] = 4
    deterministic: bool = False
    activation: Literal["linear", "sigmoid", "halved"] = "linear"
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Range(above=0)], ...] = ()

    def __post_init__(self) -> None:
        given = len(self.mean), len(self.std)
        if given not in ((0, 0), (self.channels, self.channels)):
            what = f"mean and std must have one number for each of the {self.channels} channels"
            raise UsageError(f"{what}, got {given[0]} and {given[1]}", where="disent")


class Disent:
    """Adapter for Lightning checkpoints of disent."""

    def matches(self, bundle: Bundle) -> float:
        """1 if all identifying tensors are present with the right number of dimensions, else 0."""
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        fits = (name in tensors and len(tensors[name].shape) == ndim for name, ndim in TENSOR_DIMS.items())
        return float(all(fits))

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors, config = network_tensors(bundle.tensor_table, ANCHOR), _config(bundle)
        distribution = config.get("latent_distribution", "normal")
        if distribution != "normal":
            what = f"the posterior must be a normal distribution, got {distribution!r}"
            raise UnsupportedError(what, where=str(bundle.path))
        latent = tensors[IN].shape[1]
        return {
            "latent": latent,
            "channels": tensors[ANCHOR].shape[1],
            "kernel": tensors[KERNELS].shape[-1],
            "deterministic": tensors[OUT].shape[0] == latent,
            "activation": "sigmoid" if _loss(config).startswith(SIGMOID_LOSSES) else "linear",
        }

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        from ccvae_plugins.networks import DisentAutoencoder

        return DisentAutoencoder(read(DisentSettings, settings, error=UsageError, words=True))

    def advice(self, bundle: Bundle) -> Iterable[str]:
        loss = _loss(_config(bundle))
        if not loss:
            yield "the loss is not in the file; if it takes logits (bce, bernoulli): --set activation=sigmoid"
        elif not loss.startswith(SIGMOID_LOSSES):
            yield "early versions of disent show (x + 1) / 2 of the decoder's output x: --set activation=halved"
        yield (
            "if the images were normalised for training (mean and std of the transform ToImgTensorF32): "
            "--set 'mean=[...]' --set 'std=[...]'"
        )


def _loss(config: Mapping[str, Any]) -> str:
    return str(config.get("recon_loss", ""))


def _config(bundle: Bundle) -> Mapping[str, Any]:
    """The configuration of the framework, a pickled dataclass; {} if there is none."""
    parameters = bundle.structure.get("hyper_parameters") if isinstance(bundle.structure, Mapping) else None
    found = parameters.get("cfg") if isinstance(parameters, Mapping) else None
    found = found.state if isinstance(found, Record) else found
    return found if isinstance(found, Mapping) else {}
