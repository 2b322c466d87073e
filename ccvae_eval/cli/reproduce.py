"""``reproduce``: train and evaluate the models of a recipe, and write its tables."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.cli.measuring import SOME_FAILED
from ccvae_eval.cli.options import (
    OUTPUT,
    Json,
    Labels,
    Plugin,
    Quiet,
    Setting,
    add_plugins,
    assignments,
    claim_folder,
    metric_options,
    option_in,
    require_inputs,
)
from ccvae_eval.cli.sweep import (
    CellLimit,
    Devices,
    MaxFailures,
    On,
    Processes,
    Retries,
    Shard,
    as_arguments,
    dealt,
    engine_for,
    work,
)
from ccvae_eval.core.errors import StopRequest
from ccvae_eval.core.files import atomic_write, slug
from ccvae_eval.core.typed import plain
from ccvae_eval.recipes.recipe import builtin_recipes, read_recipe
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped

if TYPE_CHECKING:
    from ccvae_eval.recipes.work import PreparedRecipe
    from ccvae_eval.sweep.cells import Cell, Sweep

TABLES_HELP = "--tables only writes the tables, from existing results; --no-tables leaves them out."


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A built-in recipe or a TOML file; without one, the built-in recipes are listed.",
            autocompletion=lambda incomplete: [name for name in builtin_recipes() if name.startswith(incomplete)],
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Data to use instead of the recipe's.")] = None,
    label: Labels = None,
    labels: Annotated[list[str] | None, typer.Option(help="Train on only this label; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Training runs of each model.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Number of images to evaluate.")] = None,
    training: Annotated[
        list[str] | None, typer.Option(help="A setting of each training: KEY=VALUE (epochs=5).")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="The judge: auto, none or a file.")] = None,
    option: Setting = None,
    contender: Annotated[list[str] | None, typer.Option(help="Train only the model of this row; repeatable.")] = None,
    tables: Annotated[bool | None, typer.Option("--tables/--no-tables", help=TABLES_HELP, show_default=False)] = None,
    shard: Shard = None,
    processes: Processes = None,
    on: On = None,
    retries: Retries = 1,
    max_failures: MaxFailures = None,
    cell_limit: CellLimit = None,
    device: Devices = "auto",
    out: Annotated[Path | None, option_in(OUTPUT, "Folder to write to; default ./runs/RECIPE.", "--out", "-o")] = None,
    json: Json = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Train and evaluate the models of a recipe, and compare them with published results.

    Results already in the folder are reused: an interrupted command can be repeated to resume it. --processes and --on
    share the work, as they do for ccvae-eval sweep; a cell is one training with its evaluation, and ccvae-eval runs DIR
    shows the state of all cells. With another scheduler, give each job its own --shard; then run the command once
    without --shard to write the tables.
    """
    add_plugins(plugin)
    with Screen(as_json=json, quiet=quiet) as screen:
        if recipe is None:
            _list(screen, json)
            return
        plan = read_recipe(recipe).changed(
            data=data, labels=None if label is None else tuple(label), seeds=seeds, sample=sample, judge=judge,
            training=_training(training, labels), options=metric_options(option) or None, experiments=contender,
        )  # fmt: skip
        require_inputs(plan.data, judge)
        claim_folder(out, force=True)

        from ccvae_eval.recipes.work import PreparedRecipe
        from ccvae_eval.sweep.cells import parse_shard

        task = PreparedRecipe.of(plan, out or Path("runs") / slug(plan.name))
        screen.notice(f"{plan.title}: {len(task.cells)} trainings on {task.data.spec}; results go to {task.folder}")
        part = parse_shard(shard, os.environ)
        if tables:
            failed = 0
        elif on is None and processes is None and len(dealt(device)) == 1:
            failed = _work(task, device, part, screen)
        else:
            given = {
                "data": data, "rename": label, "labels": labels, "seeds": seeds, "sample": sample, "judge": judge,
                "training": training, "option": option, "contender": contender, "plugin": plugin,
            }  # fmt: skip
            name = str(Path(recipe).absolute()) if recipe.endswith(".toml") else recipe
            sweep, todo = _cells(task, [name, *as_arguments(given)], part, screen)
            failed = 0
            if todo:
                engine = engine_for(sweep.folder, on, processes, device, cell_limit)
                failed = work(sweep, todo, engine, screen, lead=False, retries=retries, max_failures=max_failures)
        if tables is not False:
            _write_tables(task, screen, json)
    if failed:
        raise SystemExit(SOME_FAILED)


def _training(pairs: list[str] | None, labels: list[str] | None) -> dict[str, Any] | None:
    """Fields of ``TrainingSettings`` that apply to every training; None if there are none."""
    found = dict(assignments(pairs, "--training"))
    if labels:
        found["labels"] = list(labels)
    return found or None


def _list(screen: Screen, as_json: bool) -> None:
    recipes = [read_recipe(name) for name in builtin_recipes()]
    if as_json:
        screen.document({"recipes": [{"name": r.name, "title": r.title, "source": r.source} for r in recipes]})
    table = FittedTable("recipe", "trainings", "title")
    for recipe in recipes:
        count = len(recipe.experiments) * len(list(recipe.points())) * recipe.seeds
        table.add_row(escaped(recipe.name), str(count), escaped(recipe.title))
    screen.show(table)
    screen.advise("\nNext: ccvae-eval reproduce RECIPE")


def _work(task: PreparedRecipe, device: str, shard: tuple[int, int], screen: Screen) -> int:
    """Trains and evaluates the cells; returns how many failed. A stop signal saves the state of a training."""
    from ccvae_eval.recipes.work import run_cells

    failed, damaged = 0, 0
    with stop_requests() as stopped:
        cells = run_cells(
            task, device=device, shard=shard, stage=screen.stage, notice=screen.notice, stop=lambda: bool(stopped)
        )
        try:
            for index, done in enumerate(cells, 1):
                what = "trained" if done.trained else "evaluated" if done.evaluated else "reused"
                failed += done.error is not None
                damaged += len(done.damaged)
                for reason in done.damaged:
                    screen.notice(f"{index}: {done.cell.name}: computed again, because {reason}")
                if done.error is None:
                    screen.notice(f"{index}: {done.cell.name}: {what}")
                else:
                    screen.failure(f"{done.cell.name}: {done.error}")
                if stopped:
                    raise KeyboardInterrupt
        except (KeyboardInterrupt, StopRequest):
            screen.notice("stopped; repeat the command to resume")
            raise StopRequest(stopped[0] if stopped else signal.SIGINT) from None
    if damaged:
        screen.notice(f"{damaged} damaged files of earlier results were ignored")
    return failed


def _cells(
    task: PreparedRecipe, arguments: list[str], shard: tuple[int, int], screen: Screen
) -> tuple[Sweep, list[Cell]]:
    """The cells of a recipe as those of a sweep, and those of a shard that are not done.

    Each is the command that trains and evaluates this cell alone and writes into the folder of the recipe.
    """
    from ccvae_eval.recipes.recipe import digest
    from ccvae_eval.recipes.work import remove_damaged, result_files
    from ccvae_eval.sweep.cells import Cell, Sweep, is_done

    cells: list[Cell] = []
    names = {"": ""}  # by the key of the training; the first of equal trainings gives the starting weights
    for number, cell in enumerate(task.cells, 1):
        name = f"{slug(cell.name)}-{digest([cell.training_key, cell.run_key])[:8]}"
        names.setdefault(cell.training_key, name)
        own = ("--shard", f"{number}/{len(task.cells)}", "--no-tables", "--quiet")
        files = [file.relative_to(task.folder) for file in result_files(task, cell)]
        cells.append(Cell(name, "", ("reproduce", *arguments, *own), tuple(map(str, files)), names[cell.after]))
        for reason in remove_damaged(task, cell):
            screen.notice(f"{cell.name}: computed again, because {reason}")
    sweep = Sweep(task.folder.absolute(), tuple(cells))
    sweep.write()
    index, count = shard
    own_cells = cells[index - 1 :: count]
    todo = [cell for cell in own_cells if not is_done(sweep.folder, cell)]
    screen.notice(f"{len(own_cells)} trainings, {len(own_cells) - len(todo)} of them done")
    return sweep, todo


def _write_tables(task: PreparedRecipe, screen: Screen, as_json: bool) -> None:
    """Shows the tables and writes them, with their figures, into the folder."""
    from ccvae_eval.recipes.tables import grids_of
    from ccvae_eval.recipes.work import run_folder
    from ccvae_eval.rendering.grids import grid_markdown, grid_table, grids_csv
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
                "value": grid.value, "model": name, "place": column, "number": plain(entry.estimate.value),
                "low": plain(entry.estimate.low), "high": plain(entry.estimate.high), "n": entry.estimate.n,
                "interval": entry.estimate.method, "chance": plain(entry.chance), "published": entry.published,
                "note": entry.note, "left_out": list(grid.left_out),
            }
            for grid in grids
            for name, row in grid.rows
            for column, entry in zip(grid.columns, row, strict=True)
        ]  # fmt: skip
        screen.document({"recipe": task.recipe.name, "data": task.data.spec, "entries": entries})
