import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from ccvae_eval.checkpoint import inspect_checkpoint, save_checkpoint, write_bundle
from ccvae_eval.model.interface import ModelContext, binary_schema, uniform_prior
from ccvae_eval.plugins.registry import models

SCHEMA = binary_schema("Glasses")
CONTEXT = ModelContext(SCHEMA, (1, 4, 4), uniform_prior(SCHEMA))


@pytest.mark.parametrize(("suffix", "form"), [(".pt", "pt-zip"), (".safetensors", "safetensors")])
def test_our_own(suffix: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_checkpoint(path, models["tiny"].from_settings({}, CONTEXT), name="tiny", training={"seed": 3})
    told = inspect_checkpoint(path)
    assert json.loads(json.dumps(told)) == told
    assert told["format"] == form
    assert told["size"] == path.stat().st_size
    assert told["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert told["written_by"] == "ccvae-eval 0.1.0"
    assert told["model"] == "tiny"
    assert told["parameters"] == 16 * 4 + 4 + 4 * 3 + 3
    assert {"key": "latents.weight", "shape": [3, 4], "dtype": "float32"} in told["tensors"]
    assert told["metadata"]["model"]["training"] == {"seed": 3}


def test_a_model_that_is_not_installed(tmp_path: Path) -> None:
    model = models["tiny"].from_settings({}, CONTEXT)
    save_checkpoint(tmp_path / "x.pt", model, name="somebody:theirs")
    assert inspect_checkpoint(tmp_path / "x.pt")["model"] == "somebody:theirs"


def test_a_strangers(tmp_path: Path) -> None:
    torch.save({"net": nn.Linear(2, 3).state_dict(), "epoch": 4}, tmp_path / "x.pth")
    told = inspect_checkpoint(tmp_path / "x.pth")
    assert told["model"] is None
    assert told["written_by"] is None
    assert told["metadata"] == {"epoch": 4}
    assert [row["key"] for row in told["tensors"]] == ["net.weight", "net.bias"]
    assert told["globals"] == ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage"]


def test_a_pickled_module(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "x.pt")
    told = inspect_checkpoint(tmp_path / "x.pt")
    assert told["model"] == "torch.nn.modules.linear.Linear"
    assert [row["key"] for row in told["tensors"]] == ["weight", "bias"]


def test_tensors_of_ours_without_a_model(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.pt", {"w": torch.ones(2)}, {"kind": "judge"})
    told = inspect_checkpoint(tmp_path / "x.pt")
    assert told["model"] is None
    assert told["metadata"] == {"kind": "judge"}
