"""Folders of pythae: model_config.json, model.pt (a state_dict), and encoder.pkl and decoder.pkl of custom networks.

Built here are the models with pythae's default networks (one hidden layer of 512 units): VAE, BetaVAE,
DisentangledBetaVAE, BetaTC_VAE, FactorVAE, INFOVAE_MMD, MSSSIM_VAE, IWAE and its variants, Adversarial_AE, VAEGAN, and
the autoencoders AE, WAE_MMD, RAE_GP, RAE_L2. A discriminator plays no part in encoding or decoding: its weights are
loaded but not used. Models whose codes depend on more than encoder and decoder are refused by their extra tensors (VAMP
bounds its variance, VQVAE quantises, VAE_IAF has flows).

Custom networks are pickled code, which is never executed. Their weights are in model.pt: load them into a class of your
own (``--plugin FILE --model NAME``), which is offered the entries of model_config.json as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ccvae_eval.checkpoint import Bundle, network_tensors
from ccvae_eval.checkpoint.sidecar import read_json_file
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.typed import read
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    from torch import nn

CONFIG = "model_config"
STATE_DICT = "model_state_dict."
ANCHOR = "decoder.layers.1.0.weight"
REQUIRED = ("encoder.layers.0.0.weight", "encoder.embedding.weight", "decoder.layers.0.0.weight", ANCHOR)
MAX_DIMENSIONS = 8
UNUSED = "discriminator."
"""Prefix of the weights that only training needs."""
CUSTOM_CLASS = (
    "Write encode and decode in a class of your own: --plugin FILE --model NAME. "
    "`ccvae-eval new model NAME` writes a template."
)


@dataclass(frozen=True, slots=True)
class PythaeSettings:
    """Sizes of the default networks.

    Args:
        input_shape: (C, H, W).
        latent: number of latent dimensions.
        hidden: width of the hidden layer.
        deterministic: True for an autoencoder, which has no variance.
        unused: names and shapes of the discriminator's weights.
    """

    input_shape: tuple[int, ...] = (1, 28, 28)
    latent: int = 10
    hidden: int = 512
    deterministic: bool = False
    unused: Mapping[str, Any] = field(default_factory=dict)


class Pythae:
    """Adapter for folders of pythae."""

    def matches(self, bundle: Bundle) -> float:
        """1 for default networks with a config, 0.6 without; 0.4 for custom networks, which need a class."""
        config, weights = _config(bundle), any(STATE_DICT in name for name in bundle.tensors)
        default = all(name in network_tensors(bundle.tensor_table, ANCHOR) for name in REQUIRED)
        if default:
            return 1.0 if config and weights else 0.6
        return 0.4 if config and weights else 0.0

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        return _config(bundle)

    def settings(self, bundle: Bundle) -> Mapping[str, Plain]:
        tensors = network_tensors(bundle.tensor_table, ANCHOR)
        if not all(name in tensors for name in REQUIRED):
            raise UsageError(
                "the model has custom networks, not pythae's default ones",
                where=str(bundle.path),
                why="encoder.pkl and decoder.pkl contain code, which is never executed",
                hint=CUSTOM_CLASS,
            )
        pixels, shape = tensors[ANCHOR].shape[0], _config(bundle).get("input_dim")
        _require_default(tensors, bundle)
        sides = [n for n in shape if type(n) is int and n > 0][:MAX_DIMENSIONS] if isinstance(shape, list) else []
        return {
            "input_shape": sides if math.prod(sides) == pixels and sides else _guessed_shape(pixels),
            "latent": tensors["encoder.embedding.weight"].shape[0],
            "hidden": tensors["encoder.embedding.weight"].shape[1],
            "deterministic": "encoder.log_var.weight" not in tensors,
            "unused": {name: list(t.shape) for name, t in tensors.items() if name.startswith(UNUSED)},
        }

    def build(self, settings: Mapping[str, Plain]) -> nn.Module:
        from ccvae_plugins.networks import Perceptron

        return Perceptron(read(PythaeSettings, settings, error=UsageError, words=True))

    def advice(self, bundle: Bundle) -> Iterable[str]:
        if not _config(bundle):
            yield "model_config.json is missing, so the image shape is guessed; to set it: --set input_shape=[C,H,W]"
        if any(name.startswith(UNUSED) for name in network_tensors(bundle.tensor_table, ANCHOR)):
            yield "the discriminator is not used: it plays no part in encoding or decoding"


def _require_default(tensors: Mapping[str, object], bundle: Bundle) -> None:
    """Refuse a model whose codes depend on more than its encoder and decoder.

    Raises:
        UsageError: the model has other tensors; the message names them.
    """
    known = ("encoder.layers.0.0.", "encoder.embedding.", "encoder.log_var.", "decoder.layers.", UNUSED)
    extra = sorted({name.rpartition(".")[0] or name for name in tensors if not name.startswith(known)})
    if extra:
        name = str(_config(bundle).get("name", "")).removesuffix("Config") or "the model"
        raise UsageError(
            f"{name} has parts other than an encoder and a decoder: {', '.join(extra)[:200]}",
            where=str(bundle.path),
            why="its codes or their variance depend on these parts",
            hint=CUSTOM_CLASS,
        )


def _config(bundle: Bundle) -> dict[str, Any]:
    """Content of model_config.json, in the folder or beside model.pt; {} if there is none."""
    found = bundle.metadata.get(CONFIG)
    if found is None and not bundle.path.is_dir():
        found = read_json_file(bundle.path.with_name(f"{CONFIG}.json"))
    return found if isinstance(found, dict) and str(found.get("name", "")).endswith("Config") else {}


def _guessed_shape(pixels: int) -> list[int]:
    """Shape of square images with one or three channels and this many values; else one row of them."""
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if channels * side * side == pixels:
            return [channels, side, side]
    return [1, 1, pixels]
