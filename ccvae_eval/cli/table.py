"""``table``: a table of runs for a paper, and the methods paragraph for its appendix."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ccvae_eval.cli.compare import GROUP_HELP, groups_of, run_places
from ccvae_eval.cli.options import OUTPUT, Overwrite, option_in, require_new
from ccvae_eval.core.errors import InputError, UsageError

if TYPE_CHECKING:  # imports torch, which help does not need
    from collections.abc import Mapping, Sequence

    from ccvae_eval.evaluation.run import Run
    from ccvae_eval.report.paper import Best

VALUES_HELP = "Values, metric.value[@characteristic], separated by commas; repeatable. Default: the headline values."
ROWS_HELP = "One row for each run, each group (a method, averaged over training seeds) or each characteristic."
DIGITS_HELP = "Digits after the decimal point; small values have this number of significant digits."


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs, or folders of runs.", show_default=False)] = None,
    group: Annotated[list[str] | None, typer.Option(help=GROUP_HELP)] = None,
    values: Annotated[list[str] | None, typer.Option(help=VALUES_HELP)] = None,
    rows: Annotated[Literal["run", "group", "characteristic"], typer.Option(help=ROWS_HELP)] = "run",
    digits: Annotated[int, typer.Option(help=DIGITS_HELP, min=0, max=10)] = 2,
    latex: Annotated[bool, option_in(OUTPUT, "Print LaTeX for the package booktabs.", "--latex")] = False,
    markdown: Annotated[bool, option_in(OUTPUT, "Print Markdown (default).", "--markdown")] = False,
    csv: Annotated[bool, option_in(OUTPUT, "Print CSV, one row for each number.", "--csv")] = False,
    methods: Annotated[bool, option_in(OUTPUT, "Print a methods paragraph for an appendix.", "--methods")] = False,
    out: Annotated[Path | None, option_in(OUTPUT, "File to write to instead of stdout.", "--out", "-o")] = None,
    force: Overwrite = False,
) -> None:
    """Write a table of runs for a paper: LaTeX, Markdown or CSV.

    Each number has its 95% confidence interval. A number is bold if its model is significantly better than every other
    one in the table (see ccvae-eval compare). Without --group, --rows group groups the runs by model name.
    """
    from ccvae_eval.core.files import atomic_write
    from ccvae_eval.report import paper

    if sum((latex, markdown, csv, methods)) > 1:
        raise UsageError("--latex, --markdown, --csv and --methods exclude each other")
    require_new(out, force=force)
    models = _models(runs or [], group or [], by_group=bool(group) or rows == "group")
    addresses = [part for text in values or () for part in text.split(",") if part] or None
    best, unit, notes = _comparison(models, addresses)
    if methods:
        text = paper.methods([run for own in models.values() for run in own], compared=unit)
    else:
        characteristics = rows == "characteristic"
        table = paper.paper_table(models, addresses, by_characteristic=characteristics, best=best, notes=notes)
        text = paper.latex(table, digits) if latex else paper.as_csv(table) if csv else paper.markdown(table, digits)
    if out is None:
        sys.stdout.write(text)
    else:
        atomic_write(out, text.encode())


def _models(places: Sequence[str], groups: Sequence[str], *, by_group: bool) -> dict[str, list[Run]]:
    """The runs of each row, by its name."""
    from ccvae_eval.comparison.compare import name_of
    from ccvae_eval.evaluation.storage import read

    if bool(places) == bool(groups):
        raise UsageError("give either runs or groups", hint="ccvae-eval table RUN ..., or --group NAME=PATTERN")
    if groups:
        return groups_of(groups)
    found = []
    for place in places:
        inside = run_places(place)
        if not inside:
            raise InputError("no run found", where=place, hint="Give a run.json, or a folder that contains one.")
        found += [read(run) for run in inside]
    models: dict[str, list[Run]] = {}
    for run in found:
        name = str(run.header.checkpoint.get("model")) if by_group else Path(name_of(run)).stem
        models.setdefault(name, []).append(run)
    if by_group or len(models) == len(found):
        return models
    # runs of checkpoints with the same file name
    return {f"{name_of(run)}, run {k}": [run] for k, run in enumerate(found, 1)}


def _comparison(models: Mapping[str, list[Run]], values: Sequence[str] | None) -> tuple[Best, str, list[str]]:
    """The best model at each address, the unit of the comparison ("" without one), and notes."""
    from ccvae_eval.comparison.compare import compare

    def nothing(_: object) -> None:
        return None

    if len(models) < 2:
        return nothing, "", []
    seeds = any(len(own) > 1 for own in models.values())
    try:
        found = (
            compare(models, values=values) if seeds else compare(*(own[0] for own in models.values()), values=values)
        )
    except UsageError as error:
        return nothing, "", [f"not compared: {error.what}{f' ({error.why})' if error.why else ''}"]
    names = dict(zip(found.models, models, strict=True))
    return (lambda address: names.get(found.best(address) or "")), found.unit, list(found.notes)
