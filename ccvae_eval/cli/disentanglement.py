"""``disentanglement``: published scores for one checkpoint, for several checkpoints (UDR), or for codes in a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.api import metric_named
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.measuring import advise_files, draw_and_write, measure, output_folder, prepare_setup, show
from ccvae_eval.cli.options import (
    EVALUATION,
    Common,
    annotated_parameters,
    field_parameters,
    field_values,
    metric_options,
    set_parameters,
)
from ccvae_eval.cli.verbs import VERBS
from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.metrics.disentanglement import Disentanglement
from ccvae_eval.metrics.disentanglement.arrays import compare_seeds, score_file

NAME = "disentanglement"
CHECKPOINTS = Annotated[
    list[str] | None,
    typer.Argument(
        help="The checkpoint to evaluate; with several: unsupervised disentanglement ranking (UDR) across them.",
        show_default=False,
    ),
]
CODES = Annotated[
    Path | None,
    typer.Option(
        "--codes", rich_help_panel=EVALUATION,
        help="Instead of a checkpoint: an .npz with codes (N, D), factors (N, K) and optionally train, test, names, "
        "kinds, blocks; or a CSV or parquet file of codes.",
    ),
]  # fmt: skip
FACTORS = Annotated[
    Path | None,
    typer.Option(
        "--factors", rich_help_panel=EVALUATION, help="With --codes FILE.csv or FILE.parquet: the file of the factors."
    ),
]
ALL = Annotated[bool, typer.Option("--all", rich_help_panel=f"Settings of {NAME}", help="Compute all scores.")]
SETTINGS = [p.name for p in field_parameters(Disentanglement, "") if p.name != "every"]
IMAGES_ONLY = ("data", "label", "characteristic", "sample", "limit", "model", "plugin")
"""Options that do not apply to a file of codes."""


def command(
    checkpoints: list[str] | None = None,
    codes: Path | None = None,
    factors: Path | None = None,
    every: bool = False,
    **given: Any,
) -> None:
    settings: dict[str, Any] = {**field_values(given, SETTINGS), "every": every}
    common = Common(**given)
    if every and settings["score"]:
        raise UsageError("--score and --all exclude each other")
    if codes is None and not checkpoints:
        raise UsageError("a checkpoint or --codes FILE is required", hint=f"Try: ccvae-eval {NAME} --help")
    options = metric_options(common.option)
    settings |= options.pop(NAME, {})
    if options:
        raise UsageError(
            f"an option is set for metric {next(iter(options))!r}, which is not evaluated",
            hint=f"Set options of {NAME} only.",
        )
    metric = metric_named(NAME, settings)
    assert isinstance(metric, Disentanglement)
    # no score needs the judge
    common = replace(common, judge="none", option=None)
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
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        command_line = " ".join(["ccvae-eval", *sys.argv[1:]])
        _finish(score_file(codes, factors, metric, seed=common.seed, command=command_line), screen, common)


def _compare(checkpoints: list[str], metric: Disentanglement, common: Common) -> None:
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        setups = [prepare_setup(checkpoint, [metric], common, screen) for checkpoint in checkpoints]
        _finish(compare_seeds(setups, metric), screen, common)


def _finish(run: Run, screen: Screen, common: Common) -> None:
    folder = output_folder(common.out, run)
    run, figure_count = draw_and_write(run, folder, figures=common.figures)
    show(run, screen, verbose=common.verbose)
    advise_files(folder, figure_count, screen)
    screen.advise(f"Next: ccvae-eval explain {NAME}")
    if common.json:
        screen.document(run.as_plain())


_PARAMETERS = [
    Parameter("checkpoints", Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=CHECKPOINTS),
    Parameter("codes", Parameter.KEYWORD_ONLY, default=None, annotation=CODES),
    Parameter("factors", Parameter.KEYWORD_ONLY, default=None, annotation=FACTORS),
    Parameter("every", Parameter.KEYWORD_ONLY, default=False, annotation=ALL),
    *field_parameters(Disentanglement, f"Settings of {NAME}", without=("every",)),
    *annotated_parameters(Common),
]
set_parameters(command, _PARAMETERS)
command.__doc__ = VERBS[NAME].summary + f"\n\nSee ccvae-eval explain {NAME} for the meaning of the numbers."
