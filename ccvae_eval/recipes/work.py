"""Trains and evaluates the cells of a recipe; existing results are reused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ccvae_eval.api import evaluate
from ccvae_eval.checkpoint import open_checkpoint, read_bundle, save_checkpoint
from ccvae_eval.core.devices import device_named
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, InputError
from ccvae_eval.core.files import atomic_write, slug
from ccvae_eval.core.typed import Range, load_json, plain
from ccvae_eval.core.typed import read as read_plain
from ccvae_eval.core.types import Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import relabelled
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.metric import Metric, metric_named, settings_of
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import RUN_FILE, read, write
from ccvae_eval.recipes.recipe import ExtraEvaluation, Recipe, RecipeCell, cells_of, digest
from ccvae_eval.training import HISTORY, STATE, Event, Finished, Started, Step, fit, prepare, record, take_weights
from ccvae_eval.training.state import History

CHECKPOINT, TRAINED = "checkpoint.pt", "trained.json"
EVALUATION_SEED = 0

Stage = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What was done for a cell.

    Args:
        cell: the cell.
        trained: True if it was trained now, False if its checkpoint existed.
        evaluated: True if it was evaluated now, False if its run existed.
        error: the reason why there is no result, or None.
        damaged: why earlier results could not be used, one sentence each; they were computed again.
    """

    cell: RecipeCell
    trained: bool = False
    evaluated: bool = False
    error: CcvaeEvalError | None = None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _TrainingFacts:
    """The content of trained.json."""

    cell: str
    seconds: Annotated[float, Range(least=0, below=math.inf)]
    steps: Annotated[int, Range(least=1)]
    parameters: Annotated[int, Range(least=0)]

    @classmethod
    def of(cls, folder: Path) -> _TrainingFacts:
        """The facts in the folder of a cell.

        Raises:
            InputError: the file is missing or damaged.
        """
        return read_plain(cls, load_json(folder / TRAINED), str(folder / TRAINED))


@dataclass(frozen=True)
class PreparedRecipe:
    """A recipe with its data opened; make one with :meth:`of`.

    Args:
        recipe: the recipe.
        data: the data, with the recipe's labels.
        data_of: by experiment, the data with the labels as it sees them.
        metrics: metrics to evaluate on every checkpoint.
        extra_evaluations: further evaluations, each with its metrics and a digest of what its runs depend on.
        cells: all cells, in order.
        folder: where the results are written.
    """

    recipe: Recipe
    data: DataSet
    data_of: Mapping[str, DataSet]
    metrics: tuple[Metric, ...]
    extra_evaluations: tuple[tuple[ExtraEvaluation, tuple[Metric, ...], str], ...]
    cells: tuple[RecipeCell, ...]
    folder: Path

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> PreparedRecipe:
        """Open the data, list the cells, and build every model once, so that invalid settings fail before training."""
        data = open_data(recipe.data, recipe.labels)
        data_of = {experiment.name: relabelled(data, experiment.labels) for experiment in recipe.experiments}
        metrics = _metrics(recipe.metrics, recipe.options)
        extras = []
        for extra in recipe.extra_evaluations:
            extra_metrics = _metrics(extra.metrics, extra.options)
            extras.append((extra, extra_metrics, digest(_evaluation(recipe, extra_metrics))))
        digests = {name: data.digest for name, data in data_of.items()}
        cells = tuple(cells_of(recipe, digests, _evaluation(recipe, metrics)))
        for cell in cells:
            if cell.seed == 0:
                prepare(cell.model, cell.settings, data_of[cell.experiment], cell.training)
        return cls(recipe, data, data_of, metrics, tuple(extras), cells, folder)

    def folder_of(self, cell: RecipeCell) -> Path:
        """Folder of a cell's checkpoint."""
        return self.folder / "cells" / f"{slug(cell.name)}-{cell.training_key}"


def run_cells(
    prepared: PreparedRecipe,
    *,
    device: str = "auto",
    shard: tuple[int, int] = (1, 1),
    stage: Stage | None = None,
    notice: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[CellOutcome]:
    """Train and evaluate the cells one after the other. An error ends its own cell only.

    Args:
        prepared: the recipe with its data and folder.
        device: device for training and evaluation.
        shard: (I, N) = only the I-th of every N cells. A cell whose starting weights are not trained yet fails, and is
            run when the recipe is run again.
        stage: called with (stage, done, total) as progress, where stage is "train", "encode" and so on.
        notice: called with messages for the user.
        stop: called after each training step; if it returns True, the training state is saved and training stops.

    Raises:
        KeyboardInterrupt: training was stopped; the next call resumes it.
    """
    index, count = shard
    for number, cell in enumerate(prepared.cells):
        if number % count != index - 1:
            continue
        damaged: list[str] = []
        try:
            trained = _train(prepared, cell, device, stage, stop, damaged)
            evaluated = _evaluate(prepared, cell, device, stage, notice, damaged)
            yield CellOutcome(cell, trained, evaluated, damaged=tuple(damaged))
        except CcvaeEvalError as error:
            yield CellOutcome(cell, error=error, damaged=tuple(damaged))


def _metrics(names: Sequence[str], options: Mapping[str, Mapping[str, Plain]]) -> tuple[Metric, ...]:
    return tuple(metric_named(name, options.get(name)) for name in names)


def _evaluation(recipe: Recipe, metrics: Sequence[Metric]) -> Plain:
    """Everything that a run depends on besides the checkpoint."""
    return [[(m.name, m.version, settings_of(m)) for m in metrics], [recipe.sample, recipe.judge, EVALUATION_SEED]]


def run_folder(prepared: PreparedRecipe, cell: RecipeCell) -> Path:
    """Folder of a cell's run."""
    return prepared.folder_of(cell) / f"run-{cell.run_key}"


def result_of(prepared: PreparedRecipe, cell: RecipeCell) -> Run | None:
    """A cell's run, or None if it is missing or damaged."""
    return _run_in(run_folder(prepared, cell), [])


def training_of(prepared: PreparedRecipe, cell: RecipeCell) -> dict[str, float]:
    """Seconds, steps, parameters, seconds_per_epoch and late_improvement of a cell's training; empty if it is missing.

    An epoch covers all training images, including those held out for validation. See :func:`late_improvement`.
    """
    folder = prepared.folder_of(cell)
    try:
        facts = _TrainingFacts.of(folder)
        history = History.read(folder / "training" / HISTORY, facts.steps)
    except InputError:
        return {}
    images = len(prepared.data_of[cell.experiment].split("train"))
    return {
        "seconds": facts.seconds, "steps": facts.steps, "parameters": facts.parameters,
        "seconds_per_epoch": facts.seconds / facts.steps * images / cell.training.batch,
        "late_improvement": late_improvement(history),
    }  # fmt: skip


def late_improvement(history: History) -> float:
    """The share of the whole improvement of the validation loss that came in the last fifth of the steps.

    If it is near 0, longer training would hardly change the loss; a loss that falls along a straight line has at least
    0.2. NaN if the loss does not improve, or with fewer than five validations.
    """
    rows = [row for row in history.rows if row["split"] == "validation" and row.get("loss") is not None]
    if len(rows) < 5:
        return math.nan
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    whole, late = losses[0] - losses[-1], np.interp(0.8 * steps[-1], steps, losses) - losses[-1]
    return float(late / whole) if whole > 0 else math.nan


def _train(
    prepared: PreparedRecipe,
    cell: RecipeCell,
    device: str,
    stage: Stage | None,
    stop: Callable[[], bool],
    damaged: list[str],
) -> bool:
    """Trains a cell unless its results are there. True if it was trained; ``damaged`` receives why, for results that
    cannot be used."""
    folder = prepared.folder_of(cell)
    files = [folder / CHECKPOINT, folder / TRAINED]
    if all(file.exists() for file in files):
        found = _damages(files)
        if not found:
            return False
        damaged += found
    data = prepared.data_of[cell.experiment]
    model, supervision = prepare(cell.model, cell.settings, data, cell.training)
    if cell.after:
        take_weights(model, _weights(prepared, cell))
    on, state = device_named(device), folder / "training"
    train = partial(fit, model, data, cell.training, folder=state, resume=True, device=on, stop=stop)
    try:
        last = follow(train(), stage)
    except CheckpointError as error:  # of the saved state
        damaged.append(_sentence(error))
        (state / STATE).unlink()
        last = follow(train(), stage)
    if last.reason == "stopped":
        raise KeyboardInterrupt
    trained: Any = model.to("cpu")
    training = record(trained, data, cell.training, supervision, last)
    save_checkpoint(folder / CHECKPOINT, trained, name=cell.model, data=data, training=training)
    parameters = sum(parameter.numel() for parameter in trained.parameters())
    facts = _TrainingFacts(cell.name, last.seconds, last.step, parameters)
    atomic_write(folder / TRAINED, json.dumps(plain(facts)).encode())
    return True


def _sentence(error: InputError) -> str:
    """An error without its advice, which does not apply to results that are computed again."""
    return str(type(error)(error.what, where=error.where, why=error.why))


def follow(events: Iterator[Event], stage: Stage | None) -> Finished:
    """Reports the steps of a training as progress of the stage "train"; returns its last event."""
    for event in events:
        if isinstance(event, Started):
            total = event.steps
        elif isinstance(event, Step) and stage is not None:
            stage("train", event.step, total)
        elif isinstance(event, Finished):
            return event
    raise AssertionError("a training must end with Finished")


def _weights(prepared: PreparedRecipe, cell: RecipeCell) -> Any:
    """Weights of the cell that another one starts from."""
    other = next(c for c in prepared.cells if c.training_key == cell.after)
    path = prepared.folder_of(other) / CHECKPOINT
    if not path.is_file():
        raise InputError("the starting weights are not trained yet", where=other.name, hint="Run the recipe again.")
    return open_checkpoint(path).model.state_dict()


def _evaluate(
    prepared: PreparedRecipe,
    cell: RecipeCell,
    device: str,
    stage: Stage | None,
    notice: Callable[[str], None] | None,
    damaged: list[str],
) -> bool:
    """Evaluate a cell; for the first seed also draw figures and run the extra evaluations. True if any was missing."""
    recipe = prepared.recipe
    missing = [each for each in _evaluations(prepared, cell) if _run_in(each[0], damaged) is None]
    judge = "full" if recipe.judge == "auto" else recipe.judge  # one judge for models of different labels
    for folder, metrics, with_figures in missing:
        run = evaluate(
            prepared.folder_of(cell) / CHECKPOINT, prepared.data_of[cell.experiment], metrics, sample=recipe.sample,
            seed=EVALUATION_SEED, device=device, judge=judge, references=False, gallery=with_figures,
            command=f"ccvae-eval reproduce {recipe.name}", notice=notice, stage=stage,
        )  # fmt: skip
        if with_figures:  # before the run is written: a stored run has no pictures, and counts as complete
            from ccvae_eval.report.figures import draw_figures  # imported here: matplotlib is slow to import

            draw_figures(run, folder / "figures")
        write(run, folder)
    return bool(missing)


def _evaluations(prepared: PreparedRecipe, cell: RecipeCell) -> list[tuple[Path, tuple[Metric, ...], bool]]:
    """Folder and metrics of each run of a cell, its main run first, and whether figures are drawn."""
    first_seed = cell.seed == 0
    planned = [(run_folder(prepared, cell), prepared.metrics, prepared.recipe.figures and first_seed)]
    for extra, metrics, key in prepared.extra_evaluations if first_seed else ():
        planned.append((prepared.folder_of(cell) / f"{slug(extra.name)}-{key}", metrics, True))
    return planned


def result_files(prepared: PreparedRecipe, cell: RecipeCell) -> tuple[Path, ...]:
    """The files that a finished cell has, that of its main run first."""
    runs = [folder / RUN_FILE for folder, _, _ in _evaluations(prepared, cell)]
    return (*runs, prepared.folder_of(cell) / CHECKPOINT, prepared.folder_of(cell) / TRAINED)


def remove_damaged(prepared: PreparedRecipe, cell: RecipeCell) -> list[str]:
    """Removes results of a cell that cannot be read, so that they are made again; returns why, one sentence each."""
    found = []
    for file in result_files(prepared, cell):
        if file.exists() and (reasons := _damages([file])):
            file.unlink()
            found += reasons
    return found


def _damages(files: Iterable[Path]) -> list[str]:
    """Why results cannot be used, one sentence for each that cannot be read."""
    found = []
    for file in files:
        try:
            if file.name == TRAINED:
                _TrainingFacts.of(file.parent)
            elif file.name == CHECKPOINT:
                read_bundle(file)
            else:
                read(file.parent)
        except InputError as error:
            found.append(_sentence(error))
    return found


def _run_in(folder: Path, damaged: list[str]) -> Run | None:
    """The run in a folder; None if it is missing, or damaged, of which ``damaged`` receives the reason."""
    if not (folder / RUN_FILE).exists():
        return None
    try:
        return read(folder)
    except InputError as error:
        damaged.append(_sentence(error))
        return None
