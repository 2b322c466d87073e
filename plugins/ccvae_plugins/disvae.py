"""Checkpoints of disentangling-vae (github.com/YannDubs/disentangling-vae): a state_dict with specs.json beside it.

All its published models (VAE, betaH, betaB, factor, btcvae) have the networks of Burgess et al. (2018, appendix of
arXiv:1804.03599) and differ only in the loss. Sizes are read from the tensors, so specs.json is not needed. The models
have no labels; latent dimensions are assigned to labels on held-out images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ccvae_eval.checkpoint import Bundle, network_tensors
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import read
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    from torch import nn

ANCHOR = "encoder.mu_logvar_gen.weight"
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


class Disvae:
    """Adapter for checkpoints of disentangling-vae."""

    def matches(self, bundle: Bundle) -> float:
        """Share of the identifying tensors present with the right number of dimensions; 0 up to one half."""
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        fits = [name in tensors and len(tensors[name].shape) == ndim for name, ndim in TENSOR_DIMS.items()]
        share = sum(fits) / len(fits)
        return share if share > 0.5 else 0.0

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        return {
            "latent": tensors[ANCHOR].shape[0] // 2,
            "channels": tensors["encoder.conv1.weight"].shape[1],
            "size": 64 if "encoder.conv_64.weight" in tensors else 32,
        }

    def advice(self, bundle: Bundle) -> Iterable[str]:
        settings = self.settings(bundle)
        if (settings["channels"], settings["size"]) == (3, 64):
            yield (
                "the public code squeezes whole images of CelebA to 64 x 64: evaluate with celeba:PATH,crop=whole or "
                "folder:PATH,size=64,crop=whole"
            )

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        from ccvae_plugins.networks import Burgess

        return Burgess(read(DisvaeSettings, settings, error=UsageError, words=True))
