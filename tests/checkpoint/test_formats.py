"""The toolkit's own checkpoint format: round trips, half precision, malformed and damaged files."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.checkpoint.formats import FORMAT_VERSION, digest
from ccvae_eval.core.errors import CheckpointError, InputError, UsageError

TENSORS = {
    "weight": torch.linspace(-2, 2, 30).reshape(5, 6),
    "double": torch.linspace(0, 1, 4, dtype=torch.float64),
    "steps": torch.tensor(12),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 3),
    "large": torch.tensor([1e6, -1.0]),
    "infinite": torch.tensor([float("inf")]),
    "unknown": torch.tensor([float("nan"), 1.0]),
}
METADATA = {"a": 1, "b": [1.5, None, True], "c": {"d": "é"}, "none": {}, "inf": float("inf")}
suffixes = pytest.mark.parametrize("suffix", [".pt", ".safetensors"])


@suffixes
def test_reading_restores_what_was_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    write_bundle(path, TENSORS, METADATA)
    bundle = read_bundle(path)
    assert bundle.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert bundle.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(bundle.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert bundle.metadata == METADATA
    assert bundle.envelope is not None
    assert bundle.envelope.format_version == FORMAT_VERSION


@suffixes
def test_the_same_content_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_bundle(tmp_path / f"{name}{suffix}", TENSORS, METADATA)
    assert (tmp_path / f"x{suffix}").read_bytes() == (tmp_path / f"y{suffix}").read_bytes()


@suffixes
def test_half_precision_is_used_where_values_fit(suffix: str, tmp_path: Path) -> None:
    whole, half = tmp_path / f"whole{suffix}", tmp_path / f"half{suffix}"
    weights = {**TENSORS, "wide": torch.linspace(-1, 1, 50_000)}
    write_bundle(whole, weights, {})
    write_bundle(half, weights, {}, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    restored = read_bundle(half).tensors
    for name, tensor in weights.items():
        assert restored[name].dtype == tensor.dtype
        exact = name in ("steps", "mask", "large", "infinite")  # integers, or too large for float16
        torch.testing.assert_close(
            restored[name], tensor, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-6, equal_nan=True
        )


@suffixes
def test_tensors_with_any_strides_and_shared_memory_are_written(suffix: str, tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {"base": base, "turned": base.t(), "part": base[1], "same": base}
    write_bundle(tmp_path / f"x{suffix}", tensors, {})
    for name, tensor in read_bundle(tmp_path / f"x{suffix}").tensors.items():
        assert torch.equal(tensor, tensors[name])
        assert not tensor.requires_grad


def test_torch_can_read_the_file(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.pt", {"w": torch.ones(2)}, {"a": 1})
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded["tensors"]["w"].tolist() == [1, 1]
    assert loaded["ccvae_eval"]["metadata"] == {"a": 1}


def test_another_suffix_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.pt or \.safetensors"):
        write_bundle(tmp_path / "x.bin", {}, {})


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(tmp_path / "absent" / "x.pt", {}, {})


def _pt(path: Path, envelope: Any, tensors: Any = None) -> Path:
    torch.save({"ccvae_eval": envelope, "tensors": tensors or {"w": torch.ones(1)}}, path)
    return path


GOOD = {"format_version": FORMAT_VERSION, "tool": "0.1.0", "halved": {}, "metadata": {}}


def test_the_refusal_of_a_newer_format_names_both_versions(tmp_path: Path) -> None:
    path = _pt(tmp_path / "x.pt", {"format_version": 9, "tool": "7.5.0", "something": "else"})
    with pytest.raises(
        CheckpointError, match=r"newer version.*7\.5\.0.*format 9; ccvae-eval 0\.1\.0 reads up to format 1"
    ):
        read_bundle(path)


@pytest.mark.parametrize(
    "envelope",
    [
        None,
        [],
        {},
        {**GOOD, "format_version": "1"},
        {**GOOD, "format_version": True},
        {**GOOD, "tool": 3},
        {**GOOD, "metadata": []},
        {**GOOD, "halved": ["w"]},
        {**GOOD, "halved": {"absent": "float32"}},
        {**GOOD, "halved": {"w": "int64"}},
        {**GOOD, "halved": {"w": ["float32"]}},
    ],
)
def test_a_malformed_envelope_is_refused(envelope: Any, tmp_path: Path) -> None:
    assert read_bundle(_pt(tmp_path / "good.pt", GOOD)).envelope is not None
    with pytest.raises(CheckpointError, match="envelope is malformed"):
        read_bundle(_pt(tmp_path / "x.pt", envelope))


def test_a_malformed_table_of_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a dictionary of tensors"):
        read_bundle(_pt(tmp_path / "x.pt", GOOD, {"w": 3}))


def _safetensors(path: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
    """A safetensors file of this toolkit with changed metadata in its header."""
    write_bundle(path, {"w": torch.ones(1)}, {"a": 1})
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    return path


DAMAGES: dict[str, Callable[[str], dict[str, str]]] = {
    "key": lambda text: {"ccvae_evam": text},
    "seal": lambda text: {"ccvae_eval": text.replace("ccvae-eval", "ccvae-evil")},
    "digest": lambda text: {"ccvae_eval": f"ccvae-eval {'0' * 64} {text.split(' ', 2)[2]}"},
    "metadata": lambda text: {"ccvae_eval": text.replace('"a": 1', '"a": 2')},
    "all": lambda _: {"ccvae_eval": ""},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_safetensors_envelope_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert read_bundle(_safetensors(path, lambda metadata: metadata)).metadata == {"a": 1}
    with pytest.raises(CheckpointError, match="digest does not match"):
        read_bundle(_safetensors(path, lambda metadata: DAMAGES[damage](metadata["ccvae_eval"])))


def test_an_envelope_with_a_valid_digest_and_invalid_json_is_refused(tmp_path: Path) -> None:
    sealed = {"ccvae_eval": f"ccvae-eval {digest({'w': torch.ones(1)}, '{')} {{"}
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_bundle(_safetensors(tmp_path / "x.safetensors", lambda _: sealed))


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.tensor([1.0, 2.0]).to(torch.float64)},
        {"v": torch.tensor([1.0, 2.0])},
        {"w": torch.tensor([[1.0, 2.0]])},
        {"w": torch.tensor([1.0, 2.5])},
        {"w": torch.tensor([1.0, 2.0]), "v": torch.empty(0)},
    ],
)
def test_the_digest_covers_names_types_shapes_and_values(other: dict[str, torch.Tensor]) -> None:
    one = {"w": torch.tensor([1.0, 2.0])}
    assert digest(one, "") == digest({"w": torch.tensor([1.0, 2.0])}, "")
    assert digest(one, "") != digest(other, "")
    assert digest(one, "") != digest(one, "{}")
