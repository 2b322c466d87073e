"""``train``: train a model, or the judge, on labelled images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from rich.text import Text

from ccvae_eval.checkpoint import open_checkpoint, save_checkpoint
from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.cli.options import (
    OUTPUT,
    Json,
    Labels,
    Plugin,
    Quiet,
    add_plugins,
    annotated_parameters,
    assignments,
    field_parameters,
    field_values,
    set_parameters,
)
from ccvae_eval.core.devices import device_named
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import relabelled
from ccvae_eval.data.spec import open_data
from ccvae_eval.judge import train_judge
from ccvae_eval.plugins import registry
from ccvae_eval.report.text import escaped, figure
from ccvae_eval.training import (
    HISTORY,
    Epoch,
    Event,
    Finished,
    Saved,
    Started,
    Step,
    TrainingSettings,
    Validation,
    fit,
    prepare,
    record,
    take_weights,
)

JUDGE = "judge"
TRAINING = "Training"
SHOWN = ("loss", "reconstruction", "accuracy")
"""Suffixes of the terms that are printed during training; history.csv has all terms."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of ``train`` besides the training settings: data, files and device."""

    data: Annotated[str, typer.Option("--data", "-d", help="Labelled images: faces, folder:PATH, mnist:PATH, ...")]
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write (.pt or .safetensors).")] = Path(
        "ckpt.pt"
    )
    label: Labels = None
    set: Annotated[list[str] | None, typer.Option("--set", help="A setting of the model: KEY=VALUE.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted training.")] = False
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Initialise from the tensors of this checkpoint that fit.")
    ] = None
    half: Annotated[bool, typer.Option("--half", help="Write the weights as float16.", rich_help_panel=OUTPUT)] = False
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    quiet: Quiet = False
    json: Json = False
    plugin: Plugin = None


MODEL = Annotated[str, typer.Argument(help="A registered model, or 'judge'.", show_default=False)]


def command(model: str, **given: Any) -> None:
    """Train a model, or the judge, on labelled images.

    The folder OUT.training beside the checkpoint OUT holds history.csv with every term of the objective, its curves
    (history.png), and the training state that --resume continues from.
    """
    settings = TrainingSettings(**field_values(given, [f.name for f in fields(TrainingSettings)]))
    options = TrainOptions(**given)
    add_plugins(options.plugin)
    if model != JUDGE and model not in registry.models:
        raise UsageError(f"{model!r} is not a registered model", hint=suggestion(model, [*registry.models, JUDGE]))
    if options.out.suffix not in (".pt", ".safetensors"):
        raise UsageError("the checkpoint file must end in .pt or .safetensors", where=str(options.out))
    data = open_data(options.data)
    if options.label:
        data = relabelled(data, options.label)
    with Screen(as_json=options.json, quiet=options.quiet) as screen:
        if model == JUDGE:
            document = _train_judge(data, settings, options, screen)
        else:
            document = _train(model, data, settings, options, screen)
        inputs = f"CKPT --judge {options.out}" if model == JUDGE else str(options.out)
        screen.advise(f"Next: ccvae-eval run {inputs} --data {quote(options.data)}")
        if options.json:
            screen.document(document)


def _train_judge(data: DataSet, settings: TrainingSettings, options: TrainOptions, screen: Screen) -> dict[str, Any]:
    labels = list(settings.labels) or None
    judge = train_judge(data, seed=settings.seed, labels=labels, progress=lambda d, t: screen.stage("judge", d, t))
    judge.save(options.out)
    document = judge.as_plain()
    table = Table("label", "balanced accuracy", box=None, padding=(0, 2), header_style="bold")
    for name, accuracy in document["accuracy"].items():
        table.add_row(escaped(name), figure(accuracy))
    screen.show(table)
    return {"judge": document, "out": str(options.out)}


def _train(
    name: str, data: DataSet, settings: TrainingSettings, options: TrainOptions, screen: Screen
) -> dict[str, Any]:
    device = device_named(options.device)
    model, supervision = prepare(name, assignments(options.set, "--set"), data, settings)
    if options.init_from is not None:
        _take_weights(model, options.init_from, screen)
    folder = options.out.with_name(options.out.name + ".training")
    with stop_requests() as stopped:
        events = fit(
            model,
            data,
            settings,
            folder=folder,
            resume=options.resume,
            device=device,
            stop=lambda: bool(stopped),
        )
        last = _follow(events, screen)
    _draw_curves(folder)
    if stopped:
        screen.notice(f"stopped; continue with --resume (the training state is in {options.out}.training)")
        raise SystemExit(128 + stopped[0])
    saved: Any = model
    history = record(saved, data, settings, supervision, last)
    save_checkpoint(options.out, saved, name=name, data=data, training=history, half=options.half)
    summary = f"{name}: {last.step:,} steps in {last.seconds:.0f} s ({last.reason}); written to {options.out}"
    screen.show(escaped(summary))
    return {"model": name, "out": str(options.out), "steps": last.step, "seconds": last.seconds, "reason": last.reason}


def _draw_curves(folder: Path) -> None:
    from ccvae_eval.report.figures import draw_history

    if (folder / HISTORY).is_file():
        draw_history((folder / HISTORY).read_text(encoding="utf-8"), folder / "history.png")


def _take_weights(model: torch.nn.Module, path: Path, screen: Screen) -> None:
    """Initialises the model from the tensors of a checkpoint that fit."""
    taken = take_weights(model, open_checkpoint(path).model.state_dict())
    if not taken:
        raise UsageError("no tensor of this checkpoint fits the model", where=str(path))
    screen.notice(f"{taken} of {len(model.state_dict())} tensors initialised from {path}")


def _follow(events: Iterator[Event], screen: Screen) -> Finished:
    """Shows the progress of a training: a row for each epoch and each validation, and a progress bar."""
    total, begun = 0, 0
    for event in events:
        if isinstance(event, Started):
            total, begun = event.steps, event.step
            screen.show(
                f"{event.images:,} training images, {event.labelled:,} of them labelled; {event.validation:,} "
                f"validation images; {total:,} steps" + (f", {begun:,} of them done already" if begun else "")
            )
        elif isinstance(event, Step):
            screen.stage("train", event.step, total)
        elif isinstance(event, Epoch):
            screen.show(Text(_terms(f"epoch {event.epoch + 1:4d}  step {event.step:7,d}", event.terms)))
        elif isinstance(event, Validation):
            mark = "  (best so far)" if event.improved else ""
            screen.show(Text(_terms("            validation   ", event.terms) + mark, style="dim"))
        elif isinstance(event, Saved):
            screen.notice(f"state saved at step {event.step:,}")
        else:
            return event
    raise AssertionError("a training must end with Finished")


def _terms(start: str, terms: Mapping[str, float]) -> str:
    """One row with the terms in ``SHOWN``."""
    shown = {name: value for name, value in terms.items() if name.endswith(SHOWN) and not math.isnan(value)}
    return start + "".join(f"  {name} {figure(value)}" for name, value in shown.items())


_PARAMETERS = [
    Parameter("model", Parameter.POSITIONAL_OR_KEYWORD, annotation=MODEL),
    *annotated_parameters(TrainOptions),
    *field_parameters(TrainingSettings, TRAINING),
]
set_parameters(command, _PARAMETERS)
