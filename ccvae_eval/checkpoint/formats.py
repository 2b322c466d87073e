"""The toolkit's own checkpoint format: tensors and plain metadata, in a ``torch.save`` or safetensors container.

A file holds a dictionary of tensors and an *envelope*: versions of the format and of the tool, the tensors stored as
float16, and the metadata. In safetensors, which has no checksum, a digest covers names, types, shapes, bytes and
envelope; in a zip archive each member has its CRC.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccvae_eval.checkpoint.reader import StoredTensor
from ccvae_eval.core import VERSION
from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.typed import Limits, load_json
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
TOOL = VERSION
KEY, TENSORS = "ccvae_eval", "tensors"
SEAL = "ccvae-eval"
"""First word of the single metadata entry in a safetensors header, before the digest and the envelope. There is one
entry because the library does not order several; the word identifies the file even if the key is damaged."""
SUFFIXES = (".pt", ".pth", ".safetensors")
MALFORMED = "is a malformed ccvae-eval checkpoint"
HALVED = ("float32", "float64")
LARGEST_HALF = 65504.0
LIMITS = Limits(size=16 << 20, finite=False)
"""Of the envelope in a safetensors header; settings may be infinite."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Format version and tool version of a checkpoint that this toolkit wrote."""

    format_version: int
    tool: str


Unpacked = tuple[dict[str, StoredTensor], dict[str, Plain], Envelope]


def write_bundle(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Plain], *, half: bool = False
) -> None:
    """Writes tensors and plain metadata atomically; ``read_bundle`` returns the same content.

    Args:
        path: ends in ``.pt`` or ``.safetensors``, which selects the format.
        tensors: tensors by name, on any device and with any strides; written contiguous.
        metadata: JSON-like data.
        half: store float32 and float64 tensors as float16 if all values fit; reading restores the type, with about
            three significant digits.

    Raises:
        UsageError: another suffix.
        InputError: the file cannot be written.
    """
    import safetensors.torch
    import torch

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError("the name of a checkpoint must end in .pt or .safetensors", where=str(path))
    dense = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    types = {name: _type_name(tensor) for name, tensor in dense.items() if half and _fits_half(tensor)}
    dense |= {name: dense[name].half() for name in types}
    envelope = {
        "format_version": FORMAT_VERSION,
        "tool": TOOL,
        "halved": types,
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
    return _type_name(tensor) in HALVED and not bool((tensor.abs() > LARGEST_HALF).any())


def _type_name(tensor: Tensor | StoredTensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _content_bytes(tensor: Tensor | StoredTensor) -> Any:
    """The bytes of a tensor in memory, or of one in a safetensors file, where each tensor has a storage of its own."""
    if isinstance(tensor, StoredTensor):
        return tensor.stored_bytes
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def digest(tensors: Mapping[str, Tensor] | Mapping[str, StoredTensor], envelope: str) -> str:
    """Returns a hexadecimal digest of the tensors (names, types, shapes, bytes) and the envelope."""
    whole = blake2b(envelope.encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(json.dumps([name, f"torch.{_type_name(tensor)}", list(tensor.shape)]).encode())
        whole.update(_content_bytes(tensor))
    return whole.hexdigest()


def open_pt(records: Any, where: str) -> Unpacked | None:
    """Unpacks a ``torch.save`` file of this toolkit; None for any other file."""
    if not isinstance(records, dict) or records.keys() != {KEY, TENSORS}:
        return None
    tensors = records[TENSORS]
    if not isinstance(tensors, dict) or not all(
        isinstance(t, StoredTensor) and isinstance(n, str) for n, t in tensors.items()
    ):
        raise CheckpointError(MALFORMED, where=where, why=f"{TENSORS!r} is not a dictionary of tensors")
    return _unpack(tensors, records[KEY], where)


def open_safetensors(
    tensors: dict[str, StoredTensor], metadata: dict[str, str], where: str
) -> tuple[dict[str, StoredTensor], dict[str, Plain], Envelope | None]:
    """Unpacks a safetensors file; verifies the digest if this toolkit wrote it, else returns no envelope."""
    if KEY not in metadata and not any(text.startswith(SEAL) for text in metadata.values()):
        return tensors, dict(metadata), None
    seal, _, rest = metadata.get(KEY, "").partition(" ")
    stated, _, text = rest.partition(" ")
    if seal != SEAL or stated != digest(tensors, text):
        raise CheckpointError(
            "is damaged", where=where, why="its digest does not match its content", hint="Copy or download it again."
        )
    envelope = load_json(text.encode(), f"{where}: its envelope", limits=LIMITS, error=CheckpointError)
    return _unpack(tensors, envelope, where)


def _unpack(tensors: dict[str, StoredTensor], envelope: Any, where: str) -> Unpacked:
    table = envelope if isinstance(envelope, dict) else {}
    number, tool = table.get("format_version"), table.get("tool")
    metadata: Any = table.get("metadata")
    halved: Any = table.get("halved")
    if type(number) is int and number > FORMAT_VERSION:
        raise CheckpointError(
            f"was written by a newer version of this toolkit ({str(tool)[:40]})",
            where=where,
            why=f"format {number}; ccvae-eval {TOOL} reads up to format {FORMAT_VERSION}",
            hint="Update ccvae-eval, or write the checkpoint with this version.",
        )
    fits = isinstance(halved, dict) and all(n in tensors and t in HALVED for n, t in halved.items())
    if type(number) is not int or not isinstance(tool, str) or not isinstance(metadata, dict) or not fits:
        raise CheckpointError(MALFORMED, where=where, why="its envelope is malformed")
    restored = {name: replace(t, restored=halved[name]) if name in halved else t for name, t in tensors.items()}
    return restored, metadata, Envelope(number, tool)
