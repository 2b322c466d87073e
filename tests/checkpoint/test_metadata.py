"""The record in a checkpoint: saving, loading and malformed records."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ccvae_eval.checkpoint import CheckpointRecord, open_checkpoint, read_bundle, save_checkpoint, write_bundle
from ccvae_eval.checkpoint.metadata import without_path
from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.model.interface import ModelContext, binary_schema, uniform_prior
from ccvae_eval.plugins.registry import models

SCHEMA = binary_schema("Glasses", "Smile")
CONTEXT = ModelContext(SCHEMA, (1, 4, 4), uniform_prior(SCHEMA))


@dataclass(frozen=True)
class Data:
    spec: str = "folder:/home/anna/secret project,size=64"
    digest: str = "abc123"


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_loading_restores_the_saved_model(suffix: str, half: bool, tmp_path: Path) -> None:
    model: Any = models["tiny"].from_settings({"latent": 5}, CONTEXT, 3)
    path = tmp_path / f"x{suffix}"
    extra = {"adam/latents.weight": torch.ones(5, 4)}
    save_checkpoint(path, model, name="tiny", data=Data(), training={"seed": 3, "f": 0.1}, extra=extra, half=half)
    opened = open_checkpoint(path)
    assert opened.name == "tiny"
    assert opened.record == CheckpointRecord(
        "tiny",
        {"latent": 5, "hidden": 4, "layers": 1, "buffer": 1},
        CONTEXT,
        "folder,size=64",
        "abc123",
        {"seed": 3, "f": 0.1},
    )
    assert b"anna" not in path.read_bytes()
    assert not opened.model.training
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
    assert opened.extra.keys() == extra.keys()
    torch.testing.assert_close(opened.extra["adam/latents.weight"], torch.ones(5, 4))
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    near = {"rtol": 2e-3, "atol": 2e-3} if half else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(opened.model(images), model(images).detach(), **near)


def test_saving_and_loading_change_neither_the_model_nor_the_random_state(tmp_path: Path) -> None:
    model = models["tiny"].from_settings({}, CONTEXT)
    save_checkpoint(tmp_path / "x.pt", model, name="tiny")
    before = torch.get_rng_state()
    reference = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    save_checkpoint(tmp_path / "y.pt", model, name="tiny", half=True)
    open_checkpoint(tmp_path / "y.pt")
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, reference[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


def test_data_and_training_are_optional(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", models["tiny"].from_settings({}, CONTEXT), name="tiny")
    record = CheckpointRecord.from_bundle(read_bundle(tmp_path / "x.pt"))
    assert record is not None
    assert (record.data_spec, record.data_digest, record.training) == (None, None, {})


def test_settings_must_be_a_dataclass(tmp_path: Path) -> None:
    model = models["tiny"].from_settings({}, CONTEXT)
    model.settings = {"latent": 3}
    with pytest.raises(UsageError, match="must be a dataclass"):
        save_checkpoint(tmp_path / "x.pt", model, name="tiny")


RECORD = CheckpointRecord("tiny", {}, CONTEXT, "faces", "d", {}).as_plain()


def test_the_record_is_plain_data() -> None:
    assert json.loads(json.dumps(RECORD)) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"name": None},
        {"settings": 7},
        {"settings": "ab"},
        {"context": {"labels": "Glasses"}},
        {"context": {**RECORD["context"], "input_shape": "x"}},
        {"context": {**RECORD["context"], "labels": [{"name": "", "kind": "binary", "classes": []}]}},
        {"context": {**RECORD["context"], "labels": [{"name": "a", "kind": "odd", "classes": []}]}},
        {"data_spec": 4},
        {"training": [1]},
    ],
)
def test_a_malformed_record_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_bundle(path, {"w": torch.ones(1)}, {"model": RECORD})
    assert CheckpointRecord.from_bundle(read_bundle(path)) is not None
    write_bundle(path, {"w": torch.ones(1)}, {"model": {**RECORD, **change}})
    with pytest.raises(CheckpointError, match="x.pt: model record: "):
        CheckpointRecord.from_bundle(read_bundle(path))


def test_a_malformed_record_names_the_place(tmp_path: Path) -> None:
    context = {**RECORD["context"], "labels": [{"name": "a", "kind": "odd", "classes": []}]}
    write_bundle(tmp_path / "x.pt", {"w": torch.ones(1)}, {"model": {**RECORD, "context": context}})
    with pytest.raises(CheckpointError, match=r"context\.labels\[0\]\.kind must be 'binary', .* got 'odd'"):
        CheckpointRecord.from_bundle(read_bundle(tmp_path / "x.pt"))


@pytest.mark.parametrize("plain", [None, [], "tiny", {}])
def test_a_record_of_another_type_is_refused(plain: Any, tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.pt", {"w": torch.ones(1)}, {"model": plain})
    with pytest.raises(CheckpointError, match="x.pt: model record: "):
        CheckpointRecord.from_bundle(read_bundle(tmp_path / "x.pt"))


def test_a_third_party_checkpoint_has_no_record(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "model": RECORD}, tmp_path / "x.pt")
    assert CheckpointRecord.from_bundle(read_bundle(tmp_path / "x.pt")) is None


@pytest.mark.parametrize(
    ("spec", "without"),
    [
        ("faces", "faces"),
        ("faces,size=64,seed=1", "faces,size=64,seed=1"),
        ("folder:/data/x", "folder"),
        ("folder:C:/data,x,size=3", "folder,size=3"),
        ("mnist:/a=b/c,rotation=30", "mnist,rotation=30"),
        ("npz:a:b", "npz"),
    ],
)
def test_the_path_is_removed_from_a_spec(spec: str, without: str) -> None:
    assert without_path(spec) == without


def test_infinite_settings_and_undefined_terms_survive(tmp_path: Path) -> None:
    record = CheckpointRecord("tiny", {"clip": float("inf")}, training={"loss": float("inf")})
    write_bundle(tmp_path / "x.pt", {"w": torch.ones(1)}, {"model": record.as_plain()})
    assert CheckpointRecord.from_bundle(read_bundle(tmp_path / "x.pt")) == record
