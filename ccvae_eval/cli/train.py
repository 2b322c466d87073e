"""``train``: train a model, or the judge, on labelled images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ccvae_eval import training
from ccvae_eval.cli import options
from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.cli.options import OUTPUT, Json, Labels, Plugin, Quiet, add_plugins, option_in
from ccvae_eval.core.errors import StopRequest, UsageError, suggestion
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped, figure
from ccvae_eval.training import TrainingSettings

if TYPE_CHECKING:
    from ccvae_eval.checkpoint import Opened
    from ccvae_eval.data.interface import DataSet

JUDGE = "judge"
DATA_HELP = "Labelled images: faces, folder:PATH, mnist:PATH, ..."
Document = dict[str, Any]
OPTION_OF = {"rate": "--supervision", "batch": "--batch-size"}
"""Options that are not named after their setting."""
SETTINGS = options.setting_options(TrainingSettings, "Training", names=OPTION_OF)
OF_MODELS = frozenset(field.name for field in fields(TrainingSettings)) - {"labels", "seed"}
"""Settings that the training of the judge does not use."""
SHOWN = ("loss", "reconstruction", "accuracy")
"""Suffixes of the terms that are printed during training; history.csv has all terms."""
ENDED = {"epochs": "", "steps": "", "stopped": "", "minutes": ", the time limit", "patience": ", no lower loss since"}
"""Why a training ended, unless it was complete."""
ROWS = 20
"""Validations that are printed, besides the first, the best and the last one; history.csv has all."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of ``train`` besides the training settings: data, files and device."""

    data: Annotated[str, typer.Option("--data", "-d", help=DATA_HELP, autocompletion=options.registered("data"))]
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint file: .pt or .safetensors.")] = Path("ckpt.pt")
    force: options.Overwrite = False
    label: Labels = None
    set: Annotated[list[str] | None, typer.Option(help="A setting of the model: KEY=VALUE.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted training.")] = False
    init_from: Annotated[Path | None, typer.Option(help="Initialise from this checkpoint's tensors that fit.")] = None
    half: Annotated[bool, option_in(OUTPUT, "Write the weights as float16.", "--half")] = False
    device: options.Device = "auto"
    quiet: Quiet = False
    json: Json = False
    plugin: Plugin = None


MODEL = typer.Argument(
    help="A registered model, or 'judge'.", show_default=False, autocompletion=options.registered("models", JUDGE)
)


def command(model: Annotated[str, MODEL], **given: Any) -> None:
    """Train a model, or the judge, on labelled images.

    The folder OUT.training beside the checkpoint OUT holds history.csv with every term of the objective, its curves
    (history.png), and the training state that --resume continues from.
    """
    from ccvae_eval.checkpoint import open_checkpoint
    from ccvae_eval.data.spec import open_data

    settings = _settings(options.field_values(given, [p.name for p in SETTINGS]))
    chosen = TrainOptions(**given)
    add_plugins(chosen.plugin)
    if model != JUDGE and model not in registry.models:
        raise UsageError(f"{model!r} is not a registered model", hint=suggestion(model, [*registry.models, JUDGE]))
    if chosen.out.suffix not in (".pt", ".pth", ".safetensors"):
        raise UsageError("the checkpoint file must end in .pt or .safetensors", where=str(chosen.out))
    options.require_new(chosen.out, force=chosen.force or chosen.resume)
    if model == JUDGE:
        _require_judge_options(settings, chosen)
    options.require_inputs(chosen.data)
    options.assignments(chosen.set, "--set")
    initial = None if model == JUDGE or chosen.init_from is None else open_checkpoint(chosen.init_from)
    data = open_data(chosen.data, chosen.label or ())
    # these import torch, which a refusal does not need
    from ccvae_eval.data.interface import HasRegions
    from ccvae_eval.data.labels.relabel import remarks
    from ccvae_eval.model.interface import supports

    with Screen(as_json=chosen.json, quiet=chosen.quiet) as screen:
        for text in remarks(data, settings.labels or None):
            screen.notice(text)
        screen.advise(_splits(data))
        if model == JUDGE:
            document, inputs = _train_judge(data, settings, chosen, screen), f"CKPT --judge {chosen.out}"
        else:
            document, inputs = _train(model, data, settings, chosen, screen, initial), str(chosen.out)
        screen.advise(f"Next: ccvae-eval run {inputs} --data {quote(chosen.data)}")
        if chosen.data.startswith("folder:") and not supports(data, HasRegions):
            screen.advise("Regions show where a label may change an image (regions=): ccvae-eval explain regions")
        if chosen.json:
            screen.document(document)


def _settings(given: dict[str, Any]) -> TrainingSettings:
    """The training settings; an error names the option instead of the setting."""
    try:
        return TrainingSettings(**given)
    except UsageError as error:
        name, _, rest = error.what.partition(" ")
        names = {f.name: _option(f.name) for f in fields(TrainingSettings)}
        hint = re.sub(r"^(\w+)=", lambda found: f"{names.get(found[1], found[1])} ", error.hint)
        raise UsageError(f"{names.get(name, name)} {rest}", why=error.why, hint=hint) from None


def _option(name: str) -> str:
    """The option of a setting."""
    return OPTION_OF.get(name, f"--{name.replace('_', '-')}")


def _require_judge_options(settings: TrainingSettings, chosen: TrainOptions) -> None:
    """Refuses options that the training of the judge does not use.

    Raises:
        UsageError: at least one is given; names all of them.
    """
    given = [
        _option(field.name)
        for part, unused in ((settings, OF_MODELS), (chosen, ("set", "resume", "init_from", "half", "device")))
        for field in fields(part)
        if field.name in unused and getattr(part, field.name) not in (field.default, "cpu")
    ]
    if given:
        hint = "The judge is trained on the CPU, with fixed settings. Use --data, --labels, --rename and --seed."
        raise UsageError(f"train judge does not use {', '.join(given)}", hint=hint)


def _splits(data: DataSet) -> str:
    """The sizes of the splits of a data set, in one line."""
    from ccvae_eval.data.interface import SPLITS

    sizes = [
        f"{name} {len(ids):,} ({len(ids) / max(len(data), 1):.0%})" for name in SPLITS if len(ids := data.split(name))
    ]
    return f"{len(data):,} images in splits: {', '.join(sizes)}"


def _train_judge(data: DataSet, settings: TrainingSettings, chosen: TrainOptions, screen: Screen) -> Document:
    from ccvae_eval.judge import train_judge

    labels = list(settings.labels) or None
    judge = train_judge(data, seed=settings.seed, labels=labels, progress=lambda d, t: screen.stage("judge", d, t))
    judge.save(chosen.out)
    document = judge.as_plain()
    continuous = " (continuous: rank correlation)" if judge.moments else ""
    table = FittedTable("label", f"balanced accuracy{continuous}")
    for name, accuracy in document["accuracy"].items():
        table.add_row(escaped(name), figure(accuracy))
    screen.show(table)
    return {"judge": document, "out": str(chosen.out)}


def _train(
    name: str, data: DataSet, settings: TrainingSettings, chosen: TrainOptions, screen: Screen, initial: Opened | None
) -> Document:
    from ccvae_eval.checkpoint import save_checkpoint
    from ccvae_eval.core.devices import device_named
    from ccvae_eval.report.figures import draw_history

    device, out = device_named(chosen.device), chosen.out
    model, supervision = training.prepare(name, options.assignments(chosen.set, "--set"), data, settings)
    if initial is not None:
        taken = training.take_weights(model, initial.model.state_dict())
        if not taken:
            raise UsageError("no tensor of this checkpoint fits the model", where=str(chosen.init_from))
        screen.notice(f"{taken} of {len(model.state_dict())} tensors initialised from {chosen.init_from}")
    folder = out.with_name(out.name + ".training")
    with stop_requests() as stopped:
        events = training.fit(
            model, data, settings, folder=folder, resume=chosen.resume, force=chosen.force, device=device,
            stop=lambda: bool(stopped),
        )  # fmt: skip
        last = _follow(events, screen)
    if (folder / training.HISTORY).is_file():
        draw_history((folder / training.HISTORY).read_text(encoding="utf-8"), folder / "history.png")
    if stopped:
        screen.notice(f"stopped; continue with --resume (the training state is in {out}.training)")
        raise StopRequest(stopped[0])
    saved: Any = model
    history = training.record(saved, data, settings, supervision, last)
    save_checkpoint(out, saved, name=name, data=data, training=history, half=chosen.half)
    screen.show(escaped(f"{name}: {last.step:,} steps in {last.seconds:.0f} s{ENDED[last.reason]}; written to {out}"))
    return {"model": name, "out": str(out), "steps": last.step, "seconds": last.seconds, "reason": last.reason}


def _follow(events: Iterator[training.Event], screen: Screen) -> training.Finished:
    """Shows the progress of a training: a progress bar and, unless quiet, about ``ROWS`` validations.

    Without a validation the rows are of epochs, or of the last one.
    """
    total, begun, due = 0, 0, 0
    best, last, epoch = "", "", ""
    shown = {""}
    kind: type[training.Epoch | training.Validation] = training.Epoch
    for event in events:
        if isinstance(event, training.Started):
            total, begun = event.steps, event.step
            kind = training.Validation if event.validation else training.Epoch
            screen.advise(
                f"split train: {event.images:,} training images, {event.labelled:,} of them labelled, and "
                f"{event.validation:,} validation images; {total:,} steps"
                + (f", {begun:,} of them done already" if begun else "")
            )
        elif isinstance(event, training.Step):
            loss = next((figure(v) for name, v in event.terms.items() if name.endswith("loss")), "")
            screen.stage("train", event.step, total, f"loss {loss}" if loss else "")
        elif isinstance(event, training.Epoch) and not isinstance(event, kind):
            epoch = _row(event)
        elif isinstance(event, kind) and not screen.quiet:
            last = _row(event)
            if isinstance(event, training.Validation) and event.improved:
                best = last
            part = ROWS * (event.step - begun) // max(total - begun, 1)
            if part >= due:
                due = part + 1
                shown.add(last)
                screen.show(Text(last))
        elif isinstance(event, training.Saved):
            screen.notice(f"state saved at step {event.step:,}")
        elif isinstance(event, training.Finished):
            rows = (best, last) if last or screen.quiet else (epoch,)
            screen.show(*(Text(row) for row in dict.fromkeys(rows) if row not in shown))
            return event
    raise AssertionError("a training must end with Finished")


def _row(event: training.Epoch | training.Validation) -> str:
    """Epoch and step, and the terms in ``SHOWN``."""
    start, mark = f"epoch {event.epoch + 1:4d}  step {event.step:7,d}", ""
    if isinstance(event, training.Validation):
        start, mark = f"{start}  validation", "  (best so far)" * event.improved
    shown = {name: value for name, value in event.terms.items() if name.endswith(SHOWN) and not math.isnan(value)}
    return start + "".join(f"  {name} {figure(value)}" for name, value in shown.items()) + mark


options.add_options(command, [*options.options_of(TrainOptions), *SETTINGS])
