"""``export``: write the codes and labels of images to an .npz, or a run as the model-index of a model card."""

from __future__ import annotations

import io
import json as jsonlib
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import (
    Device,
    Json,
    Labels,
    ModelName,
    ModelSetting,
    Overwrite,
    Plugin,
    add_plugins,
    assignments,
    registered,
    require_inputs,
    require_new,
    sample_of,
)
from ccvae_eval.core.errors import UsageError
from ccvae_eval.rendering.text import escaped


def command(
    source: Annotated[
        list[str], typer.Argument(help="The checkpoint; or 'hf' and a run.", metavar="CHECKPOINT | hf RUN")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write: .npz for codes; default for hf: stdout.")
    ] = None,
    force: Overwrite = False,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Labelled images.", autocompletion=registered("data"))
    ] = None,
    label: Labels = None,
    split: Annotated[Literal["train", "judge", "test"], typer.Option(help="Split to encode.")] = "test",
    sample: Annotated[str, typer.Option(help="Number of images, or 'all'.")] = "all",
    seed: Annotated[int, typer.Option(help="Random seed of the sample.", min=0)] = 0,
    device: Device = "auto",
    model: ModelName = None,
    set: ModelSetting = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Export the codes and labels of images for other tools.

    The .npz has the arrays codes (posterior means) and scale (posterior standard deviations), both (N, D), labels
    (N, L), names and kinds of the labels, columns (the label of each latent dimension, "" for style) and ids. The
    evaluating commands accept it in place of a checkpoint.

    export hf RUN prints the values of a run as the model-index of a model card on Hugging Face (JSON, which is YAML).
    """
    if source[0] == "hf" and len(source) == 2:
        require_new(out, force=force)
        _export_model_index(source[1], out)
        return
    if len(source) > 1:
        raise UsageError(
            f"one checkpoint is exported, got {len(source)}", hint="ccvae-eval export hf RUN exports a run."
        )
    if out is None or out.suffix != ".npz":
        raise UsageError("the output file must end in .npz", where=str(out or "--out"))
    require_new(out, force=force)
    from ccvae_eval.checkpoint import open_checkpoint

    add_plugins(plugin)
    count = sample_of(sample)
    require_inputs(data)
    opened = open_checkpoint(source[0], model=model, settings=assignments(set, "--set"))

    import numpy as np

    from ccvae_eval.api import data_of
    from ccvae_eval.core.devices import device_named
    from ccvae_eval.core.files import atomic_write
    from ccvae_eval.data.labels.relabel import relabelled
    from ccvae_eval.data.splits import sample_ids
    from ccvae_eval.evaluation.subject import prepare

    images = data_of(data, opened)
    network: Any = opened.model
    images = relabelled(images, label) if label else images
    ids = sample_ids(images, split, sample=None if count in (None, "all") else int(str(count)), seed=seed)
    with Screen(as_json=json) as screen:
        progress = partial(screen.stage, "encode")
        found = prepare(network, images, ids, seed=seed, device=device_named(device), progress=progress)
        owners = {column: name for name, columns in found.layout.characteristics.items() for column in columns}
        stream = io.BytesIO()
        np.savez(
            stream,
            codes=found.posterior.loc.numpy(),
            scale=found.posterior.scale.numpy(),
            labels=found.labels.numpy(),
            ids=found.ids,
            names=np.array(found.schema.names, dtype=str),
            kinds=np.array([item.kind for item in found.schema], dtype=str),
            columns=np.array([owners.get(column, "") for column in range(found.layout.dim)], dtype=str),
        )
        atomic_write(out, stream.getvalue())
        text = f"{len(found):,} codes with {found.layout.dim} latent dimensions and {len(found.schema)} labels"
        screen.show(escaped(f"{text}, written to {out}"))
        if found.assigned:
            screen.notice(
                "latent dimensions were assigned to labels on the half of the images that the file leaves out"
            )
        if json:
            screen.document({"out": str(out), "n": len(found), "dim": found.layout.dim, "assigned": found.assigned})


def _export_model_index(run: str, out: Path | None) -> None:
    """Writes the model-index of a run."""
    from ccvae_eval.core.files import atomic_write
    from ccvae_eval.evaluation.storage import read
    from ccvae_eval.report.paper import model_index

    text = jsonlib.dumps(model_index(read(run)), indent=1, allow_nan=False) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        atomic_write(out, text.encode())
