"""The adapter of diffusers' AutoencoderKL gives the codes and images of diffusers itself."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ccvae_plugins.diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn

import ccvae_eval
from ccvae_eval.core.errors import CcvaeEvalError

CONFIG = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "layers_per_block": 1,
    "latent_channels": 2, "norm_num_groups": 4, "sample_size": 16,
}  # fmt: skip
BARE = {
    "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False, "layers_per_block": 2,
    "block_out_channels": [8, 8, 8], "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {"usual": CONFIG, "bare": {**CONFIG, **BARE}}
EXPECTED = Path(__file__).parent / "expected/autoencoder_kl.npz"
SETTINGS = {
    "usual": {"widths": [8, 16], "layers": 1, "latent": 2, "groups": 4, "size": 16},
    "bare": {"widths": [8, 8, 8], "layers": 2, "latent": 2, "groups": 4, "size": 16, "attention": False,
             "quantiser": False, "post_quantiser": False},
}  # fmt: skip


def images() -> torch.Tensor:
    """Two images in [0, 1]."""
    return torch.from_numpy(np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that depend only on name and shape."""
    found = {}
    for name, tensor in model.state_dict().items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tensor.shape)
        centre = "norm" in name and name.endswith("weight")
        found[name] = torch.from_numpy((0.2 * noise + centre).astype(np.float32))
    return found


def saved(name: str, folder: Path, *, old_names: bool = False) -> Path:
    """A folder as diffusers writes it, or with the names of its early versions."""
    folder.mkdir()
    state = weights(AutoencoderKL().build(SETTINGS[name]))
    if old_names:
        words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for word, old in words.items():
            state = {key.replace(f".{word}.", f".{old}."): tensor for key, tensor in state.items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    return folder


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("place", ["folder", "file", "old names"])
def test_codes_and_images_are_those_of_diffusers(name: str, place: str, tmp_path: Path) -> None:
    expected = np.load(EXPECTED)
    folder = saved(name, tmp_path / "vae", old_names=place == "old names")
    opened = ccvae_eval.load(folder / "diffusion_pytorch_model.safetensors" if place == "file" else folder)
    model: Any = opened.model
    with torch.no_grad():
        q = model.encode(images())
        decoded = model.decode(torch.from_numpy(expected[f"{name}.mean"]).flatten(1))
    np.testing.assert_allclose(q.loc, expected[f"{name}.mean"].reshape(2, -1), atol=1e-5)
    np.testing.assert_allclose(q.scale, expected[f"{name}.std"].reshape(2, -1), rtol=1e-4)
    np.testing.assert_allclose(decoded, (expected[f"{name}.decoded"] / 2 + 0.5).clip(0, 1), atol=1e-5)


def test_another_size_of_images_can_be_chosen(tmp_path: Path) -> None:
    opened = ccvae_eval.load(saved("usual", tmp_path / "vae"), settings={"size": 32})
    assert (opened.model.input_shape, opened.model.layout.dim) == ((3, 32, 32), 2 * 16 * 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 15}, "size must be a positive multiple of 2, got 15"),
        ({"groups": 3}, "groups must divide 8, 16, got 3"),
        ({"layers": 0}, "needs a block and a layer in it, got 2 widths and layers=0"),
        ({"widths": []}, "needs a block and a layer in it, got 0 widths and layers=1"),
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CcvaeEvalError) as raised:
        ccvae_eval.load(saved("usual", tmp_path / "vae"), settings=settings)
    assert message in str(raised.value)


def test_weights_without_a_config_are_recognised(tmp_path: Path) -> None:
    folder = saved("usual", tmp_path / "vae")
    (folder / "config.json").unlink()
    opened = ccvae_eval.load(folder, settings={"groups": 4, "size": 16})
    assert opened.model.input_shape == (3, 16, 16)
