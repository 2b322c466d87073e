"""``compare``: test which of two or more models is better, image by image or over training seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ccvae_eval.cli import options
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import (
    EVALUATION,
    OUTPUT,
    SINGLE,
    Common,
    add_options,
    command_line,
    option_in,
    options_of,
    registered,
)
from ccvae_eval.core.errors import InputError, UsageError, listed
from ccvae_eval.rendering.text import plain

if TYPE_CHECKING:  # imports torch, which help does not need
    from ccvae_eval.comparison.compare import Comparison
    from ccvae_eval.evaluation.run import Run

METRIC_HELP = "Compute only this metric for the checkpoints; repeatable."
METRIC = option_in(EVALUATION, METRIC_HELP, "--metric", "-m", autocompletion=registered("metrics"))
GROUP_HELP = "Method with several training seeds, NAME=PATTERN of run folders, such as ours='runs/ours-*'; repeatable."
VALUE_HELP = "Compare this value, metric.value[@characteristic], instead of the headline values; repeatable."
RUN_FILE, COMPARISON_FILE = "run.json", "comparison.json"
OUT = option_in(OUTPUT, f"Folder to write {COMPARISON_FILE} and comparison.html to.", "--out", "-o")
UNUSED = ("figures", "report", "out", *SINGLE)
"""Options of an evaluation that a comparison does not have."""


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, folders of runs, or checkpoints, which are evaluated first, as the first run was.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[list[str] | None, typer.Option(help=GROUP_HELP)] = None,
    value: Annotated[list[str] | None, typer.Option(help=VALUE_HELP)] = None,
    metric: Annotated[list[str] | None, METRIC] = None,
    out: Annotated[Path | None, OUT] = None,
    **given: Any,
) -> None:
    """Test which of two or more models is better, image by image or over training seeds.

    Differences are paired by image and have a 95% confidence interval. P-values are adjusted for the number of
    headline values (Holm). The runs must have the same data, split, sample, seed, judge, regions and settings.
    """
    from ccvae_eval.comparison.compare import compare
    from ccvae_eval.comparison.table import comparison_table

    common = Common(**given)
    if bool(models) == bool(group):
        raise UsageError("give either models or groups", hint="ccvae-eval compare A B, or --group NAME=PATTERN twice")
    if out is not None:
        for name in (COMPARISON_FILE, "comparison.html"):
            options.require_new(out / name, force=common.force)
    with Screen(as_json=common.json, quiet=common.quiet) as screen:
        pictures = out is not None and common.page
        chosen = {"values": value, "characteristics": common.characteristic}
        if group:
            runs = groups_of(group, pictures=pictures)
            found = compare(runs, **chosen)
        else:
            singles = _runs(models or [], metric, common, screen, pictures)
            found = compare(*singles, **chosen)
            runs = {label: [run] for label, run in zip(found.models, singles, strict=True)}
        screen.show(comparison_table(found, verbose=common.verbose))
        if (by := _by_of(runs)) and not value:
            screen.advise(f"\nBy class of {by}: --value METRIC.VALUE/by={by}:gap (or :worst, or :CLASS)")
        if out is not None:
            made = _write(found, runs, out, page=common.page)
            links = [(plain(str(file)), f"link {file.resolve().as_uri()}") for file in made]
            screen.advise(Text("\nWritten to ").append_text(Text(", ").join(Text.assemble(link) for link in links)))
        else:
            screen.advise(f"\nNext: {_following(models or [], runs)}")
        if common.json:
            screen.document(found.as_plain())


def _by_of(runs: Mapping[str, Sequence[Run]]) -> str | None:
    """The label by whose classes the runs have values; None = not all of them have."""
    labels = {run.header.data.get("by") for own in runs.values() for run in own}
    return str(next(iter(labels))) if len(labels) == 1 and None not in labels else None


def _following(models: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> str:
    """The same command with the remedies of what has no number, if it evaluates; else with a folder for the results."""
    from ccvae_eval.evaluation.remedies import combined_commands

    if not all(map(run_places, models)):
        measurements = [m for own in runs.values() for run in own for m in run]
        repeated = combined_commands(measurements, lambda given: f"{command_line(without=given)} {given}")
        if repeated and repeated[0].startswith("ccvae-eval compare"):
            return repeated[0]
    return f"{command_line()} --out comparison"


def groups_of(given: Sequence[str], *, pictures: bool = False) -> dict[str, list[Run]]:
    """The runs of each ``NAME=PATTERN``, with their pictures if asked for; a group has no checkpoint twice."""
    from ccvae_eval.comparison.comparable import require_seeds
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
        groups[name] = [read(place, pictures=pictures) for place in places]
        require_seeds(name, list(zip(places, groups[name], strict=True)))
    return groups


def run_places(place: str) -> list[str]:
    """The runs at a path: a run.json, the folder of a run, or a folder of such folders; empty if there is none."""
    path = Path(place)
    if path.suffix == ".json" or (path / RUN_FILE).is_file():
        return [place]
    return [str(file.parent) for file in sorted(path.glob(f"*/{RUN_FILE}"))]


def _runs(
    models: Sequence[str], metrics: Sequence[str] | None, common: Common, screen: Screen, pictures: bool
) -> list[Run]:
    """The runs; checkpoints are evaluated first, all with the same options: those of the first run, if there is one.

    Every checkpoint is opened before the first evaluation, and required to fit the data.
    """
    from ccvae_eval.cli.measuring import evaluation_arguments
    from ccvae_eval.evaluation.metric import default_metrics
    from ccvae_eval.evaluation.storage import read

    places = {model: run_places(model) for model in models}
    count = sum(len(places[model]) or 1 for model in models)
    if not 2 <= count <= len(ascii_uppercase):
        what = f"two to {len(ascii_uppercase)} checkpoints or runs can be compared, got {count}"
        raise UsageError(what, where=listed(models), hint="ccvae-eval compare A B")
    first = next((read(found[0]) for found in places.values() if found), None)
    if first is not None and not all(places.values()):
        common, metrics, settings = _options_of(first, common, metrics)
    else:
        settings = options.metric_options(common.option)
    given = {
        model: evaluation_arguments(model, metrics or default_metrics(), common, screen, settings)
        for model, found in places.items()
        if not found
    }
    for arguments in given.values():
        _require_data(arguments)
    runs: list[Run] = []
    for model in models:
        of_model = places[model] or [str(_evaluated(model, given[model], common, screen))]
        runs += [read(place, pictures=pictures) for place in of_model]
    return runs


def _require_data(arguments: Mapping[str, Any]) -> None:
    """Opens the data of an evaluation, and requires the model to fit their images and labels."""
    from ccvae_eval.api import data_of
    from ccvae_eval.data.labels.relabel import label_columns

    network, data = arguments["model"].model, data_of(arguments["data"], arguments["model"])
    label_columns(data, network.labels if len(network.labels) else data.schema, data.split("test")[:1])


def _options_of(
    run: Run, common: Common, metrics: Sequence[str] | None
) -> tuple[Common, list[str], dict[str, dict[str, Any]]]:
    """The options of a run, its metrics and their settings; those that are given take precedence."""
    from ccvae_eval.evaluation.run import WHOLE_DATA

    data = run.header.data
    whole = data["split"] == WHOLE_DATA
    names = list(metrics or (m.metric for m in run))
    given = options.metric_options(common.option)
    settings = {
        m.metric: {
            **{k: tuple(v) if isinstance(v, list) else v for k, v in m.settings.items()},
            **given.pop(m.metric, {}),
        }
        for m in run
        if m.metric in names
    }
    found = replace(
        common,
        data=common.data or str(data["name"]),
        by=common.by or data.get("by"),
        sample=common.sample or (None if data.get("sample") is None else str(data["sample"])),
        limit=common.limit or (int(data["n"]) if whole else None),
        split=common.split or (None if whole else data["split"]),
        judge="none" if run.header.judge is None and common.judge == "auto" else common.judge,
        seed=common.seed or run.header.seed,
    )
    return found, names, {**settings, **given}


def _evaluated(checkpoint: str, arguments: Mapping[str, Any], common: Common, screen: Screen) -> Path:
    """Evaluates a checkpoint, and writes its run to the default folder, which is returned."""
    from ccvae_eval.api import evaluate
    from ccvae_eval.cli.measuring import draw, output_folder
    from ccvae_eval.evaluation.storage import write

    screen.notice(f"evaluating {checkpoint}")
    run = evaluate(**arguments, gallery=common.page, pairs=options.pairs_of(common.pad))
    folder = output_folder(None, run)
    draw(write(run, folder), folder, figures=False, page=common.page)
    screen.notice(f"written to {folder}")
    return folder


def _write(found: Comparison, runs: Mapping[str, Sequence[Run]], folder: Path, *, page: bool) -> list[Path]:
    """Writes the comparison, and its page if asked for; returns the files."""
    from ccvae_eval.core.files import atomic_write, make_folder

    make_folder(folder)
    text = json.dumps(found.as_plain(), indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write(folder / COMPARISON_FILE, text.encode())
    made = [folder / COMPARISON_FILE]
    if page:
        from ccvae_eval.comparison.page import write_page  # imports jinja2, which help does not need

        made.append(write_page(found, runs, folder, command_line()))
    return made


add_options(command, [option for option in options_of(Common) if option.name not in UNUSED])
