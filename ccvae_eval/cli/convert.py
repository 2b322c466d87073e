"""``convert``: write a checkpoint in another format."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import (
    Json,
    ModelName,
    ModelSetting,
    Overwrite,
    Plugin,
    add_plugins,
    assignments,
    require_new,
)
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.rendering.text import escaped


def command(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint, in any supported format.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write: .pt or .safetensors.")],
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16.")] = False,
    bare: Annotated[bool, typer.Option("--bare", help="Write a plain state_dict, without metadata.")] = False,
    force: Overwrite = False,
    model: ModelName = None,
    set: ModelSetting = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint to another format.

    The new file records its model or adapter and its settings, so it opens without further options; --bare leaves
    them out, for other tools. Only tensors and plain settings are copied from the old file.
    """
    from ccvae_eval.checkpoint import CheckpointRecord, open_checkpoint, write_bundle
    from ccvae_eval.checkpoint.formats import SUFFIXES

    add_plugins(plugin)
    if out.suffix not in SUFFIXES:
        raise UsageError("the output file must end in .pt or .safetensors", where=str(out))
    if out.exists() and out.samefile(checkpoint):
        raise UsageError("--out names the input checkpoint itself", where=str(out), hint="Choose another file.")
    require_new(out, force=force)
    opened = open_checkpoint(checkpoint, model=model, settings=assignments(set, "--set"))
    tensors = opened.model.state_dict()
    with Screen(as_json=json) as screen:
        for note in opened.notes:
            screen.notice(note)
        if bare:
            _write_bare(out, tensors, half)
        else:
            record = replace(opened.record or CheckpointRecord(opened.name), name=opened.name)
            write_bundle(out, tensors, {"model": record.as_plain()}, half=half)
        screen.show(escaped(f"{opened.name}: {len(tensors)} tensors from {opened.bundle.format} to {out}"))
        if json:
            screen.document({"model": opened.name, "out": str(out), "tensors": len(tensors), "notes": [*opened.notes]})


def _write_bare(out: Path, tensors: dict[str, Any], half: bool) -> None:
    """Writes the tensors alone, dense and on the CPU."""
    import safetensors.torch
    import torch

    dense = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    if half:
        dense = {name: t.half() if t.is_floating_point() else t for name, t in dense.items()}
    if out.suffix == ".safetensors":
        atomic_write(out, safetensors.torch.save(dense))
        return
    stream = io.BytesIO()
    torch.save(dense, stream)
    atomic_write(out, stream.getvalue())
