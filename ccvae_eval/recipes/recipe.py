"""What a recipe says, and how it is read from TOML that anybody may have written.

The cells of a recipe: one training and its evaluation each, named by everything that their numbers depend on.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

from ccvae_eval.core.errors import InputError, UsageError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.training import TrainingSettings

LARGEST = 1 << 20
BUILTIN = "builtin"
ANY = "*"
MOST_CELLS = 10_000

Point = tuple[tuple[str, Plain], ...]
"""One place on the axes: (axis, value) for each axis."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One model of the comparison.

    Args:
        name: its row in the tables.
        model: the registered model.
        settings: the model's own settings.
        training: fields of ``TrainingSettings`` that differ from the recipe's.
        after: the contender whose weights of the same place and seed it starts from; "" for none.
        labels: how it sees the data's labels, on top of the recipe's own ``labels``.
    """

    name: str
    model: str
    settings: Mapping[str, Plain] = field(default_factory=dict)
    training: Mapping[str, Plain] = field(default_factory=dict)
    after: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtraEvaluation:
    """A second look at the first seed's checkpoints, for its figures: the same metrics asked otherwise.

    Args:
        name: its folder's.
        metrics: what is measured.
        options: settings of the metrics.
    """

    name: str
    metrics: tuple[str, ...]
    options: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table of the results.

    Args:
        value: the address of a number in a run (``metric.value[@characteristic]``; ``@Hair*`` is the mean over the
            characteristics of that pattern), or ``training.seconds``,
            ``training.seconds_per_epoch``, ``training.steps``, ``training.parameters``.
        at: what else the number depends on, as ``at`` of a value has it ("*": whatever it is): the row of an assignment
            is at ``do``.
        published: for a contender the published numbers, one for each place on the axes.
        published_as: what those numbers are, where they come from.
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
        """The value's name."""
        return self.value.partition("@")[0].partition(".")[2]

    @property
    def title(self) -> str:
        """The value, and what else it depends on."""
        return ", ".join([self.value, *(key if v == ANY else f"{key} {v}" for key, v in self.at.items())])


@dataclass(frozen=True, slots=True)
class Recipe:
    """A grid of trainings and evaluations.

    Args:
        name: its name.
        title, source: what it shows, and which publication asked first.
        data: the spec of the data, for training and evaluation.
        metrics: what each checkpoint is measured by.
        contenders: the models.
        axes: what is varied for every contender: a field of ``TrainingSettings`` or ``set.KEY``, a setting.
        tables: what is tabulated.
        labels: how labels are renamed or joined (``Hair=A|B``), as ``--label`` has it.
        options: settings of the metrics.
        training: fields of ``TrainingSettings``.
        seeds: trainings of each, with the seeds 0, 1, ...
        sample: images evaluated; None: each metric's own.
        judge: "auto" or "none".
        figures: draw the figures of the first seed's runs.
        views: more looks at the first seed's checkpoints.
        notes: what a reader must know.
    """

    name: str
    title: str
    data: str
    metrics: tuple[str, ...]
    contenders: tuple[Experiment, ...]
    tables: tuple[TableSpec, ...]
    source: str = ""
    axes: Mapping[str, tuple[Plain, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)
    training: Mapping[str, Plain] = field(default_factory=dict)
    seeds: int = 1
    sample: int | None = None
    judge: str = "auto"
    figures: bool = False
    views: tuple[ExtraEvaluation, ...] = ()
    notes: str = ""

    def points(self) -> Iterator[Point]:
        """Every place on the axes; one empty place if there are none."""
        pairs = [[(name, value) for value in values] for name, values in self.axes.items()]
        return itertools.product(*pairs)

    def changed(self, **values: Any) -> Recipe:
        """The recipe with other data, seeds, sample, training, options, or of some contenders; what is None stays."""
        given = {name: value for name, value in values.items() if value is not None}
        if "training" in given:
            given["training"] = {**self.training, **given["training"]}
        if "options" in given:
            more = given["options"]
            given["options"] = {
                name: {**self.options.get(name, {}), **more.get(name, {})} for name in {**self.options, **more}
            }
        if "contenders" in given:
            given["contenders"] = tuple(self._contender(name) for name in given["contenders"])
            names = [contender.name for contender in given["contenders"]]
            given["tables"] = tuple(
                replace(t, published={row: n for row, n in t.published.items() if row in names}) for t in self.tables
            )
        return _checked(replace(self, **given), self.name)

    def _contender(self, name: str) -> Experiment:
        known = {contender.name: contender for contender in self.contenders}
        if name not in known:
            raise UsageError(f"contender {name!r} is unknown", where=self.name, hint=suggestion(name, known))
        return known[name]


def shipped_recipes() -> tuple[str, ...]:
    """The names of the recipes in the package."""
    return tuple(sorted(e.name[:-5] for e in (files(__package__) / BUILTIN).iterdir() if e.name.endswith(".toml")))


def read_recipe(name: str) -> Recipe:
    """A recipe of the package by its name, or a TOML file of the user's own by its path.

    Raises:
        UsageError: an unknown name or key, a value of the wrong type, settings out of range.
        InputError: a file that is missing, too large or no TOML.
    """
    path = Path(name)
    if path.suffix == ".toml":
        try:
            if path.stat().st_size > LARGEST:
                raise InputError("too large for a recipe", where=name, why=f"over {LARGEST >> 20} MiB")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError("cannot be read", where=name, why=error.strerror or str(error)) from None
        except ValueError:
            raise InputError("not a text file", where=name) from None
        return parse_recipe(text, path.stem, name)
    if name not in shipped_recipes():
        hint = suggestion(name, shipped_recipes()) + " A file of your own ends in .toml."
        raise UsageError(f"recipe {name!r} is unknown", hint=hint.strip())
    return parse_recipe((files(__package__) / BUILTIN / f"{name}.toml").read_text(encoding="utf-8"), name, name)


def parse_recipe(text: str, name: str, where: str) -> Recipe:
    """A recipe from TOML text."""
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("not a recipe", where=where, why=f"no TOML: {error}") from None
    read = _Reader(plain, where)
    recipe = Recipe(
        name=name,
        title=read.text("title"),
        source=read.text("source", ""),
        data=read.text("data"),
        metrics=read.texts("metrics"),
        contenders=tuple(_contender(row) for row in read.rows("contenders")),
        tables=tuple(_table(row) for row in read.rows("tables")),
        axes={axis: tuple(values) for axis, values in read.mapping("axes", list).items()},
        labels=read.texts("labels", ()),
        options=read.mapping("options", dict),
        training=read.mapping("training"),
        seeds=read.whole("seeds", 1),
        sample=read.whole("sample", 0) or None,
        judge=read.text("judge", "auto"),
        figures=read.yes("figures"),
        views=tuple(_view(row) for row in read.rows("views", [])),
        notes=read.text("notes", ""),
    )
    read.finish()
    return _checked(recipe, where)


def _contender(read: _Reader) -> Experiment:
    row = Experiment(
        read.text("name"),
        read.text("model"),
        read.mapping("settings"),
        read.mapping("training"),
        read.text("after", ""),
        read.texts("labels", ()),
    )
    read.finish()
    return row


def _view(read: _Reader) -> ExtraEvaluation:
    row = ExtraEvaluation(read.text("name"), read.texts("metrics"), read.mapping("options", dict))
    read.finish()
    return row


def _table(read: _Reader) -> TableSpec:
    numbers = read.mapping("published", list)
    try:
        published = {row: tuple(float(number) for number in each) for row, each in numbers.items()}
    except (TypeError, ValueError):
        raise UsageError("published numbers are lists of numbers", where=f"{read.where}: published") from None
    row = TableSpec(read.text("value"), read.mapping("at"), published, read.text("published_as", ""))
    read.finish()
    return row


def _checked(recipe: Recipe, where: str) -> Recipe:
    """Refuses what cannot be worked on, before anything is trained."""
    names = [contender.name for contender in recipe.contenders]
    known = [f.name for f in fields(TrainingSettings) if f.name != "seed"]
    if len(set(names)) != len(names):
        raise UsageError("two contenders have one name", where=where)
    for number, contender in enumerate(recipe.contenders):
        if contender.after and contender.after not in names[:number]:
            raise UsageError(
                f"{contender.name!r} starts from {contender.after!r}, which does not stand before it", where=where
            )
    for name in recipe.options:
        if name not in recipe.metrics:
            raise UsageError(
                f"options of {name!r}, which is not measured", where=where, hint=suggestion(name, recipe.metrics)
            )
    for axis, values in recipe.axes.items():
        if not axis.startswith("set.") and axis not in known:
            raise UsageError(f"axis {axis!r} is unknown", where=where, hint=f"set.KEY, or: {suggestion(axis, known)}")
        if not values:
            raise UsageError(f"axis {axis!r} has no value", where=where)
    for training in (recipe.training, *(contender.training for contender in recipe.contenders)):
        for key in training:
            if key not in known:
                raise UsageError(f"training has no setting {key!r}", where=where, hint=suggestion(key, known))
    count = len(recipe.contenders) * len(list(recipe.points())) * recipe.seeds
    if not 1 <= count <= MOST_CELLS:
        raise UsageError(f"a recipe of {count} trainings", where=where, hint=f"1 to {MOST_CELLS}.")
    for table in recipe.tables:
        for row, numbers in table.published.items():
            if len(numbers) != len(list(recipe.points())):
                raise UsageError(
                    f"{len(numbers)} published numbers of {row!r} for {len(list(recipe.points()))} places", where=where
                )
    return recipe


class _Reader:
    """One table of TOML: every key is asked for by name and type; what nobody asked for is an error."""

    def __init__(self, plain: Mapping[str, Any], where: str) -> None:
        self.plain, self.where, self.asked = plain, where, list[str]()

    def _value(self, key: str, kind: type, default: Any) -> Any:
        self.asked.append(key)
        value = self.plain.get(key, default)
        if value is None:
            raise UsageError(f"{key!r} is missing", where=self.where)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UsageError(f"{key!r} is not of type {kind.__name__}", where=self.where)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._value(key, str, default))

    def whole(self, key: str, default: int) -> int:
        return int(self._value(key, int, default))

    def yes(self, key: str) -> bool:
        return bool(self._value(key, bool, False))

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        found = self._value(key, list, None if default is None else list(default))
        if not all(isinstance(each, str) for each in found):
            raise UsageError(f"{key!r} is not a list of texts", where=self.where)
        return tuple(found)

    def mapping(self, key: str, each: type | None = None) -> dict[str, Any]:
        found: dict[str, Any] = dict(self._value(key, dict, {}))
        for name, value in found.items():
            if each is not None and not isinstance(value, each):
                raise UsageError(f"{key}.{name} is not of type {each.__name__}", where=self.where)
        return found

    def rows(self, key: str, default: list[Any] | None = None) -> list[_Reader]:
        found = self._value(key, list, default)
        if (not found and default is None) or not all(isinstance(row, dict) for row in found):
            raise UsageError(f"{key!r} is not a list of tables", where=self.where, hint=f"Write [[{key}]].")
        return [_Reader(row, f"{self.where}: {key} {number}") for number, row in enumerate(found, 1)]

    def finish(self) -> None:
        for key in self.plain:
            if key not in self.asked:
                raise UsageError(f"key {key!r} is unknown", where=self.where, hint=suggestion(key, self.asked))


@dataclass(frozen=True, slots=True)
class RecipeCell:
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


def cells_of(recipe: Recipe, digests: Mapping[str, str], evaluation: Plain) -> list[RecipeCell]:
    """Every cell, contender by contender, so that whoever starts from another's weights comes after it.

    Args:
        recipe: what to do.
        digests: for each contender the digest of its data, labels as it sees them.
        evaluation: what a run depends on besides the checkpoint: metrics, their versions and settings, sample, judge.
    """
    run_key = digest(evaluation)
    cells: list[RecipeCell] = []
    for contender in recipe.contenders:
        for point in recipe.points():
            for seed in range(recipe.seeds):
                cells.append(_cell(recipe, contender, point, seed, digests[contender.name], run_key, cells))
    return cells


def _cell(
    recipe: Recipe, contender: Experiment, point: Point, seed: int, data: str, run_key: str, before: list[RecipeCell]
) -> RecipeCell:
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
    return RecipeCell(contender.name, point, seed, contender.model, settings, how, key, run_key, after)


def digest(plain: Plain) -> str:
    """A short name for plain data that changes when they do."""
    return blake2b(json.dumps(plain, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
