"""``disentanglement``: published scores for one checkpoint, for several checkpoints (UDR), or for codes in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccvae_eval.cli import options
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.measuring import (
    evaluation_arguments,
    measure,
    metric_help,
    output_folder,
    publish,
    require_valid,
)
from ccvae_eval.cli.options import EVALUATION, Common, option_in
from ccvae_eval.core.errors import UsageError
from ccvae_eval.plugins import registry

if TYPE_CHECKING:
    from ccvae_eval.metrics.disentanglement import Disentanglement

NAME = "disentanglement"
PANEL = f"Settings of {NAME}"
CHECKPOINTS_HELP = "The checkpoint to evaluate; with several: unsupervised disentanglement ranking (UDR) across them."
CODES_HELP = (
    "Instead of a checkpoint: an .npz with codes (N, D), factors (N, K) and optionally train, test, names, kinds, "
    "blocks; the .npz of export; or a CSV or parquet file of codes."
)
FACTORS_HELP = "With --codes FILE.csv or FILE.parquet: the file of the factors."
SETTINGS = options.setting_options(registry.metrics[NAME], PANEL, without=("every",))
IMAGES_ONLY = ("data", "label", "characteristic", "by", "sample", "limit", "pad", "model", "plugin")
"""Options that do not apply to a file of codes."""


def command(
    checkpoints: Annotated[list[str] | None, typer.Argument(help=CHECKPOINTS_HELP, show_default=False)] = None,
    codes: Annotated[Path | None, option_in(EVALUATION, CODES_HELP)] = None,
    factors: Annotated[Path | None, option_in(EVALUATION, FACTORS_HELP)] = None,
    every: Annotated[bool, option_in(PANEL, "Compute all scores.", "--all")] = False,
    **given: Any,
) -> None:
    settings: dict[str, Any] = {**options.field_values(given, [p.name for p in SETTINGS]), "every": every}
    common = Common(**given)
    if every and settings["score"]:
        raise UsageError("--score and --all exclude each other")
    if codes is None and not checkpoints:
        raise UsageError("a checkpoint or --codes FILE is required", hint=f"Try: ccvae-eval {NAME} --help")
    overrides = options.metric_options(common.option)
    settings |= overrides.pop(NAME, {})
    for other in overrides:
        what = f"an option is set for metric {other!r}, which is not evaluated"
        raise UsageError(what, hint=f"Set options of {NAME} only.")
    from ccvae_eval.evaluation.metric import metric_named

    metric: Any = metric_named(NAME, settings)
    common = replace(common, judge="none", option=None)  # no score needs the judge
    if codes is not None:
        _score_file(codes, factors, checkpoints, metric, common)
    elif factors is not None:
        raise UsageError("--factors requires --codes")
    elif checkpoints and len(checkpoints) > 1:
        _compare(checkpoints, metric, common)
    elif checkpoints:
        measure(checkpoints[0], [NAME], common, {NAME: settings})


def _score_file(
    codes: Path, factors: Path | None, checkpoints: list[str] | None, metric: Disentanglement, common: Common
) -> None:
    conflicting = [*(checkpoints or []), *(f"--{name}" for name in IMAGES_ONLY if getattr(common, name) is not None)]
    if conflicting:
        raise UsageError(f"--codes cannot be combined with {', '.join(conflicting)}")
    from ccvae_eval.metrics.disentanglement.arrays import score_file

    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        run = score_file(codes, factors, metric, seed=common.seed, command=options.command_line("--out"))
        publish(run, output_folder(common.out, run), screen, common, f"ccvae-eval explain {NAME}")


def _compare(checkpoints: list[str], metric: Disentanglement, common: Common) -> None:
    require_valid(common)
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        arguments = [evaluation_arguments(path, [metric], common, screen) for path in checkpoints]
        from ccvae_eval.api import plan
        from ccvae_eval.metrics.disentanglement.arrays import compare_seeds

        plans = [plan(**each) for each in arguments]
        run = compare_seeds(plans, metric)
        publish(run, output_folder(common.out, run), screen, common, f"ccvae-eval explain {NAME}")


COMMON = [option for option in options.options_of(Common) if option.name not in options.SINGLE]
options.add_options(command, [*SETTINGS, *COMMON])
command.__doc__ = metric_help(NAME)
