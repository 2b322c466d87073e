"""``compare``: test which of two or more models is better, image by image or over training seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Column, Table

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import EVALUATION, OUTPUT, Common, add_options, option_in, options_of, registered
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.rendering.tables import FittedTable, bullets
from ccvae_eval.rendering.text import escaped

if TYPE_CHECKING:  # imports torch, which help does not need
    from ccvae_eval.comparison.compare import ComparedValue, Comparison
    from ccvae_eval.evaluation.run import Run

METRIC_HELP = "Compute only this metric for the checkpoints; repeatable."
METRIC = option_in(EVALUATION, METRIC_HELP, "--metric", "-m", autocompletion=registered("metrics"))
GROUP_HELP = "Method with several training seeds, NAME=PATTERN of run folders, such as ours='runs/ours-*'; repeatable."
VALUE_HELP = "Compare this value, metric.value\\[@characteristic], instead of the headline values; repeatable."
RUN_FILE, COMPARISON_FILE = "run.json", "comparison.json"
INTERVAL = "95% interval"
UNUSED = ("figures", "report", "out")
"""Options of an evaluation that a comparison does not have."""


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, folders of runs, or checkpoints. Checkpoints are evaluated first.", show_default=False
        ),
    ] = None,
    group: Annotated[list[str] | None, typer.Option(help=GROUP_HELP)] = None,
    value: Annotated[list[str] | None, typer.Option(help=VALUE_HELP)] = None,
    metric: Annotated[list[str] | None, METRIC] = None,
    out: Annotated[Path | None, option_in(OUTPUT, f"Folder to write {COMPARISON_FILE} to.", "--out", "-o")] = None,
    **given: Any,
) -> None:
    """Test which of two or more models is better, image by image or over training seeds.

    Differences are paired by image and have a 95 % confidence interval. P-values are adjusted for the number of
    headline values (Holm). The runs must have the same data, split, sample, seed, judge, regions and settings.
    """
    from ccvae_eval.comparison.compare import compare

    common = Common(**given)
    if bool(models) == bool(group):
        raise UsageError("give either models or groups", hint="ccvae-eval compare A B, or --group NAME=PATTERN twice")
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        if group:
            found = compare(groups_of(group), values=value, characteristics=common.characteristic)
        else:
            runs = _runs(models or [], metric, common, screen)
            found = compare(*runs, values=value, characteristics=common.characteristic)
        screen.show(comparison_table(found, verbose=common.verbose))
        if out is not None:
            _write(found, out)
            screen.advise(f"\nWritten to {out}: {COMPARISON_FILE}")
        if common.json:
            screen.document(found.as_plain())


def groups_of(given: Sequence[str]) -> dict[str, list[Run]]:
    """The runs of each ``NAME=PATTERN``."""
    from ccvae_eval.evaluation.storage import read

    groups: dict[str, list[Run]] = {}
    for text in given:
        name, equals, pattern = text.partition("=")
        if not equals or not name or not pattern:
            raise UsageError(f"--group must be NAME=PATTERN, got {text!r}", hint="ours='runs/ours-*'")
        if name in groups:
            raise UsageError(f"group {name!r} is given twice", where="--group")
        matches = sorted(glob(pattern))  # noqa: PTH207 - Path.glob refuses absolute patterns
        places = [run for place in matches for run in run_places(place)]
        if not places:
            raise InputError(f"no run matches the pattern of group {name!r}", where=pattern)
        groups[name] = [read(place) for place in places]
    return groups


def run_places(place: str) -> list[str]:
    """The runs at a path: a run.json, the folder of a run, or a folder of such folders; empty if there is none."""
    path = Path(place)
    if path.suffix == ".json" or (path / RUN_FILE).is_file():
        return [place]
    return [str(file.parent) for file in sorted(path.glob(f"*/{RUN_FILE}"))]


def _runs(models: Sequence[str], metrics: Sequence[str] | None, common: Common, screen: Screen) -> list[Run]:
    """The runs; checkpoints are evaluated first, all with the same options."""
    from ccvae_eval.evaluation.storage import read

    runs: list[Run] = []
    for model in models:
        places = run_places(model)
        runs += [read(place) for place in places] if places else [_evaluated(model, metrics, common, screen)]
    return runs


def _evaluated(checkpoint: str, metrics: Sequence[str] | None, common: Common, screen: Screen) -> Run:
    """Evaluates a checkpoint, and writes its run to the default folder."""
    from ccvae_eval.cli.measuring import draw_and_write, evaluation_arguments, output_folder
    from ccvae_eval.cli.options import metric_options
    from ccvae_eval.evaluation.metric import default_metrics

    screen.notice(f"evaluating {checkpoint}")
    arguments = evaluation_arguments(
        checkpoint, metrics or default_metrics(), common, screen, metric_options(common.option)
    )
    from ccvae_eval.api import evaluate

    run = evaluate(**arguments, gallery=common.page)
    folder = output_folder(None, run)
    run, _ = draw_and_write(run, folder, figures=False, page=common.page)
    screen.notice(f"written to {folder}")
    return run


def comparison_table(found: Comparison, *, verbose: bool = False) -> RenderableType:
    """The means, then the single characteristics that differ (all of them if ``verbose``), and how to read them.

    A narrow terminal leaves out the values of the models, then the p-value, then the difference, which is the middle
    of its interval.
    """
    legend = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    for label, what in found.models.items():
        legend.add_row(escaped(label), escaped(what))
    singles = [v for v in found.singles if verbose or v.higher or not found.means]
    tables = [_values(found, values) for values in (found.means, singles) if values]
    return Group(legend, "", *(part for table in tables for part in (table, "")), *bullets(_notes(found)))


def _values(found: Comparison, values: Sequence[ComparedValue]) -> Table:
    labels, pairs = list(found.models), len(found.models) > 2
    both = ("first", "second") if pairs else tuple(labels)
    difference = "difference" if pairs else f"{labels[0]} − {labels[1]}"
    table = FittedTable(spare=(both, "adjusted p", *((INTERVAL, difference) if pairs else (difference, INTERVAL))))
    for name in ("value", "models") if pairs else ("value",):
        table.add_column(name, overflow="fold")
    for name in (*both, difference, INTERVAL, "adjusted p"):
        table.add_column(escaped(name), justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for v in values:
        d, p = v.difference, v.adjusted_p
        names = [str(v.address), " − ".join(v.models)] if pairs else [str(v.address)]
        interval = "" if math.isnan(d.low) else f"[{_short(d.low, '+')}, {_short(d.high, '+')}]"
        adjusted = "" if math.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}"
        cells = (*names, _short(v.first), _short(v.second), _short(d.value, "+"), interval, adjusted, v.verdict)
        table.add_row(*map(escaped, cells), style="bold" if v.higher else "")
    return table


def _short(number: float, sign: str = "") -> str:
    """A number with three significant digits, a difference (with its sign) with two; a dash if undefined."""
    digits = 2 if sign else 3
    return "–" if math.isnan(number) else "0" if number == 0 else f"{number:{sign}.{digits}g}"


def _notes(found: Comparison) -> list[str]:
    """How to read the tables."""
    counts = sorted({v.difference.n for v in found.values if v.difference.n})
    n = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
    families = [f"{v[0].family} tests of {what}" for v, what in ((found.means, "means"), (found.singles, "single "
                "characteristics")) if v]  # fmt: skip
    notes = [
        f"unit: {found.unit} ({n}); the verdicts hold for {found.unit} like these",
        f"p-values are adjusted (Holm) among {' and among '.join(families)}; confidence intervals are not adjusted",
        "smallest detectable: the smallest difference that these tests find with a power of 80 %",
    ]
    if found.means and found.singles:
        differing = sum(v.higher is not None for v in found.singles)
        notes.append(f"{differing} single characteristics differ (--verbose shows all)")
    rows = dict.fromkeys(f"{v.address}: {v.note}" for v in found.means if v.note and not v.verdict.endswith(v.note))
    return [*notes, *rows, *found.notes]


def _write(found: Comparison, folder: Path) -> None:
    from ccvae_eval.core.files import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.as_plain(), indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write(folder / COMPARISON_FILE, text.encode())


add_options(command, [option for option in options_of(Common) if option.name not in UNUSED])
