"""``train``: a model, or the judge, from labelled images to a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from rich.text import Text

from ccvae_eval.checkpoint import open_checkpoint, save_checkpoint
from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.cli.options import (
    EXTENSION,
    LABEL_HELP,
    OUTPUT,
    annotated_parameters,
    assignments,
    field_parameters,
    field_values,
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
"""Endings of the terms that are shown while training goes on."""


@dataclass(frozen=True, slots=True)
class Place:
    """What to train on and where to write."""

    data: Annotated[str, typer.Option("--data", "-d", help="Labelled images: faces, folder:PATH, mnist:PATH, ...")]
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write (.pt or .safetensors).")] = Path(
        "ckpt.pt"
    )
    label: Annotated[list[str] | None, typer.Option("--label", help=LABEL_HELP)] = None
    set: Annotated[list[str] | None, typer.Option("--set", help="A setting of the model: KEY=VALUE.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training stopped.")] = False
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Start from the weights of this checkpoint, where they fit.")
    ] = None
    half: Annotated[bool, typer.Option("--half", help="Write the weights as float16.", rich_help_panel=OUTPUT)] = False
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=OUTPUT)] = False
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)] = False
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", help="A Python file of yours; it is run.", rich_help_panel=EXTENSION),
    ] = None


MODEL = Annotated[str, typer.Argument(help="A registered model, or 'judge'.", show_default=False)]


def command(model: str, **given: Any) -> None:
    """Train a model, or the judge, on labelled images.

    Beside the checkpoint OUT a folder OUT.training holds history.csv with every term of the objective, its curves
    (history.png), and the state from which --resume goes on.
    """
    settings = TrainingSettings(**field_values(given, [f.name for f in fields(TrainingSettings)]))
    place = Place(**given)
    for file in place.plugin or []:
        registry.add_plugin_file(file)
    if model != JUDGE and model not in registry.models:
        raise UsageError(f"model {model!r} is unknown", hint=suggestion(model, [*registry.models, JUDGE]))
    if place.out.suffix not in (".pt", ".safetensors"):
        raise UsageError("a checkpoint ends in .pt or .safetensors", where=str(place.out))
    data = open_data(place.data)
    if place.label:
        data = relabelled(data, place.label)
    with Screen(as_json=place.json, quiet=place.quiet) as screen:
        document = _train_judge(data, settings, place, screen) if model == JUDGE else _train(
            model, data, settings, place, screen
        )  # fmt: skip
        screen.advise(f"Next: ccvae-eval {'run' if model != JUDGE else 'run CKPT --judge'} {place.out}")
        if place.json:
            screen.document(document)


def _train_judge(data: DataSet, settings: TrainingSettings, place: Place, screen: Screen) -> dict[str, Any]:
    labels = list(settings.labels) or None
    judge = train_judge(data, seed=settings.seed, labels=labels, progress=lambda d, t: screen.stage("judge", d, t))
    judge.save(place.out)
    told = judge.as_plain()
    table = Table("label", "balanced accuracy", box=None, padding=(0, 2), header_style="bold")
    for name, share in told["accuracy"].items():
        table.add_row(escaped(name), figure(share))
    screen.show(table)
    return {"judge": told, "out": str(place.out)}


def _train(name: str, data: DataSet, settings: TrainingSettings, place: Place, screen: Screen) -> dict[str, Any]:
    device = device_named(place.device)
    model, supervision = prepare(name, assignments(place.set, "--set"), data, settings)
    if place.init_from is not None:
        _take_weights(model, place.init_from, screen)
    folder = place.out.with_name(place.out.name + ".training")
    with stop_requests() as stopped:
        events = fit(
            model,
            data,
            settings,
            folder=folder,
            resume=place.resume,
            device=device,
            stop=lambda: bool(stopped),
        )
        last = _follow(events, screen)
    _draw_curves(folder)
    if stopped:
        screen.notice(f"stopped; go on with: --resume (state in {place.out}.training)")
        raise SystemExit(128 + stopped[0])
    saved: Any = model
    told = record(saved, data, settings, supervision, last)
    save_checkpoint(place.out, saved, name=name, data=data, training=told, half=place.half)
    done = f"{name}: {last.step:,} steps in {last.seconds:.0f} s ({last.reason}); written to {place.out}"
    screen.show(escaped(done))
    return {"model": name, "out": str(place.out), "steps": last.step, "seconds": last.seconds, "reason": last.reason}


def _draw_curves(folder: Path) -> None:
    from ccvae_eval.report.figures import draw_history

    if (folder / HISTORY).is_file():
        draw_history((folder / HISTORY).read_text(encoding="utf-8"), folder / "history.png")


def _take_weights(model: torch.nn.Module, path: Path, screen: Screen) -> None:
    """Starts from the weights of a checkpoint, where they fit."""
    taken = take_weights(model, open_checkpoint(path).model.state_dict())
    if not taken:
        raise UsageError("no weight of this checkpoint fits the model", where=str(path))
    screen.notice(f"{taken} of {len(model.state_dict())} tensors taken from {path}")


def _follow(events: Iterator[Event], screen: Screen) -> Finished:
    """Shows a training as it goes: one row for each validation, a bar in between."""
    total, begun = 0, 0
    for event in events:
        if isinstance(event, Started):
            total, begun = event.steps, event.step
            screen.show(
                f"{event.images:,} images, {event.labelled:,} of them labelled, {event.validation:,} to validate; "
                f"{total:,} steps" + (f", {begun:,} done before" if begun else "")
            )
        elif isinstance(event, Step):
            screen.stage("train", event.step, total)
        elif isinstance(event, Epoch):
            screen.show(Text(_terms(f"epoch {event.epoch + 1:4d}  step {event.step:7,d}", event.terms)))
        elif isinstance(event, Validation):
            mark = " *" if event.improved else ""
            screen.show(Text(_terms("            held out     ", event.terms) + mark, style="dim"))
        elif isinstance(event, Saved):
            screen.notice(f"state saved at step {event.step:,}")
        else:
            return event
    raise AssertionError("a training ends with Finished")


def _terms(start: str, terms: Mapping[str, float]) -> str:
    """The terms that tell whether it learns; history.csv has all of them."""
    shown = {name: value for name, value in terms.items() if name.endswith(SHOWN) and not math.isnan(value)}
    return start + "".join(f"  {name} {figure(value)}" for name, value in shown.items())


_PARAMETERS = [
    Parameter("model", Parameter.POSITIONAL_OR_KEYWORD, annotation=MODEL),
    *annotated_parameters(Place),
    *field_parameters(TrainingSettings, TRAINING),
]
command.__signature__ = Signature(_PARAMETERS)  # type: ignore[attr-defined]
command.__annotations__ = {p.name: p.annotation for p in _PARAMETERS}
