"""``table``: a table of runs for a paper, and the methods paragraph for its appendix."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ccvae_eval.cli.compare import GROUP_HELP, groups_of, run_places
from ccvae_eval.cli.options import OUTPUT, Overwrite, option_in, require_new
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.rendering.text import plain

if TYPE_CHECKING:  # imports torch, which help does not need
    from collections.abc import Iterable, Mapping, Sequence

    from ccvae_eval.comparison.compare import Comparison
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
    from ccvae_eval.comparison.summary import BOLD, adjustment, families
    from ccvae_eval.core.files import atomic_write
    from ccvae_eval.report import paper

    if sum((latex, markdown, csv, methods)) > 1:
        raise UsageError("--latex, --markdown, --csv and --methods exclude each other")
    require_new(out, force=force)
    models = _models(runs or [], group or [], by_group=bool(group) or rows == "group")
    addresses = [part for text in values or () for part in text.split(",") if part] or None
    different = _differences(models)
    found = different or _compared(models, addresses)
    comparable = not different
    if isinstance(found, str):
        unit = family = ""
        notes = [f"not compared: {found}"] if found else []
        sys.stderr.writelines(f"{plain(note, keep_newlines=False)}\n" for note in notes)
    else:
        unit, family, notes = found.unit, families(found), list(found.notes)
        if not methods:
            notes = [BOLD, adjustment(found), *notes]
    if methods:
        notes += paper.table_notes(models, addresses, comparable=comparable)
        text = paper.methods(models, compared=unit, family=family, notes=notes)
    else:
        characteristics = rows == "characteristic"
        table = paper.paper_table(
            models, addresses, by_characteristic=characteristics, comparable=comparable, best=_best(found, models),
            notes=notes,
        )  # fmt: skip
        text = paper.latex(table, digits) if latex else paper.as_csv(table) if csv else paper.markdown(table, digits)
    if out is None:
        sys.stdout.write(text)
    else:
        atomic_write(out, text.encode())


def _models(places: Sequence[str], groups: Sequence[str], *, by_group: bool) -> dict[str, list[Run]]:
    """The runs of each row, by its name."""
    from ccvae_eval.comparison.comparable import name_of, require_seeds
    from ccvae_eval.evaluation.storage import read

    if bool(places) == bool(groups):
        raise UsageError("give either runs or groups", hint="ccvae-eval table RUN ..., or --group NAME=PATTERN")
    if groups:
        return groups_of(groups)
    found: list[tuple[str, Run]] = []
    for place in places:
        inside = run_places(place)
        if not inside:
            raise InputError("no run found", where=place, hint="Give a run.json, or a folder that contains one.")
        found += [(run, read(run)) for run in inside]
    rows: dict[str, list[tuple[str, Run]]] = {}
    for place, run in found:
        name = str(run.header.checkpoint.get("model")) if by_group else Path(name_of(run)).stem
        rows.setdefault(name, []).append((place, run))
    if not by_group and len(rows) < len(found):  # checkpoints with the same file name
        return {f"{name_of(run)}, run {k}": [run] for k, (_, run) in enumerate(found, 1)}
    for name, own in rows.items():
        require_seeds(name, own)
    return {name: [run for _, run in own] for name, own in rows.items()}


def _differences(models: Mapping[str, Sequence[Run]]) -> str:
    """Why the numbers of the models are not comparable; "" if they are.

    Raises:
        UsageError: the runs of one group are not comparable, so that they have no mean.
    """
    from ccvae_eval.comparison.comparable import name_of, require_comparable

    for name, (first, *others) in models.items():
        for run in others:
            require_comparable(first, run, f"{name} ({name_of(first)})", f"{name} ({name_of(run)})")
    try:
        for (one, a), (other, b) in combinations(models.items(), 2):
            require_comparable(a[0], b[0], one, other)
    except UsageError as error:
        return f"{error.what} ({error.why})"
    return ""


def _compared(models: Mapping[str, list[Run]], values: Sequence[str] | None) -> Comparison | str:
    """The comparison of the models; the reason if there is none, "" for a single model."""
    from ccvae_eval.comparison.compare import compare

    if len(models) < 2:
        return ""
    seeds = any(len(own) > 1 for own in models.values())
    try:
        return compare(models, values=values) if seeds else compare(*(own[0] for own in models.values()), values=values)
    except UsageError as error:
        return f"{error.what}{f' ({error.why})' if error.why else ''}"


def _best(found: Comparison | str, models: Iterable[str]) -> Best | None:
    """The model that is significantly better than every other one, by address; None without a comparison."""
    if isinstance(found, str):
        return None
    names = dict(zip(found.models, models, strict=True))
    return lambda address: names.get(found.best(address) or "")
