"""Folders and third-party checkpoints are read or refused with one error, without executing anything."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ccvae_plugins.disvae import DisvaeSettings
from ccvae_plugins.networks import Burgess, Perceptron
from ccvae_plugins.pythae import PythaeSettings

from ccvae_eval.checkpoint import inspect_checkpoint, open_checkpoint
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_in_one_part_of_a_folder(legacy: bool, tmp_path: Path) -> None:
    folder, canary = tmp_path / "weights", tmp_path / "canary"
    folder.mkdir()
    torch.save({"w": torch.ones(2)}, folder / "decoder.pt")
    torch.save({"w": Payload(canary)}, folder / "encoder.pt", _use_new_zipfile_serialization=not legacy)
    (folder / "classifier.pkl").write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(CheckpointError, match="system") as refused:
        open_checkpoint(folder)
    assert "encoder.pt" in refused.value.where
    assert not canary.exists()


def test_a_pipe_or_a_link_loop_in_a_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="is a pipe"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt").symlink_to("model.pt")
    with pytest.raises(CheckpointError, match="symbolic links"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        b"[" * 500_000,
        b"{" + b" " * (2 << 20),
        b"\xff\xfe",
        b'{"name": "VAEConfig", "input_dim": [1000000000, 1000000000, 1000000000]}',
        b'{"name": "VAEConfig", "input_dim": [1, -8, -8]}',
        b'{"name": "VAEConfig", "input_dim": {"a": 1}}',
        b'{"name": 7, "input_dim": [1, 8, 8]}',
        b"[]",
        b"NaN",
    ],
    ids=range(9),
)
def test_a_hostile_config_file_is_ignored(config: bytes, tmp_path: Path) -> None:
    torch.save({"model_state_dict": Perceptron(PythaeSettings((1, 8, 8), 5, 16)).state_dict()}, tmp_path / "model.pt")
    (tmp_path / "model_config.json").write_bytes(config)
    begun = time.process_time()
    opened = open_checkpoint(tmp_path)
    assert opened.record is not None
    assert opened.record.settings["input_shape"] == [1, 8, 8], "inferred from the weights"
    assert inspect_checkpoint(tmp_path)["model"] == "pythae"
    assert time.process_time() - begun < 10


CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
    "flat": lambda t: t.update({"encoder.mu_logvar_gen.weight": torch.tensor(1.0)}),
    "empty": lambda t: t.update({"encoder.mu_logvar_gen.weight": torch.empty(0, 256)}),
    "odd": lambda t: t.update({"encoder.mu_logvar_gen.weight": torch.ones(7, 256)}),
    "no convolution": lambda t: t.__delitem__("encoder.conv1.weight"),
    "one dimension": lambda t: t.update({"encoder.conv1.weight": torch.ones(3)}),
    "both sizes": lambda t: t.update({"encoder.conv_64.weight": torch.ones(1)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_only_resemble_a_known_network_are_refused(change: str, tmp_path: Path) -> None:
    tensors = dict(Burgess(DisvaeSettings()).state_dict())
    CHANGES[change](tensors)
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "x.pt")
    assert inspect_checkpoint(tmp_path / "x.pt")["candidates"] is not None


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"labels": [], "columns": [], "name": "x"},
        {"labels": "a", "columns": 3, "name": []},
        {"labels": [{"name": "a", "kind": "binary", "classes": []}], "columns": ["b", "a"], "name": "x"},
        {"labels": [{"name": "a", "kind": "binary", "classes": []}] * 2, "columns": ["a", "a"], "name": "x"},
        {"labels": [], "columns": [], "name": "x", "rows": 10**12, "latent": 10**12},
    ],
    ids=range(6),
)
def test_a_hostile_table_of_codes_is_refused(table: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"codes": torch.ones(4, 2), "scale": torch.ones(4, 2), "observed": torch.ones(4, 1)}
    torch.save({**tensors, "split": torch.zeros(4, dtype=torch.uint8), "code_table": table}, tmp_path / "x.pt")
    with pytest.raises(CcvaeEvalError):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY", b"<html>"])
def test_a_malformed_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CcvaeEvalError, match=r"x\.npz"):
        open_checkpoint(tmp_path / "x.npz")


def test_a_pickle_in_an_npz_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    codes = np.empty(1, dtype=object)
    codes[0] = Payload(canary)
    np.savez(tmp_path / "x.npz", codes=codes, labels=np.zeros(1))
    with pytest.raises(CcvaeEvalError, match="it holds Python objects"):
        open_checkpoint(tmp_path / "x.npz")
    assert not canary.exists()


def test_a_checkpoint_names_a_model_and_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its TOML file nor its hyper-parameters cause an import."""
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "hyper_parameters": {"model": "evil:Model", "_target_": "evil.Model"}}, "x.pt")
    for name in ("evil:Model", "evil.Model", str(tmp_path / "evil.py")):
        Path("x.toml").write_text(f"model = {json.dumps(name)}")
        with pytest.raises(CheckpointError, match="is not installed"):
            open_checkpoint("x.pt")
    assert not canary.exists()
