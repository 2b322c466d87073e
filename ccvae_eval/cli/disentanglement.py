"""``disentanglement``: the panel of a checkpoint, of a file of codes and factors, or of several checkpoints."""

from __future__ import annotations

import sys
from dataclasses import replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from ccvae_eval.api import metric_named
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.measuring import draw_and_write, measure, output_folder, prepare_setup, show
from ccvae_eval.cli.options import (
    EVALUATION,
    Common,
    annotated_parameters,
    field_parameters,
    field_values,
    metric_options,
)
from ccvae_eval.cli.verbs import VERBS
from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.metrics.disentanglement import Disentanglement
from ccvae_eval.metrics.disentanglement.arrays import compare_seeds, score_file

NAME = "disentanglement"
CHECKPOINTS = Annotated[
    list[str] | None,
    typer.Argument(help="The checkpoint to measure; several: do they find the same codes (UDR)?", show_default=False),
]
CODES = Annotated[
    Path | None,
    typer.Option(
        "--codes", rich_help_panel=EVALUATION,
        help="Instead of a checkpoint: an .npz with codes (N, D), factors (N, K), optional train, test, names, kinds, "
        "blocks; or a CSV or parquet file.",
    ),
]  # fmt: skip
FACTORS = Annotated[
    Path | None,
    typer.Option(
        "--factors", rich_help_panel=EVALUATION, help="The factors of codes in a CSV or parquet file, as another such."
    ),
]
ALL = Annotated[bool, typer.Option("--all", rich_help_panel=f"Settings of {NAME}", help="All scores.")]
SETTINGS = [p.name for p in field_parameters(Disentanglement, "") if p.name != "every"]
IMAGES_ONLY = (
    "data", "label", "characteristic", "sample", "limit", "model", "plugin",
)  # fmt: skip


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
        raise UsageError("--score and --all do not go together")
    if codes is None and not checkpoints:
        raise UsageError("a checkpoint or --codes FILE is needed", hint=f"Try: ccvae-eval {NAME} --help")
    own = metric_options(common.option)
    settings |= own.pop(NAME, {})
    if own:
        raise UsageError(f"an option names {next(iter(own))!r}, which is not measured here", hint=NAME)
    metric = metric_named(NAME, settings)
    assert isinstance(metric, Disentanglement)
    # no value rests on a judge
    common = replace(common, judge="none", option=None)
    if codes is not None:
        _score_file(codes, factors, checkpoints, metric, common)
    elif factors is not None:
        raise UsageError("--factors goes with --codes")
    elif checkpoints and len(checkpoints) > 1:
        _compare(checkpoints, metric, common)
    elif checkpoints:
        measure(checkpoints[0], [NAME], common, {NAME: settings})


def _score_file(
    codes: Path, factors: Path | None, checkpoints: list[str] | None, metric: Disentanglement, common: Common
) -> None:
    useless = [f"--{name}" for name in IMAGES_ONLY if getattr(common, name) is not None]
    if checkpoints or useless:
        with_what = ", ".join([*(checkpoints or []), *useless])
        raise UsageError("--codes brings its own codes and factors", why=f"given besides: {with_what}")
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        asked = " ".join(["ccvae-eval", *sys.argv[1:]])
        run = score_file(codes, factors, metric, seed=common.seed, command=asked)
        _finish(run, screen, common)


def _compare(checkpoints: list[str], metric: Disentanglement, common: Common) -> None:
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        setups = [prepare_setup(checkpoint, [metric], common, screen) for checkpoint in checkpoints]
        _finish(compare_seeds(setups, metric), screen, common)


def _finish(run: Run, screen: Screen, common: Common) -> None:
    folder = output_folder(common.out, run)
    run, drawn = draw_and_write(run, folder, figures=common.figures)
    show(run, screen, verbose=common.verbose)
    screen.advise(f"\nWritten to {folder}: run.json, values.csv, evidence.npz" + (", figures/" if drawn else ""))
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
command.__signature__ = Signature(_PARAMETERS)  # type: ignore[attr-defined]
command.__annotations__ = {p.name: p.annotation for p in _PARAMETERS}
command.__doc__ = VERBS[NAME].summary + f"\n\nccvae-eval explain {NAME} says what the numbers mean."
