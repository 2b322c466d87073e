"""Folders of the public CCVAE codes: read without their classes, and the same numbers come out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ccvae_plugins.ccvae_reference import FORK, PAPER
from torch import nn
from torch.nn import functional

from ccvae_eval.checkpoint import inspect_checkpoint, open_checkpoint
from ccvae_eval.contract import check_model
from ccvae_eval.errors import CheckpointError
from tests.unit.plugins import public_ccvae as public

IMAGES = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def saved(folder: Path, legacy: bool = False, **modules: nn.Module) -> Path:
    """A folder as ``save_models`` of the public code leaves it."""
    folder.mkdir()
    for name, module in modules.items():
        torch.save(module, folder / f"{name}.pt", _use_new_zipfile_serialization=not legacy)
    return folder


def binary(labels: int, latent: int, joined: bool = False) -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "encoder": public.CELEBAEncoder(latent, joined),
        "decoder": public.CELEBADecoder(latent),
        "classifier": public.Classifier(labels),
        "cond_prior": public.CondPrior(labels),
    }


def multi(labels: int, classes: int, latent: int, listed: bool) -> dict[str, nn.Module]:
    made = binary(labels, latent)
    return {
        "encoder": made["encoder"],
        "decoder": made["decoder"],
        "classifier_binary": made["classifier"],
        "cond_prior_binary": made["cond_prior"],
        "classifier_mc": public.Classifier_mc(classes),
        "cond_prior_mc": public.CondPrior_mc(classes, listed),
    }


@pytest.mark.parametrize("joined", [False, True], ids=["pytorch", "pyro"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_paper_s_split_18_and_27(joined: bool, legacy: bool, tmp_path: Path) -> None:
    parts = binary(18, 45, joined)
    opened = open_checkpoint(saved(tmp_path / "weights", legacy, **parts))
    model: Any = opened.model
    assert opened.name == "ccvae-reference"
    assert model.labels.names == PAPER
    assert len(model.layout.style) == 27
    with torch.no_grad():
        loc, scale = parts["encoder"](IMAGES)
        q = model.encode(IMAGES)
        assert torch.equal(q.loc, loc)
        assert torch.equal(q.scale, scale)
        assert torch.equal(model.decode(loc), parts["decoder"](loc))
        laplace = torch.distributions.Laplace(parts["decoder"](loc), 1).log_prob(IMAGES).sum((1, 2, 3))
        assert torch.allclose(model.log_likelihood(IMAGES, loc), laplace)
        logits = parts["classifier"](loc[:, :18])
        told = model.predict(IMAGES, loc)["Eyeglasses"]
        assert torch.allclose(told[:, 1].exp(), logits[:, PAPER.index("Eyeglasses")].sigmoid())
        y = (torch.rand(5, 18) > 0.5).float()
        assert torch.equal(model.conditional_prior(y).loc, parts["cond_prior"](y)[0])
        assert torch.equal(model.conditional_prior(y).scale, parts["cond_prior"](y)[1])
    check_model(model, IMAGES, y)


@pytest.mark.parametrize("listed", [False, True], ids=["parameters", "list"])
def test_the_multi_class_fork(listed: bool, tmp_path: Path) -> None:
    parts = multi(13, 5, 45, listed)
    opened = open_checkpoint(saved(tmp_path / "weights", **parts))
    model: Any = opened.model
    assert model.labels.names == (*FORK, "Hair")
    assert model.layout["Hair"] == (13,)
    codes = torch.randn(5, 45)
    y = torch.cat([torch.zeros(5, 13), torch.arange(5.0)[:, None]], 1)
    with torch.no_grad():
        own = parts["classifier_mc"].categorical_params(codes[:, 13:14]).log_softmax(1)
        assert torch.equal(model.predict(IMAGES, codes)["Hair"], own)
        prior = model.conditional_prior(y)
        raw = torch.cat(list(parts["cond_prior_mc"].diag_scale)) + (1 if listed else 0)
        assert torch.equal(prior.loc[:, 13], torch.cat(list(parts["cond_prior_mc"].diag_loc)))
        assert torch.equal(prior.scale[:, 13], torch.clamp(functional.softplus(raw), min=1e-3))
    assert any("training does not see" in note for note in opened.notes) == listed
    check_model(model, IMAGES, y)


def test_other_splits_need_names(tmp_path: Path) -> None:
    folder = saved(tmp_path / "weights", **binary(2, 7))
    with pytest.raises(CheckpointError, match="names of 2 labels are needed") as refused:
        open_checkpoint(folder)
    assert "--set 'labels=A|B|...'" in refused.value.hint
    told = inspect_checkpoint(folder)["candidates"]
    assert told[0]["name"] == "ccvae-reference"
    assert "labels=A|B" in told[0]["note"]
    model: Any = open_checkpoint(folder, settings={"labels": "Smiling|Male", "prior": [0.5, 0.4]}).model
    assert model.labels.names == ("Smiling", "Male")
    assert model.label_prior == (0.5, 0.4)


@pytest.mark.parametrize("prior", [[0.5], [0.5, 2], "half"])
def test_a_prior_that_is_none(prior: object, tmp_path: Path) -> None:
    folder = saved(tmp_path / "weights", **binary(2, 7))
    with pytest.raises(CheckpointError, match="is not possible"):
        open_checkpoint(folder, settings={"labels": "A|B", "prior": prior})


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    parts: Mapping[str, nn.Module] = binary(18, 45)
    folder = saved(tmp_path / "weights", **{name: part for name, part in parts.items() if name != "cond_prior"})
    with pytest.raises(CheckpointError, match="4 missing") as refused:
        open_checkpoint(folder)
    assert "cond_prior.diag_loc_true" in refused.value.hint
    (row,) = inspect_checkpoint(folder)["candidates"]
    assert "cond_prior.diag_loc_true" in row["missing"]


def test_their_classes_are_never_imported(tmp_path: Path) -> None:
    """In a process where the classes do not exist, the folder opens all the same."""
    folder = saved(tmp_path / "weights", **binary(18, 45))
    code = "import sys, ccvae_eval; m = ccvae_eval.load(sys.argv[1]); print(m.name, 'tests' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.split() == ["ccvae-reference", "False"]
    names = json.dumps(inspect_checkpoint(folder)["globals"])
    assert "public_ccvae.CELEBAEncoder" in names
