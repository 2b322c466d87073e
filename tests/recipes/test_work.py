"""Running recipes: training, reuse of results, failures, and tables."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ccvae_eval.checkpoint import read_bundle
from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import CcvaeEvalError, UsageError
from ccvae_eval.core.results import Estimate
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import read
from ccvae_eval.recipes import tables
from ccvae_eval.recipes.recipe import RecipeCell, parse_recipe
from ccvae_eval.recipes.tables import grids_of
from ccvae_eval.recipes.work import PreparedRecipe, late_improvement, result_of, run_cells, run_folder, training_of
from ccvae_eval.rendering.grids import Entry, Grid, grid_markdown
from ccvae_eval.report.figures import draw_grid
from ccvae_eval.statistics.paired import over_seeds
from ccvae_eval.training import STATE
from ccvae_eval.training.state import History
from tests.support.recipes import SMALL

RECIPE = f"""{SMALL}
[axes]
rate = [0.5, 1.0]
[[tables]]
value = "accuracy.balanced_accuracy"
published_as = "a test"
published = {{ ccvae = [0.25, 0.75] }}
[[tables]]
value = "training.steps"
[[tables]]
value = "training.seconds_per_epoch"
"""


def prepared(folder: Path, text: str = RECIPE) -> PreparedRecipe:
    return PreparedRecipe.of(parse_recipe(text, "small", "small.toml"), folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> PreparedRecipe:
    recipe = prepared(tmp_path_factory.mktemp("recipe"))
    done = list(run_cells(recipe))
    assert [(d.trained, d.evaluated, d.error) for d in done] == [(True, True, None)] * 8
    return recipe


def test_existing_results_are_reused(finished: PreparedRecipe) -> None:
    done = list(run_cells(prepared(finished.folder)))
    assert [(d.trained, d.evaluated, d.error) for d in done] == [(False, False, None)] * 8
    again = prepared(finished.folder, RECIPE.replace("sample = 30", "sample = 20"))
    assert [(d.trained, d.evaluated) for d in run_cells(again, shard=(1, 8))] == [(False, True)]


@pytest.mark.parametrize(
    ("file", "damage"),
    [("checkpoint.pt", "cut"), ("trained.json", "garbage"), ("trained.json", "wrong"), ("trained.json", "pipe")],
)
def test_a_cell_with_a_damaged_training_is_trained_again(finished: PreparedRecipe, file: str, damage: str) -> None:
    """Its saved state is whole: the training ends at once, with the same weights."""
    cell = finished.cells[0]
    path = finished.folder_of(cell) / file
    whole, weights = path.read_bytes(), read_bundle(finished.folder_of(cell) / "checkpoint.pt").tensors
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"{", "wrong": b'{"seconds": []}'}[damage])
    done = next(run_cells(prepared(finished.folder)))
    assert (done.trained, done.evaluated, done.error) == (True, False, None)
    (reason,) = done.damaged
    assert str(path) in reason
    assert "Copy or download" not in reason
    again = read_bundle(finished.folder_of(cell) / "checkpoint.pt").tensors
    assert all(np.array_equal(again[name], weights[name]) for name in weights)
    assert training_of(finished, cell)["steps"] == 2


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ([9, 5, 2, 1, 1], 0.0),  # converged
        ([5, 4, 3, 2, 1, 0], 0.24),  # a line: the last 12 of 50 steps after the first validation
        ([1, 2, 3, 4, 5], math.nan),  # never fell
        ([2, 1, 0, 0], math.nan),  # too few validations
    ],
)
def test_the_late_improvement_tells_whether_a_training_has_converged(losses: list[float], share: float) -> None:
    history = History()
    for epoch, loss in enumerate(losses):
        history.add("train", epoch, 10 * (epoch + 1), 0.0, {"loss": -1.0})
        history.add("validation", epoch, 10 * (epoch + 1), 0.0, {"loss": loss})
    assert late_improvement(history) == pytest.approx(share, nan_ok=True)


def test_a_damaged_state_of_a_training_is_ignored(finished: PreparedRecipe) -> None:
    folder = finished.folder_of(finished.cells[0])
    (folder / "trained.json").unlink()
    state = folder / "training" / STATE
    state.write_bytes(state.read_bytes()[:100])
    done = next(run_cells(prepared(finished.folder)))
    assert (done.trained, done.error) == (True, None)
    assert [str(state) in reason for reason in done.damaged] == [True]


@pytest.mark.parametrize("damage", ['{"schema_version": 1}', "{", '{"schema_version": 1, "tool": 1}'])
def test_a_cell_with_a_damaged_run_is_evaluated_again(finished: PreparedRecipe, damage: str) -> None:
    folder = run_folder(finished, finished.cells[0])
    (folder / "run.json").write_text(damage)
    assert result_of(finished, finished.cells[0]) is None
    done = next(run_cells(prepared(finished.folder)))
    assert (done.trained, done.evaluated, done.error) == (False, True, None)
    assert [str(folder / "run.json") in reason for reason in done.damaged] == [True]
    assert result_of(finished, finished.cells[0]) is not None


def test_damaged_results_are_named_and_counted(
    finished: PreparedRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(RECIPE)
    (run_folder(finished, finished.cells[0]) / "run.json").write_text("{")
    (finished.folder_of(finished.cells[1]) / "trained.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", str(file), "--out", str(finished.folder)])
    assert not ended.value.code
    shown = capsys.readouterr().err
    assert shown.count("computed again, because") == 2
    assert "2 damaged files of earlier results were ignored" in shown


def test_shards_partition_the_cells(finished: PreparedRecipe) -> None:
    parts = [[d.cell.name for d in run_cells(finished, shard=(i, 3))] for i in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(cell.name for cell in finished.cells)


def test_an_experiment_starts_from_the_weights_of_another(finished: PreparedRecipe) -> None:
    """With a negligible learning rate the weights stay the same."""
    one, other = (next(c for c in finished.cells if c.experiment == name) for name in ("ccvae", "goes on"))
    assert (one.point, one.seed) == (other.point, other.seed)
    expected, found = (read_bundle(finished.folder_of(cell) / "checkpoint.pt").tensors for cell in (one, other))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), atol=1e-6)


def test_tables_have_means_over_seeds_and_published_numbers(finished: PreparedRecipe) -> None:
    accuracy, steps, seconds = grids_of(finished)
    assert accuracy.columns == ("0.5", "1.0")
    assert accuracy.positions == (0.5, 1.0)
    assert accuracy.higher_is_better is True
    name, entries = accuracy.rows[0]
    cells = [c for c in finished.cells if c.experiment == "ccvae" and c.point == (("rate", 1.0),)]
    included = [label for label in finished.data.schema.names if label not in accuracy.left_out]
    each = [
        np.mean([result_of(finished, cell)[f"accuracy.balanced_accuracy@{label}"] for label in included])  # type: ignore[index]
        for cell in cells
    ]
    assert (name, entries[1].published, entries[1].estimate.n) == ("ccvae", 0.75, 2)
    assert entries[1].estimate.value == pytest.approx(np.mean(each))
    assert steps.rows[0][1][0].estimate.value == 2
    durations = [training_of(finished, cell)["seconds"] for cell in finished.cells[:2]]
    images = len(finished.data.split("train"))
    assert seconds.rows[0][1][0].estimate.value == pytest.approx(np.mean(durations) / 2 * images / 16)
    text = grid_markdown(accuracy)
    assert "(0.750)" in text
    assert "* published numbers in parentheses: a test" in text
    for grid in (accuracy, steps):
        assert draw_grid(grid, finished.folder / "figures" / "grid.png").stat().st_size > 1000


def test_undefined_values_do_not_raise_a_mean(finished: PreparedRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A characteristic undefined in one run is excluded from all means; a run without any value excludes nothing."""
    partial, empty = finished.cells[0], finished.cells[-1]

    def number(label: str | None, cell: RecipeCell) -> float:
        """A different number for every label and seed."""
        return float(2 ** finished.data.schema.names.index(label or "") + cell.seed) / 1000

    def modified(prepared: PreparedRecipe, cell: RecipeCell) -> Run | None:
        run = result_of(prepared, cell)
        assert run is not None
        measured = run.measurement("accuracy")
        undefined = ("Bangs",) if cell == partial else (None, *finished.data.schema.names) if cell == empty else ()
        values = [
            # given labels never enter the mean
            replace(v, estimate=Estimate(number(v.characteristic, cell)), in_mean=v.characteristic != "Smiling")
            if v.characteristic in finished.data.schema.names and v.estimate.defined
            else v
            for v in measured.values
        ]
        values = [replace(v, estimate=Estimate(math.nan)) if v.characteristic in undefined else v for v in values]
        return replace(run, measurements=(replace(measured, values=tuple(values)),))

    before = grids_of(finished)[0].left_out
    assert "Bangs" not in before
    monkeypatch.setattr(tables, "result_of", modified)
    grid = grids_of(finished)[0]
    assert grid.left_out == tuple(sorted([*before, "Bangs"]))
    names = [name for name in finished.data.schema.names if name not in (*grid.left_out, "Smiling")]
    cells = [c for c in finished.cells if c.experiment == "ccvae" and c.point == (("rate", 1.0),)]
    each = [number(name, cell) for cell in cells for name in names]
    assert dict(grid.rows)["ccvae"][1].estimate.value == pytest.approx(np.mean(each))
    assert math.isnan(dict(grid.rows)["goes on"][1].estimate.value)
    assert f"excluded from the means, undefined in some run: {', '.join(grid.left_out)}" in grid_markdown(grid)


def test_tables_have_a_chance_level(finished: PreparedRecipe) -> None:
    accuracy, steps, seconds = grids_of(finished)
    chances = [result_of(finished, c).find("accuracy.balanced_accuracy").chance for c in finished.cells]  # type: ignore[union-attr]
    assert accuracy.chance_as == "1/K"
    assert accuracy.chances() == (pytest.approx(np.mean(chances)),) * 2
    assert "chance: 1/K" in grid_markdown(accuracy).splitlines()[6]
    assert steps.chances() == seconds.chances() == ()


OTHER_LABELS = """
title = "Other labels and an extra evaluation"
data = "faces,size=32,n=160"
metrics = ["accuracy", "reconstruction"]
judge = "none"
sample = 30
seeds = 2
figures = true
[training]
steps = 2
batch = 16
[[contenders]]
name = "ccvae"
model = "ccvae"
[[contenders]]
name = "five binary labels"
model = "ccvae"
labels = ["*=Hair_Color"]
[[views]]
name = "ten bins"
metrics = ["accuracy"]
options = { accuracy = { bins = 10 } }
[[tables]]
value = "accuracy.balanced_accuracy@Hair_Color*"
[[tables]]
value = "reconstruction.kl"
at = { columns = "*" }
[[tables]]
value = "reconstruction.kl"
at = { columns = "none" }
[[tables]]
value = "reconstruction.kl@Hair*"
at = { labels = "given" }
[[tables]]
value = "reconstruction.kl@Hair*"
"""


def test_experiments_may_have_other_labels_and_extra_evaluations(tmp_path: Path) -> None:
    recipe = prepared(tmp_path, OTHER_LABELS)
    assert [d.error for d in run_cells(recipe)] == [None] * 4
    for cell in recipe.cells:
        drawn = [path.name for path in recipe.folder_of(cell).glob("*/figures/*")]
        extras = [read(path.parent) for path in recipe.folder_of(cell).glob("ten-bins-*/run.json")]
        assert ("reconstruction-pairs.png" in drawn) is (cell.seed == 0)
        assert [extra.measurement("accuracy").settings["bins"] for extra in extras] == [10] * (cell.seed == 0)
    assert [(d.trained, d.evaluated) for d in run_cells(recipe)] == [(False, False)] * 4
    entry = dict(grids_of(recipe)[0].rows)["five binary labels"][0]
    colours = []
    for cell in recipe.cells[2:]:
        run = result_of(recipe, cell)
        assert run is not None
        names = recipe.data_of[cell.experiment].schema.names[-5:]
        colours.append([run[f"accuracy.balanced_accuracy@{name}"] for name in names])
    undefined = np.isnan(colours).any(0)
    assert 0 < undefined.sum() < 5  # rare colours are missing from the few images
    assert entry.estimate.value == pytest.approx(np.mean(np.array(colours)[:, ~undefined]))
    excluded = {name for name, is_undefined in zip(names, undefined, strict=True) if is_undefined}
    assert set(grids_of(recipe)[0].left_out) >= excluded
    style, without_match, *hair = grids_of(recipe)[1:]
    assert (style.value, without_match.value) == ("reconstruction.kl, columns", "reconstruction.kl, columns none")
    last = next(v for v in run.measurement("reconstruction").values if v.name == "kl" and "columns" in v.at)
    assert last.estimate.value != run["reconstruction.kl"]
    first = result_of(recipe, recipe.cells[2])
    assert first is not None
    other = next(v for v in first.measurement("reconstruction").values if v.name == "kl" and "columns" in v.at)
    found = dict(style.rows)["five binary labels"][0].estimate.value
    assert found == pytest.approx((last.estimate.value + other.estimate.value) / 2)
    assert dict(style.rows)["five binary labels"][0].estimate.n == 2  # over both seeds
    for grid, at in zip(hair, ({"labels": "given"}, {}), strict=True):
        each = [
            value.estimate.value
            for one in (first, run)
            for value in one.measurement("reconstruction").values
            if value.name == "kl" and "Hair" in (value.characteristic or "") and dict(value.at) == at
        ]
        assert len(each) == 2 * 5
        assert dict(grid.rows)["five binary labels"][0].estimate.value == pytest.approx(np.mean(each))
    assert "the run has no value reconstruction.kl, columns none" in dict(without_match.rows)["ccvae"][0].note


def test_an_invalid_extra_evaluation_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'accuracy'"):
        prepared(tmp_path, OTHER_LABELS.replace('metrics = ["accuracy"]\noptions', 'metrics = ["acuracy"]\noptions'))


def test_the_interval_over_seeds_is_students_t() -> None:
    values = [0.7, 0.9, 0.75, 0.6]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert over_seeds([0.1, 0.9], (0, 1)) == Estimate(0.5, 0, 1, 2, "t over training seeds")
    assert over_seeds([0.1, 0.9], (0, None)).high > 1
    assert math.isnan(over_seeds([0.5]).low)
    assert math.isnan(over_seeds([0.5, math.nan]).value)
    assert math.isnan(over_seeds([]).value)


def test_an_entry_without_a_result_is_undefined_and_says_why(tmp_path: Path) -> None:
    (entry, _), *_ = (entries for _, entries in grids_of(prepared(tmp_path))[0].rows)
    assert math.isnan(entry.estimate.value)
    assert entry.note == "2 of 2 cells have no result"


def test_an_error_ends_its_own_cell_only(tmp_path: Path) -> None:
    recipe = prepared(
        tmp_path, RECIPE.replace("learning_rate = 1e-9", "learning_rate = 1e30").replace("seeds = 2", "seeds = 1")
    )
    done = list(run_cells(recipe))
    assert [d.error is None for d in done] == [True, True, False, False]
    assert isinstance(done[-1].error, CcvaeEvalError)


def test_a_stopped_training_resumes(tmp_path: Path) -> None:
    recipe = prepared(tmp_path, RECIPE.replace("seeds = 2", "seeds = 1"))
    with pytest.raises(KeyboardInterrupt):
        list(run_cells(recipe, stop=lambda: True))
    cell = recipe.cells[0]
    assert (recipe.folder_of(cell) / "training" / "training.pt").is_file()
    assert [d.error for d in run_cells(recipe)] == [None] * 4
    fresh = prepared(tmp_path / "fresh", RECIPE.replace("seeds = 2", "seeds = 1"))
    list(run_cells(fresh, shard=(1, 4)))
    resumed, uninterrupted = (read_bundle(each.folder_of(cell) / "checkpoint.pt").tensors for each in (recipe, fresh))
    assert all(bool((resumed[name] == uninterrupted[name]).all()) for name in uninterrupted)


def test_invalid_settings_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'style'"):
        prepared(tmp_path, RECIPE.replace('model = "ccvae"\nafter', 'model = "ccvae"\nsettings = { stile = 3 }\nafter'))
    assert not list(tmp_path.iterdir())


def test_the_reproduce_command(finished: PreparedRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(path), "--out", str(finished.folder), "--json"])
    assert end.value.code == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {entry["model"] for entry in document["entries"]} == {"ccvae", "goes on"}
    assert (finished.folder / "table.md").read_text().startswith("A small one. A source.")
    assert len((finished.folder / "table.csv").read_text().splitlines()) == 1 + 3 * 2 * 2
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "--json"])
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert "accuracy" in {recipe["name"] for recipe in listed}
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(path), "--training", "epoch=3"])
    assert end.value.code == 2
    assert "epochs" in capsys.readouterr().err


def test_hostile_names_stay_inert(tmp_path: Path) -> None:
    grid = Grid("a.b", ("x|y",), (("<script>|[red]", (Entry(over_seeds([1.0])),)),))
    assert "\\|" in grid_markdown(grid)
    draw_grid(grid, tmp_path / "grid.png")
