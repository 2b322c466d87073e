"""The cells of a recipe: one training and its evaluation each, named by everything that their numbers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from ccvae_eval.errors import UsageError
from ccvae_eval.recipes.recipe import Contender, Point, Recipe
from ccvae_eval.training import TrainingSettings
from ccvae_eval.types import Plain


@dataclass(frozen=True, slots=True)
class Cell:
    """One training and its evaluation.

    Args:
        contender, point, seed: its place in the recipe.
        model, settings, training: what is trained, and how.
        training_key: stands for everything that the checkpoint depends on, the data's digest included.
        run_key: stands for everything else that the run depends on.
        after: the ``training_key`` of the cell whose weights it starts from.
    """

    contender: str
    point: Point
    seed: int
    model: str
    settings: Mapping[str, Plain]
    training: TrainingSettings
    training_key: str
    run_key: str
    after: str = ""

    @property
    def name(self) -> str:
        """For people: contender, place and seed."""
        place = ", ".join(f"{axis.removeprefix('set.')} {value}" for axis, value in self.point)
        return f"{self.contender}{', ' + place if place else ''}, seed {self.seed}"


def cells_of(recipe: Recipe, digests: Mapping[str, str], evaluation: Plain) -> list[Cell]:
    """Every cell, contender by contender, so that whoever starts from another's weights comes after it.

    Args:
        recipe: what to do.
        digests: for each contender the digest of its data, labels as it sees them.
        evaluation: what a run depends on besides the checkpoint: metrics, their versions and settings, sample, judge.
    """
    run_key = digest(evaluation)
    cells: list[Cell] = []
    for contender in recipe.contenders:
        for point in recipe.points():
            for seed in range(recipe.seeds):
                cells.append(_cell(recipe, contender, point, seed, digests[contender.name], run_key, cells))
    return cells


def _cell(
    recipe: Recipe, contender: Contender, point: Point, seed: int, data: str, run_key: str, before: list[Cell]
) -> Cell:
    settings = dict(contender.settings)
    training: dict[str, Any] = {**recipe.training, **contender.training}
    for axis, value in point:
        if axis.startswith("set."):
            settings[axis.removeprefix("set.")] = value
        else:
            training[axis] = value
    if "labels" in training:
        training["labels"] = tuple(training["labels"])
    try:
        how = TrainingSettings(**training, seed=seed)
    except TypeError as error:
        raise UsageError("not a setting of a training", where=contender.name, hint=str(error)) from None
    after = next(
        (c.training_key for c in before if (c.contender, c.point, c.seed) == (contender.after, point, seed)), ""
    )
    key = digest([contender.model, settings, asdict(how), data, after])
    return Cell(contender.name, point, seed, contender.model, settings, how, key, run_key, after)


def digest(plain: Plain) -> str:
    """A short name for plain data that changes when they do."""
    return blake2b(json.dumps(plain, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
