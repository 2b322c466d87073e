"""``calibrate``: what each value answers to, on models whose entanglement is known."""

from __future__ import annotations

import json as json_of
import sys
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.api import load
from ccvae_eval.calibration.defaults import EVERY, SAMPLE, STEPS
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import (
    EVALUATION,
    CacheDir,
    Json,
    JudgeChoice,
    Out,
    Plugin,
    Quiet,
    Seed,
    Setting,
    metric_options,
)
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.data.spec import data_for, open_data
from ccvae_eval.plugins import registry

DID_NOT_PASS = 1
METRICS = Annotated[
    list[str] | None,
    typer.Argument(help="Only these metrics; default: all of ours.", show_default=False),
]
CHECKPOINT = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="Spoil this model instead of the oracle: the dials that need no renderer.",
        rich_help_panel=EVALUATION,
    ),
]  # fmt: skip
DATA = Annotated[
    str | None,
    typer.Option("--data", "-d", help="Default: faces; with a checkpoint its own.", rich_help_panel=EVALUATION),
]
DIAL = Annotated[
    list[str] | None, typer.Option("--dial", help="Only this dial; repeatable.", rich_help_panel=EVALUATION)
]
CHOSEN = Annotated[
    list[str] | None,
    typer.Option("--characteristic", "-c", help="Only this characteristic; repeatable.", rich_help_panel=EVALUATION),
]
IMAGES = Annotated[
    int, typer.Option("--sample", help="Images for the metrics that decode; 24 times as many for the others.", min=1,
                      rich_help_panel=EVALUATION),
]  # fmt: skip
DIAL_STEPS = Annotated[
    int, typer.Option("--steps", help="Steps of a value's own dials.", min=2, rich_help_panel=EVALUATION)
]
OWN = Annotated[
    bool, typer.Option("--own", help="Only each value's own dials, not what else it sees.", rich_help_panel=EVALUATION)
]


def command(
    metrics: METRICS = None,
    checkpoint: CHECKPOINT = None,
    data: DATA = None,
    dial: DIAL = None,
    characteristic: CHOSEN = None,
    sample: IMAGES = SAMPLE,
    steps: DIAL_STEPS = STEPS,
    own: OWN = False,
    seed: Seed = 0,
    judge: JudgeChoice = "auto",
    option: Setting = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
    cache_dir: CacheDir = None,
) -> None:
    """Check that each value answers to what it should, on models whose entanglement is known.

    Exit code 1 if a value fails one of its own dials. What was measured is kept in the output folder: the same command
    goes on where an interrupted one stopped.
    """
    from ccvae_eval.calibration.study import calibrator
    from ccvae_eval.report import calibration as shown

    for file in plugin or []:
        registry.add_plugin_file(file)
    asked = list(metrics or EVERY)
    settings = metric_options(option)
    for name in settings:
        if name not in asked:
            raise UsageError(f"--option names {name!r}, which is not calibrated here", hint=", ".join(sorted(asked)))
    with Screen(as_json=json, quiet=quiet) as screen:
        more: dict[str, Any] = {}
        spec = data or "faces"
        if checkpoint is not None:
            opened = load(checkpoint)
            spec = data_for(data, opened.record.data_spec if opened.record else None)
            more = {"model": opened.model, "model_name": f"{opened.name} {opened.bundle.sha256[:8]}"}
        folder = out or Path("ccvae-eval") / f"calibration-{_digest(spec, more.get('model_name', ''), seed)}"
        prepared = calibrator(
            asked, open_data(spec), options=settings, judge=judge, cache_dir=cache_dir, notice=screen.notice,
            dials=dial, characteristics=characteristic, sample=sample, steps=steps, seed=seed, foreign=not own,
            folder=folder / "cells", **more,
        )  # fmt: skip
        plan = prepared.plan()
        kept = f" ({plan.cells - plan.missing} are kept)" if plan.missing < plan.cells else ""
        screen.notice(
            f"plan: {plan.cells} models{kept}, {plan.decode:,} images to decode, "
            f"about {max(plan.seconds / 60, 1):.0f} min on one idle core"
        )
        found = prepared.measure(lambda done, total: screen.stage("calibrate", done, total))
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "calibration.json", json_of.dumps(found.as_plain(), indent=1, allow_nan=False).encode())
        atomic_write(folder / "calibration.md", shown.page(found, _asked(asked)).encode())
        shown.draw(found, folder / "curves.png")
        screen.show(shown.table(found), "", shown.summary(found))
        screen.advise(f"\nWritten to {folder}: calibration.json, calibration.md, curves.png")
        if json:
            screen.document(found.as_plain())
    if found.failed:
        raise SystemExit(DID_NOT_PASS)


def _asked(metrics: list[str]) -> str:
    """The command that was given, without where it writes to."""
    if sys.argv[1:2] != ["calibrate"]:
        return " ".join(["ccvae-eval calibrate", *metrics])
    words = sys.argv[1:]
    for flag in ("--out", "-o"):
        if flag in words:
            place = words.index(flag)
            words = words[:place] + words[place + 2 :]
    return " ".join(["ccvae-eval", *words])


def _digest(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:8]
