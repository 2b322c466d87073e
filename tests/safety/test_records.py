"""Checkpoints of this toolkit with a hostile record: each is read or refused, and every refusal names the key."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from ccvae_eval.checkpoint import open_checkpoint, read_bundle, reader
from ccvae_eval.checkpoint.formats import KEY, SEAL, TENSORS, digest
from ccvae_eval.checkpoint.matches import inspect_checkpoint
from ccvae_eval.checkpoint.safe_reader.source import Source
from ccvae_eval.checkpoint.safe_reader.summary import describe_or_refuse
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError
from ccvae_eval.core.typed import plain
from tests.support.attacks import safe

SHIPPED = Path(str(files("ccvae_eval") / "assets" / "ccvae-faces64.pt"))
VALUES: tuple[Any, ...] = (
    None, True, -1, 1.5, math.inf, math.nan, 1 << 100, "", "ccvae", [], ["x"], [[]], {}, {"a": []}, {1: 2}, b"x",
)  # fmt: skip


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the reader in this process, which is faster for hundreds of files."""

    def describe(descriptor: int, path: Path) -> dict[str, Any]:
        found = json.loads(json.dumps(describe_or_refuse(Source(descriptor))))
        assert "refused" not in found, found
        assert isinstance(found, dict)
        return found

    monkeypatch.setattr(reader, "describe", describe)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*place, key))
    elif isinstance(value, list):
        for index, part in enumerate(value[:2]):
            yield from places(part, (*place, index))


def changed(value: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    whole = copy.deepcopy(value)
    owner = whole
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = wrong
    return whole


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_record_with_any_value_in_any_place_is_read_or_refused(tmp_path: Path) -> None:
    bundle, path = read_bundle(SHIPPED), tmp_path / "x.pt"
    envelope = {"format_version": 1, "tool": "0.1.0", "halved": {}, "metadata": dict(bundle.metadata)}
    tensors = {name: tensor for name, tensor in bundle.tensors.items() if tensor.numel() < 1000}
    refused: list[CcvaeEvalError] = []
    for number, place in enumerate(places(envelope)):
        wrong = [torch.ones(1), *VALUES][number % (len(VALUES) + 1)]
        torch.save({KEY: changed(envelope, place, wrong), TENSORS: tensors}, path)
        try:
            json.dumps(plain(inspect_checkpoint(path)), allow_nan=False)
            open_checkpoint(path)
        except CcvaeEvalError as error:
            refused.append(error)
    assert {error.exit_code for error in refused} == {3}
    assert len(refused) > 20


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (("model",), [], "model record: must be an object, got a list"),
        (("model", "name"), 3, "model record: name must be a string, got 3"),
        (("model", "training"), 1, "model record: training must be an object, got 1"),
        (("model", "context", "input_shape"), ["x"], "context.input_shape[0] must be an integer, got 'x'"),
        (("model", "context", "labels"), {"a": 1}, "model record: context.labels must be a list, got an object"),
        (("model", "context", "labels", 0, "kind"), 1.5, "model record: context.labels[0].kind must be"),
    ],
)
def test_the_key_of_a_malformed_record_is_named(
    place: tuple[Any, ...], wrong: Any, message: str, tmp_path: Path
) -> None:
    metadata = changed(dict(read_bundle(SHIPPED).metadata), place, wrong)
    envelope = {"format_version": 1, "tool": "0.1.0", "halved": {}, "metadata": metadata}
    torch.save({KEY: envelope, TENSORS: {}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as refused:
        inspect_checkpoint(tmp_path / "x.pt")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ("[" * 500 + "]" * 500, "nested more than 32 levels"),
        ('{"a": ' + "9" * 10_000 + "}", "is not valid JSON"),
        ('{"a": ' + "9" * 100 + "}", "at most 128 bits"),
        ('{"a": 1, "a": 2}', "occurs twice"),
        ("[" + "1," * 300_000 + "1]", "too many entries"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_hostile_envelope_with_the_right_digest_is_refused(envelope: str, message: str, tmp_path: Path) -> None:
    """In safetensors the envelope is a text, whose digest anybody can compute."""
    header = {"__metadata__": {KEY: f"{SEAL} {digest({}, envelope)} {envelope}"}}
    (tmp_path / "x.safetensors").write_bytes(safe(header))
    with pytest.raises(CheckpointError) as refused:
        read_bundle(tmp_path / "x.safetensors")
    assert message in str(refused.value)
    assert "envelope" in str(refused.value)
