"""``demo``: a complete evaluation of the checkpoint that ships with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.measuring import SOME_FAILED, document_of, draw, ended_shown, plan_shown
from ccvae_eval.cli.options import Device, Force, Json, Quiet, claim_folder, free_folder
from ccvae_eval.core.files import atomic_write, make_folder, require_folder
from ccvae_eval.training import TrainingSettings

ASSET = "ccvae-faces64.pt"
OUT = Path("runs/demo")
OUT_HELP = f"Folder for the checkpoint and the results; default: {OUT}, or {OUT}-2 if it exists, and so on."
DEMO_IMAGES = 104
"""The fewest images for which every class of Hair_Color has the 20 images that metrics need."""
DEMO_OPTIONS = {"diversity": {"draws": 5}, "reconstruction": {"importance": 8}}
"""Settings with which the demonstration decodes at most 20,000 images."""
NEXT = """Next, with your own checkpoint and images:
  ccvae-eval run YOUR.pt --data 'folder:PATH,regions=celeba'
Regions (celeba, celebahq or a folder of masks) show where a label may change an image: ccvae-eval explain folder."""
QUICK = TrainingSettings(minutes=3.0, epochs=50, batch=64, learning_rate=1e-3, save_minutes=0)
QUICK_DATA = "faces,n=20000"


def command(
    out: Annotated[Path | None, typer.Option("--out", "-o", help=OUT_HELP)] = None,
    force: Force = False,
    train: Annotated[bool, typer.Option("--train", help="Train a small checkpoint first, about 4 minutes.")] = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate the shipped checkpoint and suggest the next command."""
    claim_folder(out, force=force)
    out = out or free_folder(OUT)
    require_folder(out)
    from ccvae_eval.api import evaluate
    from ccvae_eval.evaluation.metric import default_metrics
    from ccvae_eval.evaluation.storage import write
    from ccvae_eval.report import terminal
    from ccvae_eval.report.views import check_lines

    with Screen(as_json=json, quiet=quiet) as screen:
        checkpoint = _trained(out, screen) if train else _shipped(out)
        run = evaluate(
            checkpoint, None, default_metrics(), sample=DEMO_IMAGES, options=DEMO_OPTIONS, device=device,
            command="ccvae-eval demo", notice=screen.notice, stage=screen.stage, on_plan=plan_shown(screen),
            working=screen.progress.working, ended=ended_shown(screen),
        )  # fmt: skip
        run = write(run, out)
        screen.show(terminal.header(run), "", terminal.summary(run), "", *terminal.sentences(run), *check_lines(run))
        screen.written(out, [checkpoint.name, *draw(run, out, figures=True, page=True)])
        screen.advise(NEXT)
        if json:
            screen.document(document_of(run))
    if run.failed:
        raise SystemExit(SOME_FAILED)


def _shipped(out: Path) -> Path:
    """Copies the package's checkpoint into the output folder."""
    make_folder(out)
    with as_file(files("ccvae_eval") / "assets" / ASSET) as asset:
        atomic_write(out / ASSET, asset.read_bytes())
    return out / ASSET


def _trained(out: Path, screen: Screen) -> Path:
    """Trains a small checkpoint on the data set ``faces``."""
    from ccvae_eval.checkpoint import save_checkpoint
    from ccvae_eval.data.spec import open_data
    from ccvae_eval.recipes.work import follow
    from ccvae_eval.training import fit, prepare, record

    make_folder(out)
    data = open_data(QUICK_DATA)
    model, supervision = prepare("ccvae", {}, data, QUICK)
    last = follow(fit(model, data, QUICK), screen.stage)
    screen.notice(f"trained {last.step:,} steps in {last.seconds:.0f} s")
    path = out / "ccvae-quick.pt"
    made: Any = model
    save_checkpoint(path, made, name="ccvae", data=data, training=record(made, data, QUICK, supervision, last))
    return path
