"""``calibrate``: the response of each metric value to perturbations of a model whose true values are known."""

from __future__ import annotations

import json as json_of
import sys
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.api import load
from ccvae_eval.calibration import CALIBRATED_METRICS, SAMPLE, STEPS
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
    add_plugins,
    metric_options,
)
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.data.spec import data_for, open_data

SOME_DID_NOT_PASS = 1


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=EVALUATION, **more)


METRICS = Annotated[
    list[str] | None,
    typer.Argument(help="The metrics to calibrate; default: all built-in metrics.", show_default=False),
]
CHECKPOINT = Annotated[
    Path | None,
    _option(
        "Perturb this model instead of the reference model, with the perturbations that need no renderer.",
        "--checkpoint",
    ),
]
DATA = Annotated[
    str | None, _option("Labelled images; default: faces, or the checkpoint's training data.", "--data", "-d")
]
DIAL = Annotated[list[str] | None, _option("Apply only this perturbation; repeatable.", "--dial")]
CHARACTERISTIC = Annotated[
    list[str] | None, _option("Perturb only this characteristic; repeatable.", "--characteristic", "-c")
]
IMAGES = Annotated[
    int, _option("Images for metrics that decode; metrics that do not get 24 times as many.", "--sample", min=1)
]
DIAL_STEPS = Annotated[int, _option("Strengths of each perturbation that a value is tested on.", "--steps", min=2)]
OWN = Annotated[
    bool,
    _option("Measure each value only under the perturbations it is tested on, not under all others.", "--own"),
]


def command(
    metrics: METRICS = None,
    checkpoint: CHECKPOINT = None,
    data: DATA = None,
    dial: DIAL = None,
    characteristic: CHARACTERISTIC = None,
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
    """Check that each value responds as it should to perturbations of known strength.

    Exit code 1 if a value fails the test on one of its own perturbations. Finished measurements are kept in the
    output folder; repeat the command to resume an interrupted calibration.
    """
    from ccvae_eval.calibration.study import calibrator
    from ccvae_eval.report import calibration as report

    add_plugins(plugin)
    chosen = list(metrics or CALIBRATED_METRICS)
    settings = metric_options(option)
    for name in settings:
        if name not in chosen:
            raise UsageError(
                f"an option is set for metric {name!r}, which is not calibrated", hint=", ".join(sorted(chosen))
            )
    with Screen(as_json=json, quiet=quiet) as screen:
        more: dict[str, Any] = {}
        spec = data or "faces"
        if checkpoint is not None:
            opened = load(checkpoint)
            spec = data_for(data, opened.record.data_spec if opened.record else None)
            more = {"model": opened.model, "model_name": f"{opened.name} {opened.bundle.sha256[:8]}"}
        folder = out or Path("ccvae-eval") / f"calibration-{_digest(spec, more.get('model_name', ''), seed)}"
        prepared = calibrator(
            chosen, open_data(spec), options=settings, judge=judge, cache_dir=cache_dir, notice=screen.notice,
            dials=dial, characteristics=characteristic, sample=sample, steps=steps, seed=seed, foreign=not own,
            folder=folder / "cells", **more,
        )  # fmt: skip
        plan = prepared.plan()
        done = f" ({plan.cells - plan.missing} already measured)" if plan.missing < plan.cells else ""
        screen.notice(
            f"plan: {plan.cells} perturbed models{done}, {plan.decode:,} images to decode, "
            f"about {max(plan.seconds / 60, 1):.0f} min on one idle core"
        )
        found = prepared.measure(lambda done, total: screen.stage("calibrate", done, total))
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "calibration.json", json_of.dumps(found.as_plain(), indent=1, allow_nan=False).encode())
        atomic_write(folder / "calibration.md", report.page(found, _command_line(chosen)).encode())
        report.draw(found, folder / "curves.png")
        screen.show(report.table(found), "", report.summary(found))
        screen.advise(f"\nWritten to {folder}: calibration.json, calibration.md, curves.png")
        if json:
            screen.document(found.as_plain())
    if found.failed:
        raise SystemExit(SOME_DID_NOT_PASS)


def _command_line(metrics: list[str]) -> str:
    """The command line as given, without --out."""
    if sys.argv[1:2] != ["calibrate"]:
        return " ".join(["ccvae-eval calibrate", *metrics])
    words = sys.argv[1:]
    for flag in ("--out", "-o"):
        if flag in words:
            index = words.index(flag)
            words = words[:index] + words[index + 2 :]
    return " ".join(["ccvae-eval", *words])


def _digest(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:8]
