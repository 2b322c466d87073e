"""``export``: the codes of images, for other tools."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import assignments, sample_of
from ccvae_eval.core.errors import UsageError
from ccvae_eval.plugins import registry
from ccvae_eval.report.text import escaped


def command(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write: .npz.")],
    data: Annotated[str | None, typer.Option("--data", "-d", help="Labelled images.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="Rename or join labels.")] = None,
    split: Annotated[Literal["train", "judge", "test"], typer.Option("--split", help="Which images.")] = "test",
    sample: Annotated[str, typer.Option("--sample", help="How many images, or 'all'.")] = "all",
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.", min=0)] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    model: Annotated[str | None, typer.Option("--model", help="The model or adapter to build.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A setting of the model: KEY=VALUE.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file to register first.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the codes and labels of images, for other tools.

    An .npz with the arrays codes and scale (N, D), labels (N, L), names, columns (which label a column belongs to, "" =
    style), ids and kinds. Any tool reads it, and this one does in the place of a checkpoint.
    """
    import numpy as np

    from ccvae_eval.api import data_of, load
    from ccvae_eval.core.devices import device_named
    from ccvae_eval.core.files import atomic_write
    from ccvae_eval.data.labels.relabel import relabelled
    from ccvae_eval.data.sampling import sample_ids
    from ccvae_eval.evaluation.subject import prepare

    for file in plugin or []:
        registry.add_plugin_file(file)
    if out.suffix != ".npz":
        raise UsageError("codes go into an .npz", where=str(out))
    opened = load(checkpoint, model=model, settings=assignments(set, "--set"))
    images = data_of(data, opened)
    network: Any = opened.model
    images = relabelled(images, label) if label else images
    count = sample_of(sample)
    ids = sample_ids(images, split, sample=None if count in (None, "all") else int(str(count)), seed=seed)
    with Screen(as_json=json) as screen:
        found = prepare(
            network,
            images,
            ids,
            seed=seed,
            device=device_named(device),
            progress=lambda done, total: screen.stage("encode", done, total),
        )
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
        told = f"{len(found):,} codes of {found.layout.dim} columns, {len(found.schema)} labels, written to {out}"
        screen.show(escaped(told))
        if found.assigned:
            screen.notice("columns were assigned to labels on the other half of the images, which are not in the file")
        if json:
            screen.document({"out": str(out), "n": len(found), "dim": found.layout.dim, "assigned": found.assigned})
