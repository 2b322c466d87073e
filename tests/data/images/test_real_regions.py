"""Boxes on real faces: a linear model of photographs changes smiles and glasses inside their boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.data.spec import open_data
from tests.support.paths import SHARED

FACES = SHARED / "data/celebahq64"
LABELS = ("Eyeglasses", "Smiling", "Young")
SPEC = f"folder:{FACES},images=images64.zip,labels={'|'.join(LABELS)}"
FITTED, COMPONENTS = 1500, 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FACES.is_dir(), reason="shared/data/celebahq64 is missing"),
]


def linear_model() -> Any:
    """Principal components. Each label has one latent dimension: it is encoded by a linear discriminant and decoded
    along the difference of the class means."""
    data = open_data(SPEC)
    ids = data.split("train")[:FITTED]
    batch = data.batch(ids)
    x = batch.images.flatten(1).double()
    middle = x.mean(0)
    # exact: the random sketch of svd_lowrank would make the result depend on the state of the generator
    basis = torch.linalg.svd(x - middle, full_matrices=False)[2][:COMPONENTS]
    scores = (x - middle) @ basis.T
    known = batch.labels.double()
    differences = torch.stack([scores[y == 1].mean(0) - scores[y == 0].mean(0) for y in known.T], 1)
    discriminants = torch.linalg.solve(torch.cov(scores.T), differences).T
    directions = differences @ torch.linalg.inv(discriminants @ differences)

    def encode(images: torch.Tensor) -> torch.Tensor:
        components = (images.flatten(1).double() - middle) @ basis.T
        labels = components @ discriminants.T
        return torch.cat([labels, components - labels @ directions.T], 1).float()

    def decode(codes: torch.Tensor) -> torch.Tensor:
        labels, style = codes.double().split([len(LABELS), COMPONENTS], 1)
        pixels = middle + (style + labels @ directions.T) @ basis
        return pixels.float().reshape(-1, 3, 64, 64)

    own = {name: [column] for column, name in enumerate(LABELS)}
    return ccvae_eval.wrap(encode=encode, decode=decode, dim=len(LABELS) + COMPONENTS, characteristics=own)


@pytest.fixture(scope="module")
def run() -> Any:
    model = linear_model()
    metrics = ["locality", "drift", "intervention"]
    settings = {"locality": {"steps": 3}, "intervention": {"axiom_images": 0}}
    return ccvae_eval.evaluate(
        model, f"{SPEC},regions=celebahq", metrics, options=settings, sample=600, judge="none", references=False
    )


def test_the_run_records_the_source_of_the_regions(run: Any) -> None:
    assert run.header.regions == {"source": "boxes of the CelebA-HQ frame"}


def test_smiles_and_glasses_change_inside_their_boxes(run: Any) -> None:
    for name in ("Eyeglasses", "Smiling"):
        # a change independent of the region has focus 0 and spill 1
        assert run.find(f"locality.focus@{name}").estimate.low > 0, name
        assert run.find(f"drift.spill@{name}").estimate.high < 1, name
        assert run.find(f"drift.l1_spill@{name}").estimate.high < 1, name
    assert np.isfinite(run["intervention.identity@Smiling"])


def test_a_global_label_has_no_region_and_is_less_concentrated(run: Any) -> None:
    assert run.find("locality.focus@Young").note == "has no region: it changes the whole image"
    assert run["locality.concentration@Young"] < run["locality.concentration@Smiling"]
