"""``convert`` and ``export``: round trips preserve weights and codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from ccvae_plugins.disvae import DisvaeSettings
from ccvae_plugins.networks import Burgess

import ccvae_eval
from ccvae_eval.checkpoint import open_checkpoint
from ccvae_eval.evaluation.storage import write
from tests.support.commands import run_command
from tests.support.comparisons import model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model": Burgess(DisvaeSettings(latent=4, channels=3)).state_dict()}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_converted_checkpoint_opens_without_its_adapter(weights: Path, suffix: str) -> None:
    out = weights.with_name(f"ours{suffix}")
    assert run_command("convert", str(weights), "--out", str(out)) == 0
    before, after = open_checkpoint(weights), open_checkpoint(out)
    assert after.name == "disvae"
    assert after.bundle.envelope is not None
    assert all(torch.equal(after.model.state_dict()[n], t) for n, t in before.model.state_dict().items())
    again = weights.with_name("again.pt")
    assert run_command("convert", str(out), "--out", str(again), "--half") == 0
    assert again.stat().st_size < 0.6 * out.stat().st_size
    assert open_checkpoint(again).record == after.record


def test_bare_tensors_can_be_read_by_other_tools(weights: Path) -> None:
    out = weights.with_name("bare.safetensors")
    assert run_command("convert", str(weights), "--out", str(out), "--bare") == 0
    found = safetensors.torch.load_file(out)
    assert set(found) == set(Burgess(DisvaeSettings()).state_dict())
    out = weights.with_name("bare.pt")
    assert run_command("convert", str(weights), "--out", str(out), "--bare") == 0
    assert set(torch.load(out, weights_only=True)) == set(found)


def test_convert_does_not_overwrite_its_input(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("convert", str(weights), "--out", str(weights)) == 2
    assert "names the input checkpoint itself" in capsys.readouterr().err
    assert run_command("convert", str(weights), "--out", str(weights.with_name("x.bin"))) == 2


def test_exported_codes_equal_the_models_and_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "codes.npz"
    with shipped_checkpoint() as asset:
        code = run_command("export", str(asset), "--data", "faces,n=600", "--sample", "40", "--out", str(out), "--json")
        assert code == 0
        assert json.loads(capsys.readouterr().out)["n"] == 40
        opened = ccvae_eval.load(asset)
    arrays = np.load(out)
    from ccvae_eval.data.spec import open_data

    images = open_data("faces,n=600").batch(arrays["ids"]).images
    with torch.no_grad():
        q = opened.model.encode(images)  # type: ignore[operator]
    np.testing.assert_allclose(arrays["codes"], q.loc.numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["scale"], q.scale.numpy(), atol=1e-5)
    table = ccvae_eval.load(out).model
    assert table.layout.characteristics.keys() == opened.model.layout.characteristics.keys()  # type: ignore[union-attr,operator]


def shipped_checkpoint():  # type: ignore[no-untyped-def]
    from importlib.resources import as_file, files

    return as_file(files("ccvae_eval") / "assets" / "ccvae-faces64.pt")


def test_a_run_is_exported_as_the_model_index_of_a_model_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(model(1), tmp_path / "run")
    assert run_command("export", "hf", str(tmp_path / "run")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model-index"][0]["results"][0]["metrics"][0]["type"] == "locality.focus"
    assert run_command("export", "hf", str(tmp_path / "run"), "--out", str(tmp_path / "card.yml")) == 0
    assert json.loads((tmp_path / "card.yml").read_text()) == document
    assert run_command("export", "a.pt", "b.pt", "--out", "x.npz") == 2
    assert run_command("export", "a.pt") == 2
