"""Writes autoencoder_kl.npz: codes and images of two small networks of diffusers (0.42.1), which must be installed.

python tests/adapters/expected/autoencoder_kl.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = Path(__file__).with_suffix(".npz")
ROOT = Path(__file__).parents[3]


def main() -> None:
    from diffusers import AutoencoderKL

    sys.path.insert(0, str(ROOT))
    from tests.adapters.test_diffusers import CONFIGS, images, weights

    found: dict[str, Any] = {}
    for name, config in CONFIGS.items():
        model = AutoencoderKL(**{key: value for key, value in config.items() if key != "_class_name"}).eval()
        model.load_state_dict(weights(model))
        with torch.no_grad():
            q = model.encode(2 * images() - 1).latent_dist
            decoded = model.decode(q.mean).sample
        found |= {f"{name}.mean": q.mean, f"{name}.std": q.std, f"{name}.decoded": decoded}
    np.savez_compressed(FILE, **{key: np.asarray(value) for key, value in found.items()})


if __name__ == "__main__":
    main()
