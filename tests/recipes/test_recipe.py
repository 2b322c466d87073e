"""Recipes: reading, validation, and the keys of cells."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path

import pytest

from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.typed import Limits
from ccvae_eval.data.spec import open_data
from ccvae_eval.plugins import registry
from ccvae_eval.recipes.recipe import (
    Recipe,
    RecipeCell,
    builtin_recipes,
    cells_of,
    parse_recipe,
    read_recipe,
)
from tests.support.paths import ROOT

PLAIN = """
title = "Two models"
data = "faces,size=32,n=300"
metrics = ["accuracy"]
seeds = 2
[training]
epochs = 2
[axes]
rate = [0.5, 1.0]
"set.alpha" = [0.0, 0.02, 0.1]
[[contenders]]
name = "one"
model = "ccvae"
settings = { style = 3 }
[[contenders]]
name = "two"
model = "ccvae"
after = "one"
training = { epochs = 1 }
[[tables]]
value = "accuracy.accuracy"
published = { one = [1, 2, 3, 4, 5, 6] }
"""


def cells(recipe: Recipe, data: str = "digest", evaluation: str = "evaluation") -> list[RecipeCell]:
    return cells_of(recipe, {experiment.name: data for experiment in recipe.experiments}, evaluation)


def parsed(text: str = PLAIN) -> Recipe:
    return parse_recipe(text, "two", "two.toml")


def test_a_recipe_is_a_grid() -> None:
    recipe = parsed()
    points = list(recipe.points())
    assert len(points) == 6
    assert points[1] == (("rate", 0.5), ("set.alpha", 0.02))
    assert recipe.tables[0].published["one"] == (1, 2, 3, 4, 5, 6)
    found = cells(recipe)
    assert len(found) == 2 * 6 * 2
    first, last = found[0], found[-1]
    assert (first.experiment, first.seed, first.settings) == ("one", 0, {"style": 3, "alpha": 0.0})
    assert (first.training.rate, first.training.epochs, first.training.seed) == (0.5, 2, 0)
    assert (last.experiment, last.seed, last.training.epochs, last.settings) == ("two", 1, 1, {"alpha": 0.1})
    assert last.name == "two, rate 1.0, alpha 0.1, seed 1"
    assert len({cell.training_key for cell in found}) == len(found)
    by_point = {(c.experiment, c.point, c.seed): c for c in found}
    assert last.after == by_point["one", last.point, 1].training_key


@pytest.mark.parametrize(
    ("change", "training", "run"),
    [
        (lambda text: text.replace('title = "Two', 'title = "2'), False, False),
        (lambda text: text.replace("epochs = 2", "epochs = 3"), True, False),
        (lambda text: text.replace("style = 3", "style = 4"), True, False),
    ],
)
def test_keys_change_with_what_the_numbers_depend_on(change: Callable[[str], str], training: bool, run: bool) -> None:
    before, after = (cells(parsed(text))[0] for text in (PLAIN, change(PLAIN)))
    assert (before.training_key != after.training_key) is training
    assert (before.run_key != after.run_key) is run


def test_data_change_the_training_key_and_the_evaluation_changes_the_run_key() -> None:
    first, other_data, other_evaluation = (
        cells(parsed(), data, how)[0] for data, how in (("a", "x"), ("b", "x"), ("a", "y"))
    )
    assert first.training_key != other_data.training_key
    assert first.training_key == other_evaluation.training_key
    assert first.run_key != other_evaluation.run_key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title", "titel", "titel is unknown\nDid you mean 'title'"),
        ("seeds = 2", "seeds = 2\nsample = true", "two.toml: sample must be an integer, got true"),
        ("seeds = 2", "seeds = 2\nsample = 0", "sample must be at least 1, got 0"),
        ('title = "Two models"', "", "title is missing"),
        ("seeds = 2", "seeds = 0", "1 to 10000 trainings, got 0"),
        ("seeds = 2", "seeds = 10000", "1 to 10000 trainings, got 120000"),
        ("seeds = 2", "sedes = 2", "Did you mean 'seeds'"),
        ('metrics = ["accuracy"]', 'metrics = "accuracy"', "metrics must be a list, got 'accuracy'"),
        ('metrics = ["accuracy"]', "metrics = [1]", r"metrics\[0\] must be a string, got 1"),
        ("epochs = 2", "epoch = 2", "Did you mean 'epochs'"),
        ("epochs = 2", "seed = 2", "training setting 'seed' is unknown"),
        ("rate = [", "rat = [", "Did you mean 'rate'"),
        ("rate = [0.5, 1.0]", "rate = []", "needs at least one value"),
        ("rate = [0.5, 1.0]", "rate = 1.0", "axes.rate must be a list, got 1.0"),
        ('name = "two"', 'name = "one"', "two experiments are named 'one'"),
        ("seeds = 2", "seeds = 2\nfigures = 1", "figures must be true or false, got 1"),
        ('after = "one"', 'after = "two"', "must come before it"),
        ('model = "ccvae"\nafter', 'modle = "ccvae"\nafter', r"contenders\[1\].modle is unknown\nDid you mean 'model'"),
        ("published = { one = [1, ", "published = { one = [", "must have 6 published numbers"),
        ("published = { one = [1, ", "published = { one = ['x', ", r"published.one\[0\] must be a number, got 'x'"),
        ("[[tables]]", "[tables]", "tables must be a list, got an object"),
    ],
)
def test_an_invalid_recipe_is_refused(old: str, new: str, message: str) -> None:
    assert old in PLAIN
    with pytest.raises(UsageError, match=message):
        parsed(PLAIN.replace(old, new))


def test_settings_out_of_range_are_refused_before_training() -> None:
    with pytest.raises(UsageError, match="rate"):
        cells(parsed(PLAIN.replace("[0.5, 1.0]", "[0.5, 2.0]")))


def test_an_unreadable_recipe_file_is_refused(tmp_path: Path) -> None:
    broken, huge, deep = (tmp_path / f"{name}.toml" for name in ("broken", "huge", "deep"))
    broken.write_bytes(b"\xff\xfe")
    huge.write_bytes(b"#" * (Limits().size + 1))
    deep.write_text("a = " + "[" * 100_000)
    for path, message in ((broken, "not UTF-8 text"), (huge, "is too large"), (deep, "nested more than")):
        with pytest.raises(InputError, match=message):
            read_recipe(str(path))
    with pytest.raises(InputError, match="cannot be opened"):
        read_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"Did you mean 'accuracy'\? The path of your own recipe must end in \.toml"):
        read_recipe("acuracy")


def test_changes_are_validated() -> None:
    changed = parsed().changed(data="digits", seeds=3, sample=None, training={"epochs": 7})
    assert (changed.data, changed.seeds, changed.sample, changed.training["epochs"]) == ("digits", 3, None, 7)
    with pytest.raises(UsageError, match="Did you mean 'epochs'"):
        parsed().changed(training={"epoch": 7})
    with pytest.raises(UsageError, match="Did you mean 'accuracy'"):
        parsed().changed(options={"acuracy": {"bins": 5}})
    with pytest.raises(UsageError, match="experiment 'tow' is unknown\nDid you mean 'two'"):
        parsed().changed(experiments=["tow"])
    with pytest.raises(UsageError, match="starts from 'one'"):
        parsed().changed(experiments=["two"])
    one = parsed().changed(experiments=["one"], options={"accuracy": {"bins": 5}})
    assert [experiment.name for experiment in one.experiments] == ["one"]
    assert one.options == {"accuracy": {"bins": 5}}
    found = cells(one)
    assert [cell.training_key for cell in found] == [cell.training_key for cell in cells(parsed())[: len(found)]]


def test_the_recipe_in_the_docs_is_valid() -> None:
    """It is not built in because its data need a path."""
    path = ROOT / "docs" / "labels-celeba.toml"
    recipe = read_recipe(str(path)).changed(data="celeba:somewhere")
    assert [len(value) for value in recipe.axes["labels"]] == [2, 4, 8, 18]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", builtin_recipes())
def test_a_builtin_recipe_uses_registered_names(name: str) -> None:
    recipe = read_recipe(name)
    assert {experiment.model for experiment in recipe.experiments} <= set(registry.models)
    assert set(recipe.metrics) <= set(registry.metrics)
    assert recipe.data.partition(",")[0] in registry.data_sets
    for table in recipe.tables:
        metric, _, value = table.value.partition(".")
        if metric != "training":
            assert metric in recipe.metrics
            name, at, characteristic = value.partition("@")
            assert name in registry.metrics[metric].values
            names = {n for e in recipe.experiments for n in open_data(recipe.data, e.labels).schema.names}
            assert not at or fnmatch.filter(names, characteristic)
        assert set(table.published) <= {experiment.name for experiment in recipe.experiments}
