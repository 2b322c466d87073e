"""``calibrate``: the response of each metric value to perturbations of a model whose true values are known."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.calibration import CALIBRATED_METRICS, SAMPLE, STEPS
from ccvae_eval.cli import options
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import EVALUATION, Json, Out, Plugin, Quiet, Seed, Setting, option_in
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.files import atomic_write, make_folder
from ccvae_eval.plugins import registry

SOME_DID_NOT_PASS = 1
METRICS_HELP = "The metrics to calibrate; default: all built-in metrics."
CHECKPOINT_HELP = "Perturb this model instead of the reference model, with the perturbations that need no renderer."
DATA_HELP = "Labelled images; default: faces, or the checkpoint's training data."
SAMPLE_HELP = "Images for metrics that decode; metrics that do not get 24 times as many."
STEPS_HELP = "Strengths of each perturbation that a value is tested on."
OWN_HELP = "Measure each value only under the perturbations it is tested on, not under all others."


def command(
    metrics: Annotated[
        list[str] | None,
        typer.Argument(help=METRICS_HELP, show_default=False, autocompletion=options.registered("metrics")),
    ] = None,
    checkpoint: Annotated[Path | None, option_in(EVALUATION, CHECKPOINT_HELP)] = None,
    data: Annotated[
        str | None, option_in(EVALUATION, DATA_HELP, "--data", "-d", autocompletion=options.registered("data"))
    ] = None,
    dial: Annotated[list[str] | None, option_in(EVALUATION, "Apply only this perturbation; repeatable.")] = None,
    characteristic: Annotated[
        list[str] | None,
        option_in(EVALUATION, "Perturb only this characteristic; repeatable.", "--characteristic", "-c"),
    ] = None,
    sample: Annotated[int, option_in(EVALUATION, SAMPLE_HELP, min=1)] = SAMPLE,
    steps: Annotated[int, option_in(EVALUATION, STEPS_HELP, min=2)] = STEPS,
    own: Annotated[bool, option_in(EVALUATION, OWN_HELP, "--own")] = False,
    seed: Seed = 0,
    judge: options.JudgeChoice = "auto",
    option: Setting = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Check that each value responds as it should to perturbations of known strength.

    Exit code 1 if a value fails the test on one of its own perturbations. Finished measurements are kept in the
    output folder; repeat the command to resume an interrupted calibration.
    """
    from ccvae_eval.checkpoint import open_checkpoint
    from ccvae_eval.data.spec import data_for, open_data

    options.add_plugins(plugin)
    chosen = list(metrics or CALIBRATED_METRICS)
    settings = options.metric_options(option)
    for name in settings:
        if name not in chosen:
            hint = f"Calibrated metrics: {', '.join(sorted(chosen))}"
            raise UsageError(f"an option is set for metric {name!r}, which is not calibrated", hint=hint)
    for name in chosen:
        registry.metrics.find(name)
    options.require_inputs(data, judge)
    options.claim_folder(out, force=True)
    with Screen(as_json=json, quiet=quiet) as screen:
        more: dict[str, Any] = {}
        spec = data or "faces"
        if checkpoint is not None:
            opened = open_checkpoint(checkpoint)
            spec = data_for(data, opened.record.data_spec if opened.record else None)
            more = {"model": opened.model, "model_name": f"{opened.name} {opened.bundle.sha256[:8]}"}
        from ccvae_eval.calibration.study import calibrate
        from ccvae_eval.report import calibration as report

        folder = out or options.default_folder("calibration", spec, more.get("model_name", ""), seed)
        found = calibrate(
            chosen, open_data(spec), options=settings, judge=judge, cache_dir=cache_dir, notice=screen.notice,
            dials=dial, characteristics=characteristic, sample=sample, steps=steps, seed=seed, foreign=not own,
            folder=folder / "cells", progress=lambda done, total: screen.stage("calibrate", done, total),
            on_plan=lambda plan: screen.notice(f"plan: {report.plan_line(plan)}"), **more,
        )  # fmt: skip
        make_folder(folder)
        atomic_write(folder / "calibration.json", jsonlib.dumps(found.as_plain(), indent=1, allow_nan=False).encode())
        atomic_write(folder / "calibration.md", report.page(found, options.command_line("--out")).encode())
        report.draw(found, folder / "curves.png")
        screen.show(report.table(found), "", report.summary(found))
        screen.advise(f"\nWritten to {folder}: calibration.json, calibration.md, curves.png")
        if json:
            screen.document(found.as_plain())
    if found.failed:
        raise SystemExit(SOME_DID_NOT_PASS)
