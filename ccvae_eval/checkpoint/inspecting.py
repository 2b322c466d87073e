"""What a checkpoint holds, for somebody who wants to know before using it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ccvae_eval.checkpoint.adapting import read_any, surest_adapter
from ccvae_eval.checkpoint.beside import beside
from ccvae_eval.checkpoint.bundle import Bundle, Record
from ccvae_eval.checkpoint.candidates import candidates
from ccvae_eval.checkpoint.record import CheckpointRecord
from ccvae_eval.pixels import Pixels
from ccvae_eval.types import Plain


def inspect_checkpoint(path: str | Path, settings: Mapping[str, Plain] | None = None) -> dict[str, Plain]:
    """Everything that a checkpoint says, as plain data; executes nothing in it and needs no model to be installed.

    Args:
        path: the file, or a folder of files that are one model.
        settings: of the model that may answer, over those in a TOML file beside the checkpoint.

    Returns:
        ``path``, ``format``, ``size`` in bytes, ``sha256``, ``written_by``, ``model`` (what it seems to be, or None),
        ``parameters``, ``candidates`` (which adapters and models could answer, how well they fit and what is missing),
        ``globals``, ``notes``, ``metadata`` and ``tensors``, each with key, shape and type.

    Raises:
        CheckpointError: the file is refused.
    """
    bundle = read_any(path)
    _, arguments = Pixels.of({**beside(bundle.path).settings, **(settings or {})})
    return {
        "path": str(bundle.path),
        "format": bundle.format,
        "size": bundle.size,
        "sha256": bundle.sha256,
        "written_by": f"ccvae-eval {bundle.envelope.tool}" if bundle.envelope else None,
        "model": _guess(bundle),
        "parameters": bundle.parameter_count,
        "candidates": [c.as_plain() for c in candidates(bundle, arguments)],
        "globals": list(bundle.globals),
        "notes": list(bundle.notes),
        "metadata": dict(bundle.metadata),
        "tensors": [
            {"key": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in bundle.tensors.items()
        ],
    }


def _guess(bundle: Bundle) -> str | None:
    """The model that it names, the class that was pickled, or the adapter that knows it."""
    record = CheckpointRecord.from_bundle(bundle)
    if record is not None:
        return record.name
    known = surest_adapter(bundle)[0]
    if known is None and isinstance(bundle.records, Record):
        return bundle.records.class_name
    return known
