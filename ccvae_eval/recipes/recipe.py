"""Recipes, read from untrusted TOML, and their cells.

A cell is one training and its evaluation. Its keys are digests of everything that its numbers depend on.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.typed import Range, load_toml, read
from ccvae_eval.core.types import Plain
from ccvae_eval.training.settings import TrainingSettings

BUILTIN = "builtin"
ANY = "*"
MAX_CELLS = 10_000

GridPoint = tuple[tuple[str, Plain], ...]
"""One point of the grid: (axis, value) for each axis."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One model of the comparison (``[[contenders]]`` in TOML).

    Args:
        name: its row in the tables.
        model: name of a registered model.
        settings: the model's own settings.
        training: fields of ``TrainingSettings`` that differ from the recipe's.
        after: the experiment whose weights, at the same grid point and seed, are the starting point; "" = none.
        labels: how labels are renamed or joined, after the recipe's own ``labels``.
    """

    name: str
    model: str
    settings: Mapping[str, Plain] = field(default_factory=dict)
    training: Mapping[str, Plain] = field(default_factory=dict)
    after: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtraEvaluation:
    """Further metrics or settings for the checkpoints of the first seed, with figures (``[[views]]`` in TOML).

    Args:
        name: names the folder of the results.
        metrics: metrics to evaluate.
        options: settings of the metrics.
    """

    name: str
    metrics: tuple[str, ...]
    options: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table of the results.

    Args:
        value: address of a number in a run (``metric.value[@characteristic]``; ``@Hair*`` is the mean over matching
            characteristics), or ``training.seconds``, ``training.seconds_per_epoch``, ``training.steps``,
            ``training.parameters`` or ``training.late_improvement``.
        at: selects the value by its ``at`` ("*" matches anything); an assignment, for example, is at ``do``.
        published: published numbers of an experiment, one per grid point.
        published_as: description and source of the published numbers.
    """

    value: str
    at: Mapping[str, Plain] = field(default_factory=dict)
    published: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    published_as: str = ""

    @property
    def metric(self) -> str:
        return self.value.partition(".")[0]

    @property
    def name(self) -> str:
        """Name of the value."""
        return self.value.partition("@")[0].partition(".")[2]

    @property
    def title(self) -> str:
        """Address of the value, with its ``at``."""
        return ", ".join([self.value, *(key if v == ANY else f"{key} {v}" for key, v in self.at.items())])


@dataclass(frozen=True, slots=True)
class Recipe:
    """A grid of trainings and evaluations.

    Args:
        name: name of the recipe.
        title, source: the question, and the publication that asked it first.
        data: data spec for training and evaluation.
        metrics: metrics to evaluate on every checkpoint.
        experiments: the models to compare.
        tables: the tables to write.
        axes: what is varied for every experiment: fields of ``TrainingSettings``, or ``set.KEY`` for a model setting.
        labels: how labels are renamed or joined (``Hair=A|B``), as for ``--rename``.
        options: settings of the metrics.
        training: fields of ``TrainingSettings``.
        seeds: number of trainings per experiment and grid point, with seeds 0, 1, ...
        sample: number of images to evaluate; None = each metric's default.
        judge: "auto" or "none".
        figures: True = draw figures for the first seed.
        extra_evaluations: further evaluations of the first seed's checkpoints.
        notes: remarks for the reader of the tables.
    """

    name: str
    title: str
    data: str
    metrics: tuple[str, ...]
    experiments: tuple[Experiment, ...] = field(metadata={"key": "contenders"})
    tables: tuple[TableSpec, ...]
    source: str = ""
    axes: Mapping[str, tuple[Plain, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)
    training: Mapping[str, Plain] = field(default_factory=dict)
    seeds: int = 1
    sample: Annotated[int, Range(least=1)] | None = None
    judge: str = "auto"
    figures: bool = False
    extra_evaluations: tuple[ExtraEvaluation, ...] = field(default=(), metadata={"key": "views"})
    notes: str = ""

    def points(self) -> Iterator[GridPoint]:
        """All grid points; one empty point without axes."""
        pairs = [[(name, value) for value in values] for name, values in self.axes.items()]
        return itertools.product(*pairs)

    def changed(self, **values: Any) -> Recipe:
        """A copy with other field values. None keeps a field; training and options are merged into the recipe's.

        Args:
            values: fields of the recipe; ``experiments`` takes names and keeps only those.

        Raises:
            UsageError: an unknown experiment, or a recipe that is no longer consistent.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if "training" in given:
            given["training"] = {**self.training, **given["training"]}
        if "options" in given:
            more = given["options"]
            given["options"] = {
                name: {**self.options.get(name, {}), **more.get(name, {})} for name in {**self.options, **more}
            }
        if "experiments" in given:
            given["experiments"] = tuple(self._experiment(name) for name in given["experiments"])
            names = [experiment.name for experiment in given["experiments"]]
            given["tables"] = tuple(
                replace(t, published={row: n for row, n in t.published.items() if row in names}) for t in self.tables
            )
        return _checked(replace(self, **given), self.name)

    def _experiment(self, name: str) -> Experiment:
        known = {experiment.name: experiment for experiment in self.experiments}
        if name not in known:
            raise UsageError(f"experiment {name!r} is unknown", where=self.name, hint=suggestion(name, known))
        return known[name]


def builtin_recipes() -> tuple[str, ...]:
    """Names of the recipes in the package."""
    return tuple(sorted(e.name[:-5] for e in (files(__package__) / BUILTIN).iterdir() if e.name.endswith(".toml")))


def read_recipe(name: str) -> Recipe:
    """Read a built-in recipe by its name, or a TOML file by its path.

    Raises:
        UsageError: an unknown name or key, a value of the wrong type, or settings out of range.
        InputError: the file is missing, too large or not valid TOML.
    """
    path = Path(name)
    if path.suffix == ".toml":
        return _recipe(load_toml(path), path.stem, name)
    if name not in builtin_recipes():
        hint = suggestion(name, builtin_recipes()) + " The path of your own recipe must end in .toml."
        raise UsageError(f"recipe {name!r} is unknown", hint=hint)
    return parse_recipe((files(__package__) / BUILTIN / f"{name}.toml").read_text(encoding="utf-8"), name, name)


def parse_recipe(text: str, name: str, where: str) -> Recipe:
    """Parse a recipe from TOML text."""
    return _recipe(load_toml(text.encode(), where), name, where)


def _recipe(table: Plain, name: str, where: str) -> Recipe:
    return _checked(read(Recipe, table, where, error=UsageError, name=name), where)


def _checked(recipe: Recipe, where: str) -> Recipe:
    """Check a recipe for consistency before anything is trained."""
    names = [experiment.name for experiment in recipe.experiments]
    known = [f.name for f in fields(TrainingSettings) if f.name != "seed"]
    for index, experiment in enumerate(recipe.experiments):
        if experiment.name in names[:index]:
            raise UsageError(f"two experiments are named {experiment.name!r}", where=where)
        if experiment.after and experiment.after not in names[:index]:
            what = f"experiment {experiment.name!r} starts from {experiment.after!r}, which must come before it"
            raise UsageError(what, where=where)
    for name in recipe.options:
        if name not in recipe.metrics:
            hint = suggestion(name, recipe.metrics)
            raise UsageError(f"options are given for {name!r}, which is not among the metrics", where=where, hint=hint)
    for axis, values in recipe.axes.items():
        if not axis.startswith("set.") and axis not in known:
            hint = f"Use set.KEY or a training setting. {suggestion(axis, known)}"
            raise UsageError(f"axis {axis!r} is unknown", where=where, hint=hint)
        if not values:
            raise UsageError(f"axis {axis!r} needs at least one value", where=where)
    for training in (recipe.training, *(experiment.training for experiment in recipe.experiments)):
        for key in training:
            if key not in known:
                raise UsageError(f"training setting {key!r} is unknown", where=where, hint=suggestion(key, known))
    points = math.prod(map(len, recipe.axes.values()))
    count = len(recipe.experiments) * points * recipe.seeds
    if not 1 <= count <= MAX_CELLS:
        raise UsageError(f"a recipe must have 1 to {MAX_CELLS} trainings, got {count}", where=where)
    for table in recipe.tables:
        for row, numbers in table.published.items():
            if len(numbers) != points:
                what = f"{row!r} must have {points} published numbers (one per grid point), got {len(numbers)}"
                raise UsageError(what, where=where)
    return recipe


@dataclass(frozen=True, slots=True)
class RecipeCell:
    """One training and its evaluation.

    Args:
        experiment, point, seed: position in the recipe.
        model, settings, training: what is trained.
        training_key: digest of everything that the checkpoint depends on, including the data.
        run_key: digest of everything else that the run depends on.
        after: ``training_key`` of the cell whose weights are the starting point; "" = none.
    """

    experiment: str
    point: GridPoint
    seed: int
    model: str
    settings: Mapping[str, Plain]
    training: TrainingSettings
    training_key: str
    run_key: str
    after: str = ""

    @property
    def name(self) -> str:
        """Experiment, grid point and seed in words."""
        point = ", ".join(f"{axis.removeprefix('set.')} {value}" for axis, value in self.point)
        return f"{self.experiment}{', ' + point if point else ''}, seed {self.seed}"


def cells_of(recipe: Recipe, digests: Mapping[str, str], evaluation: Plain) -> list[RecipeCell]:
    """All cells, experiment by experiment: a cell comes after the one whose weights it starts from.

    Args:
        recipe: the recipe.
        digests: for each experiment, the digest of its data, with the labels as it sees them.
        evaluation: what a run depends on besides the checkpoint: metrics, their versions and settings, sample, judge.
    """
    run_key = digest(evaluation)
    cells: list[RecipeCell] = []
    for experiment, point, seed in itertools.product(recipe.experiments, recipe.points(), range(recipe.seeds)):
        cells.append(_cell(recipe, experiment, point, seed, digests[experiment.name], run_key, cells))
    return cells


def _cell(
    recipe: Recipe, experiment: Experiment, point: GridPoint, seed: int, data: str, run_key: str, done: list[RecipeCell]
) -> RecipeCell:
    settings = dict(experiment.settings)
    fields_: dict[str, Any] = {**recipe.training, **experiment.training}
    for axis, value in point:
        if axis.startswith("set."):
            settings[axis.removeprefix("set.")] = value
        else:
            fields_[axis] = value
    training = read(TrainingSettings, fields_, experiment.name, error=UsageError, seed=seed)
    start = (experiment.after, point, seed)
    after = next((c.training_key for c in done if (c.experiment, c.point, c.seed) == start), "")
    key = digest([experiment.model, settings, asdict(training), data, after])
    return RecipeCell(experiment.name, point, seed, experiment.model, settings, training, key, run_key, after)


def digest(plain: Plain) -> str:
    """Short hash of plain data."""
    return blake2b(json.dumps(plain, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
