"""Inspection of checkpoints."""

import json
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from ccvae_plugins.disvae import DisvaeSettings
from ccvae_plugins.networks import Burgess
from torch import nn

from ccvae_eval.checkpoint import inspect_checkpoint, matches, save_checkpoint, write_bundle
from ccvae_eval.model.interface import ModelContext, binary_schema, uniform_prior
from ccvae_eval.plugins.registry import models

SCHEMA = binary_schema("Glasses")
CONTEXT = ModelContext(SCHEMA, (1, 4, 4), uniform_prior(SCHEMA))


@pytest.mark.parametrize(("suffix", "form"), [(".pt", "pt-zip"), (".safetensors", "safetensors")])
def test_a_checkpoint_of_this_toolkit(suffix: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_checkpoint(path, models["tiny"].from_settings({}, CONTEXT), name="tiny", training={"seed": 3})
    content = inspect_checkpoint(path)
    assert json.loads(json.dumps(content)) == content
    assert content["format"] == form
    assert content["size"] == path.stat().st_size
    assert content["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert content["written_by"] == "ccvae-eval 0.1.0"
    assert content["model"] == "tiny"
    assert content["parameters"] == 16 * 4 + 4 + 4 * 3 + 3
    assert {"key": "latents.weight", "shape": [3, 4], "dtype": "float32"} in content["tensors"]
    assert content["metadata"]["model"]["training"] == {"seed": 3}


def test_a_model_that_is_not_installed(tmp_path: Path) -> None:
    model = models["tiny"].from_settings({}, CONTEXT)
    save_checkpoint(tmp_path / "x.pt", model, name="external:model")
    assert inspect_checkpoint(tmp_path / "x.pt")["model"] == "external:model"


def test_a_third_party_checkpoint(tmp_path: Path) -> None:
    torch.save({"net": nn.Linear(2, 3).state_dict(), "epoch": 4}, tmp_path / "x.pth")
    content = inspect_checkpoint(tmp_path / "x.pth")
    assert content["model"] is None
    assert content["written_by"] is None
    assert content["metadata"] == {"epoch": 4}
    assert [row["key"] for row in content["tensors"]] == ["net.weight", "net.bias"]
    assert content["globals"] == ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage"]


def test_a_pickled_module(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "x.pt")
    content = inspect_checkpoint(tmp_path / "x.pt")
    assert content["model"] == "torch.nn.modules.linear.Linear"
    assert [row["key"] for row in content["tensors"]] == ["weight", "bias"]


def test_a_checkpoint_of_this_toolkit_without_a_model(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.pt", {"w": torch.ones(2)}, {"kind": "judge"})
    content = inspect_checkpoint(tmp_path / "x.pt")
    assert content["model"] is None
    assert content["metadata"] == {"kind": "judge"}


def test_the_content_is_known_before_any_network_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*_: object) -> NoReturn:
        raise AssertionError("a network was built")

    torch.save(Burgess(DisvaeSettings()).state_dict(), tmp_path / "x.pt")
    expected = inspect_checkpoint(tmp_path / "x.pt")
    monkeypatch.setattr(matches, "meta_network", built)
    found = next(matches.inspection(tmp_path / "x.pt"))
    assert found["model"] == "disvae"
    assert {**found, "candidates": expected["candidates"]} == expected
    assert list(found) == list(expected)
