"""Working on a recipe: what is done, what is found, what fails alone, and what the tables say."""

from __future__ import annotations

import json
import math
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
from ccvae_eval.recipes import Work, grids_of, result_of, tables, work
from ccvae_eval.recipes.recipe import RecipeCell, parse_recipe
from ccvae_eval.recipes.tables import over_seeds
from ccvae_eval.recipes.work import shards, training_of
from ccvae_eval.report.figures import draw_grid
from ccvae_eval.report.grids import Entry, Grid, grid_markdown

RECIPE = """
title = "A small one"
source = "Nobody."
data = "faces,size=32,n=160"
metrics = ["accuracy"]
judge = "none"
sample = 30
seeds = 2
[training]
steps = 2
batch = 16
[axes]
rate = [0.5, 1.0]
[[contenders]]
name = "ccvae"
model = "ccvae"
[[contenders]]
name = "goes on"
model = "ccvae"
after = "ccvae"
training = { learning_rate = 1e-9 }
[[tables]]
value = "accuracy.balanced_accuracy"
published_as = "a test"
published = { ccvae = [0.25, 0.75] }
[[tables]]
value = "training.steps"
[[tables]]
value = "training.seconds_per_epoch"
"""


def task(folder: Path, text: str = RECIPE) -> Work:
    return Work.of(parse_recipe(text, "small", "small.toml"), folder)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Work:
    made = task(tmp_path_factory.mktemp("recipe"))
    done = list(work(made))
    assert [(d.trained, d.evaluated, d.error) for d in done] == [(True, True, None)] * 8
    return made


def test_what_is_there_is_not_done_again(worked: Work) -> None:
    done = list(work(task(worked.folder)))
    assert [(d.trained, d.evaluated, d.error) for d in done] == [(False, False, None)] * 8
    again = task(worked.folder, RECIPE.replace("sample = 30", "sample = 20"))
    assert [(d.trained, d.evaluated) for d in work(again, shard=(1, 8))] == [(False, True)]


def test_shards_share_the_cells(worked: Work) -> None:
    parts = [[d.cell.name for d in work(worked, shard=(i, 3))] for i in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(cell.name for cell in worked.cells)
    assert shards("2/8") == (2, 8)
    for text in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(UsageError, match="no shard"):
            shards(text)


def test_a_contender_starts_from_the_weights_of_another(worked: Work) -> None:
    """At a learning rate of nothing it stays where it started."""
    one, other = (next(c for c in worked.cells if c.contender == name) for name in ("ccvae", "goes on"))
    assert (one.point, one.seed) == (other.point, other.seed)
    theirs, ours = (read_bundle(worked.folder_of(cell) / "checkpoint.pt").tensors for cell in (one, other))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name].numpy(), tensor.numpy(), atol=1e-6)


def test_tables_are_over_seeds_and_beside_what_was_published(worked: Work) -> None:
    accuracy, steps, seconds = grids_of(worked)
    assert accuracy.columns == ("0.5", "1.0")
    assert accuracy.positions == (0.5, 1.0)
    assert accuracy.higher_is_better is True
    name, entries = accuracy.rows[0]
    cells = [c for c in worked.cells if c.contender == "ccvae" and c.point == (("rate", 1.0),)]
    there = [label for label in worked.data.schema.names if label not in accuracy.left_out]
    each = [
        np.mean([result_of(worked, cell)[f"accuracy.balanced_accuracy@{label}"] for label in there])  # type: ignore[index]
        for cell in cells
    ]
    assert (name, entries[1].published, entries[1].estimate.n) == ("ccvae", 0.75, 2)
    assert entries[1].estimate.value == pytest.approx(np.mean(each))
    assert steps.rows[0][1][0].estimate.value == 2
    took = [training_of(worked, cell)["seconds"] for cell in worked.cells[:2]]
    images = len(worked.data.split("train"))
    assert seconds.rows[0][1][0].estimate.value == pytest.approx(np.mean(took) / 2 * images / 16)
    text = grid_markdown(accuracy)
    assert "(0.750)" in text
    assert "* in brackets, published: a test" in text
    for grid in (accuracy, steps):
        assert draw_grid(grid, worked.folder / "figures" / "grid.png").stat().st_size > 1000


def test_no_model_gains_by_being_undefined_where_it_is_bad(worked: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lacks a value in one run is in no mean of the table; a run without any takes nothing from the others."""
    blind, lost = worked.cells[0], worked.cells[-1]

    def number(label: str | None, cell: RecipeCell) -> float:
        """Another one for every label and seed."""
        return float(2 ** worked.data.schema.names.index(label or "") + cell.seed) / 1000

    def seen(task: Work, cell: RecipeCell) -> Run | None:
        run = result_of(task, cell)
        assert run is not None
        measured = run.measurement("accuracy")
        gone = ("Bangs",) if cell == blind else (None, *worked.data.schema.names) if cell == lost else ()
        values = [
            # what was given is in no mean, whatever is left out
            replace(v, estimate=Estimate(number(v.characteristic, cell)), in_mean=v.characteristic != "Smiling")
            if v.characteristic in worked.data.schema.names and v.estimate.defined
            else v
            for v in measured.values
        ]
        values = [replace(v, estimate=Estimate(math.nan)) if v.characteristic in gone else v for v in values]
        return replace(run, measurements=(replace(measured, values=tuple(values)),))

    before = grids_of(worked)[0].left_out
    assert "Bangs" not in before
    monkeypatch.setattr(tables, "result_of", seen)
    grid = grids_of(worked)[0]
    assert grid.left_out == tuple(sorted([*before, "Bangs"]))
    names = [name for name in worked.data.schema.names if name not in (*grid.left_out, "Smiling")]
    cells = [c for c in worked.cells if c.contender == "ccvae" and c.point == (("rate", 1.0),)]
    each = [number(name, cell) for cell in cells for name in names]
    assert dict(grid.rows)["ccvae"][1].estimate.value == pytest.approx(np.mean(each))
    assert math.isnan(dict(grid.rows)["goes on"][1].estimate.value)
    assert f"means without what is undefined in some run: {', '.join(grid.left_out)}" in grid_markdown(grid)


def test_what_chance_gives_stands_below(worked: Work) -> None:
    accuracy, steps, seconds = grids_of(worked)
    chances = [result_of(worked, c).find("accuracy.balanced_accuracy").chance for c in worked.cells]  # type: ignore[union-attr]
    assert accuracy.chance_as == "1/K"
    assert accuracy.chances() == (pytest.approx(np.mean(chances)),) * 2
    assert "chance: 1/K" in grid_markdown(accuracy).splitlines()[6]
    assert steps.chances() == seconds.chances() == ()


SEEN = """
title = "Other labels, and a second look"
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


def test_contenders_may_see_other_labels_and_views_look_again(tmp_path: Path) -> None:
    made = task(tmp_path, SEEN)
    assert [d.error for d in work(made)] == [None] * 4
    for cell in made.cells:
        drawn = [path.name for path in made.folder_of(cell).glob("*/figures/*")]
        views = [read(path.parent) for path in made.folder_of(cell).glob("ten-bins-*/run.json")]
        assert ("reconstruction-pairs.png" in drawn) is (cell.seed == 0)
        assert [view.measurement("accuracy").settings["bins"] for view in views] == [10] * (cell.seed == 0)
    assert [(d.trained, d.evaluated) for d in work(made)] == [(False, False)] * 4
    entry = dict(grids_of(made)[0].rows)["five binary labels"][0]
    colours = []
    for cell in made.cells[2:]:
        run = result_of(made, cell)
        assert run is not None
        names = made.seen[cell.contender].schema.names[-5:]
        colours.append([run[f"accuracy.balanced_accuracy@{name}"] for name in names])
    undefined = np.isnan(colours).any(0)
    assert 0 < undefined.sum() < 5  # the rarer colours are not among the few images
    assert entry.estimate.value == pytest.approx(np.mean(np.array(colours)[:, ~undefined]))
    assert set(grids_of(made)[0].left_out) >= {name for name, gone in zip(names, undefined, strict=True) if gone}
    style, nowhere, *hair = grids_of(made)[1:]
    assert (style.value, nowhere.value) == ("reconstruction.kl, columns", "reconstruction.kl, columns none")
    last = next(v for v in run.measurement("reconstruction").values if v.name == "kl" and "columns" in v.at)
    assert last.estimate.value != run["reconstruction.kl"]
    first = result_of(made, made.cells[2])
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
    assert "no such row: reconstruction.kl, columns none" in dict(nowhere.rows)["ccvae"][0].note


def test_a_view_that_asks_for_nothing_known_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'accuracy'"):
        task(tmp_path, SEEN.replace('metrics = ["accuracy"]\noptions', 'metrics = ["acuracy"]\noptions'))


def test_a_seeds_interval_is_students() -> None:
    values = [0.7, 0.9, 0.75, 0.6]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert over_seeds([0.1, 0.9], (0, 1)) == Estimate(0.5, 0, 1, 2, "t over training seeds")
    assert over_seeds([0.1, 0.9], (0, None)).high > 1
    assert math.isnan(over_seeds([0.5]).low)
    assert math.isnan(over_seeds([0.5, math.nan]).value)
    assert math.isnan(over_seeds([]).value)


def test_a_place_without_a_result_is_undefined_and_says_so(tmp_path: Path) -> None:
    (entry, _), *_ = (entries for _, entries in grids_of(task(tmp_path))[0].rows)
    assert math.isnan(entry.estimate.value)
    assert entry.note == "2 of 2 cells without a result"


def test_a_cell_that_fails_fails_alone(tmp_path: Path) -> None:
    made = task(
        tmp_path, RECIPE.replace("learning_rate = 1e-9", "learning_rate = 1e30").replace("seeds = 2", "seeds = 1")
    )
    done = list(work(made))
    assert [d.error is None for d in done] == [True, True, False, False]
    assert isinstance(done[-1].error, CcvaeEvalError)


def test_a_training_that_is_stopped_goes_on(tmp_path: Path) -> None:
    made = task(tmp_path, RECIPE.replace("seeds = 2", "seeds = 1"))
    with pytest.raises(KeyboardInterrupt):
        list(work(made, stop=lambda: True))
    cell = made.cells[0]
    assert (made.folder_of(cell) / "training" / "training.pt").is_file()
    assert [d.error for d in work(made)] == [None] * 4
    fresh = task(tmp_path / "fresh", RECIPE.replace("seeds = 2", "seeds = 1"))
    list(work(fresh, shard=(1, 4)))
    stopped, straight = (read_bundle(each.folder_of(cell) / "checkpoint.pt").tensors for each in (made, fresh))
    assert all(bool((stopped[name] == straight[name]).all()) for name in straight)


def test_wrong_settings_are_said_before_the_first_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'style'"):
        task(tmp_path, RECIPE.replace('model = "ccvae"\nafter', 'model = "ccvae"\nsettings = { stile = 3 }\nafter'))
    assert not list(tmp_path.iterdir())


def test_the_command(worked: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(path), "--out", str(worked.folder), "--json"])
    assert end.value.code == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {entry["model"] for entry in document["entries"]} == {"ccvae", "goes on"}
    assert (worked.folder / "table.md").read_text().startswith("A small one. Nobody.")
    assert len((worked.folder / "table.csv").read_text().splitlines()) == 1 + 3 * 2 * 2
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
