"""AutoencoderKL of diffusers, the autoencoder of latent diffusion: a folder of config.json and safetensors.

Sizes are read from the tensors. config.json adds what they do not show: the number of groups of the normalisation and
the size of the images. The model has no labels; latent dimensions are assigned to labels on held-out images. The latent
dimensions are the values of a feature map, row by row for each channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ccvae_eval.checkpoint import Bundle, network_tensors
from ccvae_eval.checkpoint.bundle import TensorInfo
from ccvae_eval.checkpoint.sidecar import read_json_file
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import read
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    from torch import nn

ANCHOR = "encoder.down_blocks.0.resnets.0.norm1.weight"
REQUIRED = (ANCHOR, "encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.up_blocks.0.resnets.0.norm1.weight")
CONFIG, CLASS_NAME = "config", "AutoencoderKL"
MOST = 64
"""Most blocks, and most residual blocks in one."""
SIZE = 64
"""Sides of the images if config.json is missing."""
GROUPS = 32
"""Groups of the normalisation if config.json is missing."""


@dataclass(frozen=True, slots=True)
class AutoencoderKLSettings:
    """Sizes of the networks.

    Args:
        channels: channels of the images.
        widths: channels of the blocks, from the image inwards; each block but the last halves the sides.
        layers: residual blocks of each encoder block; the decoder has one more.
        latent: channels of the latent feature map.
        groups: groups of the normalisation.
        size: image size in pixels, a multiple of 2^(blocks - 1).
        attention: True if the middle has an attention layer.
        quantiser, post_quantiser: True if a 1 x 1 convolution follows the encoder, or leads to the decoder.
        old_names: True if the attention layers have the names of early versions.
    """

    channels: int = 3
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    latent: int = 4
    groups: int = GROUPS
    size: int = SIZE
    attention: bool = True
    quantiser: bool = True
    post_quantiser: bool = True
    old_names: bool = False


class AutoencoderKL:
    """Adapter for the autoencoders of latent diffusion."""

    def matches(self, bundle: Bundle) -> float:
        """1 with a config.json of the class, 0.8 without; 0 if a characteristic tensor is missing."""
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        if not all(name in tensors for name in REQUIRED):
            return 0.0
        return 1.0 if _config(bundle) else 0.8

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors, config = network_tensors(bundle.tensor_table, ANCHOR), _config(bundle)
        size, groups = config.get("sample_size"), config.get("norm_num_groups")
        return {
            "channels": tensors["encoder.conv_in.weight"].shape[1],
            "widths": list(_widths(tensors)),
            "layers": sum(f"encoder.down_blocks.0.resnets.{n}.norm1.weight" in tensors for n in range(MOST)),
            "latent": tensors["decoder.conv_in.weight"].shape[1],
            "groups": groups if isinstance(groups, int) else GROUPS,
            "size": size if isinstance(size, int) else SIZE,
            "attention": "encoder.mid_block.attentions.0.group_norm.weight" in tensors,
            "quantiser": "quant_conv.weight" in tensors,
            "post_quantiser": "post_quant_conv.weight" in tensors,
            "old_names": "encoder.mid_block.attentions.0.query.weight" in tensors,
        }

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        from ccvae_plugins.autoencoder_kl import Autoencoder

        return Autoencoder(read(AutoencoderKLSettings, settings, error=UsageError, words=True))

    def advice(self, bundle: Bundle) -> Iterable[str]:
        settings = self.settings(bundle)
        yield f"images must have {settings['size']} x {settings['size']} pixels; for another size: --set size=N"
        if not _config(bundle):
            yield f"config.json is missing; {GROUPS} groups are assumed in each normalisation (--set groups=N)"


def _widths(tensors: Mapping[str, TensorInfo]) -> Iterable[int]:
    """Channels of the encoder's blocks."""
    for block in range(MOST):
        weight = tensors.get(f"encoder.down_blocks.{block}.resnets.0.conv1.weight")
        if weight is None:
            return
        yield weight.shape[0]


def _config(bundle: Bundle) -> dict[str, Any]:
    """Content of config.json, in the folder or beside the weights; {} if there is none of this class."""
    found = bundle.metadata.get(CONFIG)
    if found is None and not bundle.path.is_dir():
        found = read_json_file(bundle.path.with_name(f"{CONFIG}.json"))
    return found if isinstance(found, dict) and found.get("_class_name") == CLASS_NAME else {}
