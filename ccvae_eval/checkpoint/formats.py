"""Our own checkpoints: tensors and plain metadata, in the container of ``torch.save`` or in safetensors.

Either is a dictionary of tensors with an *envelope* beside it: version of the format, version of the tool, which
tensors are stored as float16, and the metadata. In safetensors a digest covers names, types, shapes, bytes and
envelope (that format has no checksum); in a zip each member has its CRC.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.types import Plain

FORMAT_VERSION = 1
TOOL = version("ccvae-eval")
KEY, TENSORS = "ccvae_eval", "tensors"
SEAL = "ccvae-eval"
"""Begins our one text in a safetensors header, before the digest and the envelope: one text, because that library
writes several in any order; a word of its own, so that the file stays ours if its key is damaged."""
SUFFIXES = (".pt", ".safetensors")
HALVED = (torch.float32, torch.float64)
LARGEST_HALF = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who wrote a checkpoint of ours: version of the format and of the tool."""

    format_version: int
    tool: str


Opened = tuple[dict[str, Tensor], dict[str, Plain], Envelope]


def write_bundle(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Plain], *, half: bool = False
) -> None:
    """Writes tensors and plain metadata, whole or not at all; ``read_bundle`` gives the same back.

    Args:
        path: ends in ``.pt`` or ``.safetensors``, which is the format.
        tensors: by name, of any device and layout in memory; written dense.
        metadata: anything that JSON can say.
        half: store float32 and float64 as float16 where all values fit; they are read back in their own type, with
            about three significant digits.

    Raises:
        UsageError: another suffix.
        InputError: it cannot be written there.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError("a checkpoint ends in .pt or .safetensors", where=str(path))
    dense = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    types = {name: tensor.dtype for name, tensor in dense.items() if half and _fits_half(tensor)}
    dense |= {name: dense[name].half() for name in types}
    envelope = {
        "format_version": FORMAT_VERSION,
        "tool": TOOL,
        "halved": {name: str(dtype).removeprefix("torch.") for name, dtype in types.items()},
        "metadata": dict(metadata),
    }
    text = json.dumps(envelope)
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(dense, {KEY: f"{SEAL} {digest(dense, text)} {text}"})
    else:
        stream = io.BytesIO()
        torch.save({KEY: json.loads(text), TENSORS: dense}, stream)
        content = stream.getvalue()
    atomic_write(path, content)


def _fits_half(tensor: Tensor) -> bool:
    return tensor.dtype in HALVED and not bool((tensor.abs() > LARGEST_HALF).any())


def digest(tensors: Mapping[str, Tensor], envelope: str) -> str:
    """A hexadecimal digest of everything that a checkpoint of ours says."""
    whole = blake2b(envelope.encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def open_pt(records: Any, where: str) -> Opened | None:
    """Tensors and metadata of a file in the container of ``torch.save``; None if it is not ours."""
    if not isinstance(records, dict) or records.keys() != {KEY, TENSORS}:
        return None
    tensors = records[TENSORS]
    if not isinstance(tensors, dict) or not all(
        isinstance(t, Tensor) and isinstance(n, str) for n, t in tensors.items()
    ):
        raise CheckpointError("is not as this toolkit writes it", where=where, why="its tensors are no tensors by name")
    return _opened(tensors, records[KEY], where)


def open_safetensors(
    tensors: dict[str, Tensor], metadata: dict[str, str], where: str
) -> tuple[dict[str, Tensor], dict[str, Plain], Envelope | None]:
    """Tensors and metadata of a safetensors file; if it is one of ours, after comparing its digest."""
    if KEY not in metadata and not any(text.startswith(SEAL) for text in metadata.values()):
        return tensors, dict(metadata), None
    seal, _, rest = metadata.get(KEY, "").partition(" ")
    stated, _, text = rest.partition(" ")
    if seal != SEAL or stated != digest(tensors, text):
        raise CheckpointError("is damaged", where=where, why="its digest is wrong", hint="Copy it again.")
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError("is not as this toolkit writes it", where=where, why="its metadata are no JSON") from None
    return _opened(tensors, envelope, where)


def _opened(tensors: dict[str, Tensor], envelope: Any, where: str) -> Opened:
    found = envelope if isinstance(envelope, dict) else {}
    form, tool = found.get("format_version"), found.get("tool")
    metadata: Any = found.get("metadata")
    halved: Any = found.get("halved")
    if type(form) is int and form > FORMAT_VERSION:
        raise CheckpointError(
            f"was written by a newer version of this toolkit ({str(tool)[:40]})",
            where=where,
            why=f"format {form}; ccvae-eval {TOOL} reads up to format {FORMAT_VERSION}",
            hint="Update ccvae-eval, or write the checkpoint with the older version.",
        )
    types = {str(dtype).removeprefix("torch."): dtype for dtype in HALVED}
    fits = isinstance(halved, dict) and all(
        n in tensors and isinstance(t, str) and t in types for n, t in halved.items()
    )
    if type(form) is not int or not isinstance(tool, str) or not isinstance(metadata, dict) or not fits:
        raise CheckpointError("is not as this toolkit writes it", where=where, why="its envelope is malformed")
    restored = {name: t.to(types[halved[name]]) if name in halved else t for name, t in tensors.items()}
    return restored, metadata, Envelope(form, tool)
