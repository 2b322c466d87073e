"""Working on a recipe's cells: train, evaluate, write; what is there already is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccvae_eval.api import metric_named, set_up
from ccvae_eval.checkpoint import open_checkpoint, save_checkpoint
from ccvae_eval.core.devices import device_named
from ccvae_eval.core.errors import CcvaeEvalError, InputError, UsageError
from ccvae_eval.core.files import atomic_write, slug
from ccvae_eval.core.types import Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import relabelled
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import read, write
from ccvae_eval.recipes.recipe import ExtraEvaluation, Recipe, RecipeCell, cells_of, digest
from ccvae_eval.training import Finished, Started, Step, fit, prepare, record, take_weights

CHECKPOINT, TRAINED = "checkpoint.pt", "trained.json"
EVALUATION_SEED = 0

Stage = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Done:
    """A cell that was worked on.

    Args:
        cell: which.
        trained: its training was done now, and not found.
        evaluated: its run was made now, and not found.
        error: why there is no result; None if there is one.
    """

    cell: RecipeCell
    trained: bool = False
    evaluated: bool = False
    error: CcvaeEvalError | None = None


@dataclass(frozen=True)
class Work:
    """A recipe with its data opened; make one with :meth:`of`.

    Args:
        recipe: what to do.
        data: what on, labels as the recipe has them.
        seen: the data as each contender sees them, by its name.
        metrics: what each checkpoint is measured by.
        views: the recipe's views with their metrics, and what stands for all that their runs depend on.
        cells: all of them, in order.
        folder: where everything goes.
    """

    recipe: Recipe
    data: DataSet
    seen: Mapping[str, DataSet]
    metrics: tuple[Metric, ...]
    views: tuple[tuple[ExtraEvaluation, tuple[Metric, ...], str], ...]
    cells: tuple[RecipeCell, ...]
    folder: Path

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> Work:
        """Opens the data and names the cells; every model is built once, so that wrong settings are said at once."""
        data = open_data(recipe.data, recipe.labels)
        seen = {c.name: relabelled(data, c.labels) for c in recipe.contenders}
        metrics = _metrics(recipe.metrics, recipe.options)
        evaluation = _evaluation(recipe, metrics)
        made = [(view, _metrics(view.metrics, view.options)) for view in recipe.views]
        views = tuple((view, asked, digest(_evaluation(recipe, asked))) for view, asked in made)
        cells = tuple(cells_of(recipe, {name: data.digest for name, data in seen.items()}, evaluation))
        for cell in cells:
            if cell.seed == 0:
                prepare(cell.model, cell.settings, seen[cell.contender], cell.training)
        return cls(recipe, data, seen, metrics, views, cells, folder)

    def folder_of(self, cell: RecipeCell) -> Path:
        """Where a cell's checkpoint lies."""
        return self.folder / "cells" / f"{slug(cell.name)}-{cell.training_key}"


def work(
    task: Work,
    *,
    device: str = "auto",
    shard: tuple[int, int] = (1, 1),
    stage: Stage | None = None,
    notice: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Done]:
    """Works on the cells one after the other. A cell that fails, fails alone.

    Args:
        task: the recipe and its folder.
        device: where to train and evaluate.
        shard: (I, N): only the I-th of every N cells; whoever starts from another's weights waits for a later pass.
        stage: called with ("train" or "encode" and so on, done, total).
        notice: called with sentences.
        stop: asked after each step of a training; true saves its state.

    Raises:
        KeyboardInterrupt: a training was stopped; the next pass goes on where it was.
    """
    mine, parts = shard
    for number, cell in enumerate(task.cells):
        if number % parts != mine - 1:
            continue
        try:
            trained = _train(task, cell, device, stage, stop)
            yield Done(cell, trained, _evaluate(task, cell, device, stage, notice))
        except CcvaeEvalError as error:
            yield Done(cell, error=error)


def _metrics(names: Sequence[str], options: Mapping[str, Mapping[str, Plain]]) -> tuple[Metric, ...]:
    return tuple(metric_named(name, options.get(name)) for name in names)


def _evaluation(recipe: Recipe, metrics: Sequence[Metric]) -> Plain:
    """Everything but the checkpoint that a run depends on."""
    return [[(m.name, m.version, settings_of(m)) for m in metrics], [recipe.sample, recipe.judge, EVALUATION_SEED]]


def run_folder(task: Work, cell: RecipeCell) -> Path:
    """Where a cell's run lies."""
    return task.folder_of(cell) / f"run-{cell.run_key}"


def result_of(task: Work, cell: RecipeCell) -> Run | None:
    """A cell's run, None if it is not there or not whole."""
    return _run_in(run_folder(task, cell))


def training_of(task: Work, cell: RecipeCell) -> dict[str, float]:
    """What a cell's training took: seconds, steps, parameters, seconds_per_epoch; empty if it is not there.

    An epoch is all train images of the data, whatever part of them was held out to validate.
    """
    try:
        plain: dict[str, Any] = json.loads((task.folder_of(cell) / TRAINED).read_text())
        found = {name: float(plain[name]) for name in ("seconds", "steps", "parameters")}
        images = len(task.seen[cell.contender].split("train"))
        found["seconds_per_epoch"] = found["seconds"] / found["steps"] * images / cell.training.batch
        return found
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _train(task: Work, cell: RecipeCell, device: str, stage: Stage | None, stop: Callable[[], bool]) -> bool:
    folder = task.folder_of(cell)
    if (folder / TRAINED).is_file() and (folder / CHECKPOINT).is_file():
        return False
    data = task.seen[cell.contender]
    model, supervision = prepare(cell.model, cell.settings, data, cell.training)
    if cell.after:
        take_weights(model, _weights(task, cell))
    place = device_named(device)
    events = fit(model, data, cell.training, folder=folder / "training", resume=True, device=place, stop=stop)
    for event in events:
        if isinstance(event, Started):
            total = event.steps
        elif isinstance(event, Step) and stage is not None:
            stage("train", event.step, total)
        elif isinstance(event, Finished):
            last = event
    if last.reason == "stopped":
        raise KeyboardInterrupt
    made: Any = model.to("cpu")
    told = record(made, data, cell.training, supervision, last)
    save_checkpoint(folder / CHECKPOINT, made, name=cell.model, data=data, training=told)
    facts = {
        "cell": cell.name,
        "seconds": last.seconds,
        "steps": last.step,
        "parameters": sum(parameter.numel() for parameter in made.parameters()),
    }
    atomic_write(folder / TRAINED, json.dumps(facts).encode())
    return True


def _weights(task: Work, cell: RecipeCell) -> Any:
    """The weights that a cell starts from."""
    other = next(each for each in task.cells if each.training_key == cell.after)
    path = task.folder_of(other) / CHECKPOINT
    if not path.is_file():
        raise InputError("the weights to start from are not there yet", where=other.name, hint="Run the recipe again.")
    return open_checkpoint(path).model.state_dict()


def _evaluate(
    task: Work, cell: RecipeCell, device: str, stage: Stage | None, notice: Callable[[str], None] | None
) -> bool:
    """The cell's run and, of the first seed, its figures and views; whether there was anything to do."""
    recipe, first = task.recipe, cell.seed == 0
    looks = [(run_folder(task, cell), task.metrics, recipe.figures and first)]
    for view, metrics, key in task.views if first else ():
        looks.append((task.folder_of(cell) / f"{slug(view.name)}-{key}", metrics, True))
    missing = [look for look in looks if _run_in(look[0]) is None]
    for folder, metrics, drawn in missing:
        setup = set_up(
            task.folder_of(cell) / CHECKPOINT,
            task.seen[cell.contender],
            metrics,
            sample=recipe.sample,
            seed=EVALUATION_SEED,
            device=device,
            judge=recipe.judge,
            references=False,
            command=f"ccvae-eval reproduce {recipe.name}",
            notice=notice,
            stage=stage,
        )
        run = setup.measure(stage)
        if drawn:  # first: what is written is done, and a run that was read again has no pictures
            from ccvae_eval.report.figures import draw_figures  # matplotlib takes a second to import

            draw_figures(run, folder / "figures")
        write(run, folder)
    return bool(missing)


def _run_in(folder: Path) -> Run | None:
    try:
        return read(folder)
    except InputError:
        return None


def shards(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers, 1 <= I <= N."""
    first, _, second = text.partition("/")
    if first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise UsageError(f"{text!r} is no shard", where="--shard", hint="I/N with 1 <= I <= N, such as 2/8.")
