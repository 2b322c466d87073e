"""Folders of the public CCVAE implementations: opened without their classes, with the same outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ccvae_plugins.ccvae_reference import FORK_LABELS, PAPER_LABELS
from torch import nn
from torch.nn import functional

from ccvae_eval.checkpoint import inspect_checkpoint, open_checkpoint
from ccvae_eval.core.errors import CheckpointError
from ccvae_eval.testing import check_model
from tests.support import public_ccvae as public
from tests.support.public_ccvae import saved

IMAGES = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def binary(labels: int, latent: int, joined: bool = False) -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "encoder": public.CELEBAEncoder(latent, joined),
        "decoder": public.CELEBADecoder(latent),
        "classifier": public.Classifier(labels),
        "cond_prior": public.CondPrior(labels),
    }


def multi(labels: int, classes: int, latent: int, listed: bool) -> dict[str, nn.Module]:
    parts = binary(labels, latent)
    return {
        "encoder": parts["encoder"],
        "decoder": parts["decoder"],
        "classifier_binary": parts["classifier"],
        "cond_prior_binary": parts["cond_prior"],
        "classifier_mc": public.Classifier_mc(classes),
        "cond_prior_mc": public.CondPrior_mc(classes, listed),
    }


@pytest.mark.parametrize("split", [(18, 45), (13, 45), (2, 7), (5, 5)], ids=str)
@pytest.mark.parametrize("joined", [False, True], ids=["pytorch", "pyro"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_outputs_equal_those_of_the_saved_modules(
    joined: bool, legacy: bool, split: tuple[int, int], tmp_path: Path
) -> None:
    """For both file formats and any split of z."""
    count, latent = split
    parts = binary(count, latent, joined)
    names = {18: PAPER_LABELS, 13: FORK_LABELS}.get(count, tuple("ABCDE"[:count]))
    settings = {} if count in (18, 13) else {"labels": "|".join(names)}
    opened = open_checkpoint(saved(tmp_path / "weights", legacy, **parts), settings=settings)
    model: Any = opened.model
    assert opened.name == "ccvae-reference"
    assert model.labels.names == names
    assert len(model.layout.style) == latent - count
    with torch.no_grad():
        loc, scale = parts["encoder"](IMAGES)
        q = model.encode(IMAGES)
        assert torch.equal(q.loc, loc)
        assert torch.equal(q.scale, scale)
        assert torch.equal(model.decode(loc), parts["decoder"](loc))
        laplace = torch.distributions.Laplace(parts["decoder"](loc), 1).log_prob(IMAGES).sum((1, 2, 3))
        assert torch.allclose(model.log_likelihood(IMAGES, loc), laplace)
        logits = parts["classifier"](loc[:, :count])
        log_q = model.predict(IMAGES, loc)
        for i, name in enumerate(names):
            assert torch.allclose(log_q[name][:, 1].exp(), logits[:, i].sigmoid())
        y = (torch.rand(5, count) > 0.5).float()
        assert torch.equal(model.conditional_prior(y).loc, parts["cond_prior"](y)[0])
        assert torch.equal(model.conditional_prior(y).scale, parts["cond_prior"](y)[1])
    check_model(model, IMAGES, y)


@pytest.mark.parametrize("split", [(13, 5, 45), (3, 4, 9)], ids=str)
@pytest.mark.parametrize("listed", [False, True], ids=["parameters", "list"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_multi_class_fork(listed: bool, legacy: bool, split: tuple[int, int, int], tmp_path: Path) -> None:
    count, classes, latent = split
    parts = multi(count, classes, latent, listed)
    builtin = count == 13
    settings = {} if builtin else {"labels": "A|B|C", "class_names": "k|l|m|n", "class_label": "Colour"}
    opened = open_checkpoint(saved(tmp_path / "weights", legacy, **parts), settings=settings)
    model: Any = opened.model
    label = "Hair" if builtin else "Colour"
    assert model.labels.names == (*(FORK_LABELS if builtin else "ABC"), label)
    assert model.layout[label] == (count,)
    codes = torch.randn(5, latent)
    y = torch.cat([torch.zeros(5, count), torch.arange(5.0)[:, None] % classes], 1)
    with torch.no_grad():
        assert torch.equal(model.encode(IMAGES).loc, parts["encoder"](IMAGES)[0])
        assert torch.equal(model.decode(codes), parts["decoder"](codes))
        own = parts["classifier_mc"].categorical_params(codes[:, count : count + 1]).log_softmax(1)
        assert torch.equal(model.predict(IMAGES, codes)[label], own)
        prior = model.conditional_prior(y)
        raw = torch.cat(list(parts["cond_prior_mc"].diag_scale)) + (1 if listed else 0)
        at = torch.arange(5) % classes
        assert torch.equal(prior.loc[:, count], torch.cat(list(parts["cond_prior_mc"].diag_loc))[at])
        assert torch.equal(prior.scale[:, count], torch.clamp(functional.softplus(raw), min=1e-3)[at])
        assert torch.equal(prior.loc[:, :count], parts["cond_prior_binary"](y[:, :count])[0])
    assert any("is untrained" in note for note in opened.notes) == listed
    assert any("evaluate with celeba:PATH,crop=whole" in note for note in opened.notes)
    check_model(model, IMAGES, y)


def test_other_numbers_of_labels_need_names(tmp_path: Path) -> None:
    folder = saved(tmp_path / "weights", **binary(2, 7))
    with pytest.raises(CheckpointError, match="the names of its 2 labels are missing") as refused:
        open_checkpoint(folder)
    assert "--set 'labels=A|B|...'" in refused.value.hint
    candidate = inspect_checkpoint(folder)["candidates"][0]
    assert candidate["name"] == "ccvae-reference"
    assert "labels=A|B" in candidate["note"]
    with pytest.raises(CheckpointError, match="2 names of labels are needed, got 3"):
        open_checkpoint(folder, settings={"labels": "A|B|C"})
    model: Any = open_checkpoint(folder, settings={"labels": "Smiling|Male", "prior": [0.5, 0.4]}).model
    assert model.labels.names == ("Smiling", "Male")
    assert model.label_prior == (0.5, 0.4)


@pytest.mark.parametrize("prior", [[0.5], [0.5, 2], "half"])
def test_an_invalid_prior_is_refused(prior: object, tmp_path: Path) -> None:
    folder = saved(tmp_path / "weights", **binary(2, 7))
    with pytest.raises(CheckpointError, match="must be a list of 2 probabilities"):
        open_checkpoint(folder, settings={"labels": "A|B", "prior": prior})


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    parts: Mapping[str, nn.Module] = binary(18, 45)
    folder = saved(tmp_path / "weights", **{name: part for name, part in parts.items() if name != "cond_prior"})
    with pytest.raises(CheckpointError, match="4 missing") as refused:
        open_checkpoint(folder)
    assert "cond_prior.diag_loc_true" in refused.value.hint
    (row,) = inspect_checkpoint(folder)["candidates"]
    assert "cond_prior.diag_loc_true" in row["missing"]


def test_the_pickled_classes_are_never_imported(tmp_path: Path) -> None:
    """The folder opens in a process where the classes do not exist."""
    folder = saved(tmp_path / "weights", **binary(18, 45))
    code = "import sys, ccvae_eval; m = ccvae_eval.load(sys.argv[1]); print(m.name, 'tests' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.split() == ["ccvae-reference", "False"]
    names = json.dumps(inspect_checkpoint(folder)["globals"])
    assert "models.networks.CELEBAEncoder" in names
