"""``reproduce``: a recipe's trainings and evaluations, and its tables."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.cli.measuring import SOME_FAILED
from ccvae_eval.cli.options import EXTENSION, LABEL_HELP, OUTPUT, assignments, metric_options
from ccvae_eval.core.files import atomic_write, slug
from ccvae_eval.evaluation.run import number
from ccvae_eval.plugins import registry
from ccvae_eval.recipes import Work, grids_of, read_recipe, shipped_recipes, work
from ccvae_eval.recipes.work import run_folder, shards
from ccvae_eval.report.grids import grid_markdown, grid_table, grids_csv
from ccvae_eval.report.text import escaped


def command(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe of the package, or a TOML file of yours; none: which there are.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Other data than the recipe's.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help=LABEL_HELP)] = None,
    labels: Annotated[list[str] | None, typer.Option("--labels", help="Learn only this label; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Trainings of each model.")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="Images evaluated.")] = None,
    training: Annotated[
        list[str] | None, typer.Option("--training", help="A setting of all trainings: KEY=VALUE (epochs=5).")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="auto, none or a file.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="A metric's setting: metric.key=value.")] = None,
    contender: Annotated[
        list[str] | None, typer.Option("--contender", help="Only this model of the recipe, by its row; repeatable.")
    ] = None,
    shard: Annotated[str, typer.Option("--shard", help="I/N: only the I-th of every N cells (job arrays).")] = "1/1",
    tables_only: Annotated[bool, typer.Option("--tables", help="Only the tables, of what is there.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder; default ./ccvae-eval/RECIPE.", rich_help_panel=OUTPUT),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=OUTPUT)] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", help="A Python file of yours; it is run.", rich_help_panel=EXTENSION),
    ] = None,
) -> None:
    """Train and evaluate the models of a recipe, and tabulate them beside what was published.

    What is in the folder already is not done again: stop it at any time and call it again. The same command in
    several processes, each with its own --shard, shares the work; a last one without makes the tables.
    """
    for file in plugin or []:
        registry.add_plugin_file(file)
    with Screen(as_json=json_, quiet=quiet) as screen:
        if recipe is None:
            _list(screen, json_)
            return
        chosen = read_recipe(recipe).changed(
            data=data,
            labels=None if label is None else tuple(label),
            seeds=seeds,
            sample=sample,
            judge=judge,
            training=_training(training, labels),
            options=metric_options(option) or None,
            contenders=contender,
        )
        task = Work.of(chosen, out or Path("ccvae-eval") / slug(chosen.name))
        screen.notice(f"{chosen.title}: {len(task.cells)} trainings on {task.data.spec}, into {task.folder}")
        failed = 0 if tables_only else _work(task, device, shards(shard), screen)
        _tell(task, screen, json_)
    if failed:
        raise SystemExit(SOME_FAILED)


def _training(pairs: list[str] | None, labels: list[str] | None) -> dict[str, Any] | None:
    """Fields of ``TrainingSettings`` that are the same for all."""
    found = dict(assignments(pairs, "--training"))
    if labels:
        found["labels"] = list(labels)
    return found or None


def _list(screen: Screen, as_json: bool) -> None:
    recipes = [read_recipe(name) for name in shipped_recipes()]
    if as_json:
        screen.document({"recipes": [{"name": r.name, "title": r.title, "source": r.source} for r in recipes]})
    table = Table("recipe", "trainings", "shows", box=None, padding=(0, 2), header_style="bold")
    for recipe in recipes:
        count = len(recipe.contenders) * len(list(recipe.points())) * recipe.seeds
        table.add_row(escaped(recipe.name), str(count), escaped(recipe.title))
    screen.show(table)
    screen.advise("\nNext: ccvae-eval reproduce RECIPE")


def _work(task: Work, device: str, shard: tuple[int, int], screen: Screen) -> int:
    """Works on the cells; returns how many failed. The first signal saves the state of a training."""
    failed = 0
    with stop_requests() as stopped:
        cells = work(
            task, device=device, shard=shard, stage=screen.stage, notice=screen.notice, stop=lambda: bool(stopped)
        )
        try:
            for place, done in enumerate(cells, 1):
                what = "found" if not (done.trained or done.evaluated) else "trained" if done.trained else "evaluated"
                failed += done.error is not None
                screen.notice(f"{place}: {done.cell.name}: {what if done.error is None else f'failed: {done.error}'}")
                if stopped:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            screen.notice("stopped; the same command goes on from here")
            raise SystemExit(128 + (stopped[0] if stopped else signal.SIGINT)) from None
    return failed


def _tell(task: Work, screen: Screen, as_json: bool) -> None:
    from ccvae_eval.report.figures import draw_grid

    grids = grids_of(task)
    for grid in grids:
        screen.show(grid_table(grid), "")
        draw_grid(grid, task.folder / "figures" / f"{slug(grid.value)}.png")
    notes = [f"{task.recipe.title}. {task.recipe.source}".strip(), f"Data: {task.data.spec}.", task.recipe.notes]
    markdown = "\n\n".join([*filter(None, notes), *map(grid_markdown, grids)])
    atomic_write(task.folder / "table.md", markdown.encode())
    atomic_write(task.folder / "table.csv", grids_csv(grids).encode())
    screen.advise(f"Written to {task.folder}: table.md, table.csv, figures/, cells/")
    screen.advise(f"Next: ccvae-eval inspect {run_folder(task, task.cells[0])}")
    if as_json:
        entries = [
            {
                "value": grid.value, "model": name, "place": column, "number": number(entry.estimate.value),
                "low": number(entry.estimate.low), "high": number(entry.estimate.high), "n": entry.estimate.n,
                "interval": entry.estimate.method, "chance": number(entry.chance), "published": entry.published,
                "note": entry.note, "left_out": list(grid.left_out),
            }
            for grid in grids
            for name, row in grid.rows
            for column, entry in zip(grid.columns, row, strict=True)
        ]  # fmt: skip
        screen.document({"recipe": task.recipe.name, "data": task.data.spec, "entries": entries})
