"""The panel of a third-party checkpoint: the VAE on dSprites of disentangling-vae (docs/reproduction.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, relu

from ccvae_eval.checkpoint.bundle import read_bundle
from ccvae_eval.data.spec import open_data
from ccvae_eval.metrics.disentanglement import PanelSettings, panel
from ccvae_eval.plugins.registry import data_sets
from tests.support.paths import SHARED

CHECKPOINT = SHARED / "checkpoints" / "disvae_VAE_dsprites" / "model.pt"
TRAIN, TEST = 10_000, 5_000
LATENTS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKPOINT.is_file(), reason="the checkpoint is not in the shared folder"),
    pytest.mark.skipif("sprites" not in data_sets, reason="the data set sprites is not registered"),
]

MEASURED = {
    "reference": {"mig": 0.102, "modularity": 0.852, "factor_vae": 0.724, "irs": 0.397, "explicitness": 0.807},
    "robust": {"mig": 0.109, "infom": 0.506, "infoc": 0.326, "infoe": 0.296, "sap": 0.080},
}


def means(weights, images):
    """Posterior means of the published encoder: four strided convolutions and three linear layers."""
    x = images
    for name in ("conv1", "conv2", "conv3", "conv_64"):
        x = relu(torch.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2, padding=1))
    x = x.flatten(1)
    for name in ("lin1", "lin2"):
        x = relu(linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    # mean and log variance alternate in the output
    return linear(x, weights["mu_logvar_gen.weight"], weights["mu_logvar_gen.bias"]).view(-1, LATENTS, 2)[..., 0]


@pytest.fixture(scope="module")
def arrays():
    tensors = read_bundle(CHECKPOINT).tensors
    weights = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    data = open_data("sprites")
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(len(data), TRAIN + TEST, replace=False))
    with torch.no_grad():
        parts = [means(weights, data.batch(part).images) for part in np.array_split(ids, 30)]
    return torch.cat(parts).numpy(), data.labels_of(ids), rng.permutation(TRAIN + TEST)


@pytest.mark.parametrize("profile", list(MEASURED))
def test_scores_of_the_checkpoint(arrays, profile):
    codes, factors, order = arrays
    settings = PanelSettings(profile=profile, score=tuple(MEASURED[profile]))
    found = panel(codes, factors, settings, train=np.sort(order[:TRAIN]), test=np.sort(order[TRAIN:]))
    for name, wanted in MEASURED[profile].items():
        value = next(v.estimate.value for v in found.values if v.name == name and v.characteristic is None)
        assert value == pytest.approx(wanted, abs=0.01), name
