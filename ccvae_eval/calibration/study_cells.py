"""Measuring the models of a calibration, one after the other, and keeping what was measured.

What a metric is shown of a model before anything is measured: some ask for what the oracle does not have.

The oracle's posteriors are point masses, which have no density, so there is nothing to bound; and its characteristics
are blocks of several columns, of which no closed form tells what a forest reads out of them. A stage gives either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from ccvae_eval.calibration.code_faults import FullModel, PerturbedModel
from ccvae_eval.calibration.perturbations import Perturbation, PerturbationContext
from ccvae_eval.calibration.verdict import Reading
from ccvae_eval.core.errors import CcvaeEvalError, UndefinedError, UnsupportedError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.results import Value
from ccvae_eval.core.types import Floats, Gaussian, Images, Labels, Plain
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.judge import Judge
from ccvae_eval.model.interface import LatentLayout
from ccvae_eval.oracle.model import VERSION


@dataclass(frozen=True, slots=True)
class View:
    """How a metric is shown the models of its calibration.

    Args:
        name: stands for it in what is kept.
        narrow: each characteristic is its first column alone; only binary labels, which have one such column.
        scale: the deviation of q(z|x) in every column; 0 = as the model has it.
    """

    name: str = ""
    narrow: bool = False
    scale: float = 0.0

    def __call__(self, model: FullModel) -> FullModel:
        """The model as it is shown."""
        return Staged(model, self) if self.name else model


PLAIN = View()
VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "disentanglement": View("narrow", narrow=True, scale=0.5),
        "reconstruction": View("soft", scale=0.05),
    }
)
"""By metric; all others see the models as they are."""


class Staged(PerturbedModel):
    """A model as a stage shows it.

    Args:
        inner: the model.
        stage: how.
    """

    def __init__(self, inner: FullModel, stage: View) -> None:
        super().__init__(inner)
        self.stage = stage

    @property
    def layout(self) -> LatentLayout:
        whole = self.inner.layout
        if not self.stage.narrow:
            return whole
        return LatentLayout(whole.dim, {name: columns[:1] for name, columns in whole.characteristics.items()})

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        found = self.inner.encode(images, labels)
        return Gaussian(found.loc, torch.full_like(found.loc, self.stage.scale)) if self.stage.scale else found

    def conditional_prior(self, labels: Labels) -> Gaussian:
        whole = self.inner.conditional_prior(labels)
        order = self.inner.layout.characteristic_columns
        return whole.columns([order.index(column) for column in self.layout.characteristic_columns])


CELLS = 2
"""Version of the saboteurs: another number, other cells."""

Table = Mapping[tuple[str, str | None], Reading]
"""Readings by (row, characteristic), None = the mean over characteristics. A row is a value's name, with what else
tells its rows apart (``composition m=10``), see :func:`row_of`."""

SAID = frozenset({"likelihood", "K", "features", "N", "bins", "do"})
"""What rows say of themselves: it tells no two rows of a value apart."""
TOLD_APART = frozenset({"where", "m", "pair", "labels", "of"})
"""What makes several rows of one value. Rows that depend on anything else (a judged label, a column) are left out."""


@dataclass(frozen=True)
class StudyCell:
    """One model and the metrics that look at it.

    Args:
        bench: the images and the model before it is spoilt.
        dial, position: which saboteur.
        metrics: those that look.
        characteristics: those that they look at.
        judge: the judge, or None.
        stage: how they are shown the model.
    """

    bench: PerturbationContext
    dial: Perturbation
    position: float
    metrics: tuple[Metric, ...]
    characteristics: tuple[str, ...]
    judge: Judge | None = None
    stage: View = PLAIN

    def subject(self) -> Subject:
        """The spoilt model with its images, encoded."""
        model: FullModel = self.dial.spoil(self.bench, self.dial.strength(self.position))
        return prepare(
            self.stage(model),
            self.bench.data,
            self.bench.ids,
            seed=self.bench.seed,
            judge=self.judge,
            characteristics=self.characteristics,
        )

    def name(self, metric: Metric) -> str:
        """Stands for everything that this metric's numbers depend on."""
        model = self.bench.model
        key = [
            CELLS,
            VERSION,
            self.bench.data.digest,
            blake2b(self.bench.ids.tobytes(), digest_size=16).hexdigest(),
            self.bench.seed,
            self.bench.model_name if model is not None else "oracle",
            self.stage.name,
            list(self.bench.names),
            list(self.characteristics),
            self.dial.base if self.position == 0 else f"{self.dial.name} {self.dial.strength(self.position)!r}",
            "" if self.judge is None else self.judge.sha256,
            metric.name,
            metric.version,
            settings_of(metric),
        ]
        return blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()


@dataclass
class CellStore:
    """What has been measured; kept in files, so that an interrupted calibration goes on where it stopped.

    Args:
        folder: where; None = nowhere but in memory.
    """

    folder: Path | None = None
    _tables: dict[str, Table] = field(default_factory=dict)

    def missing(self, cell: StudyCell) -> list[Metric]:
        """The cell's metrics that are not measured yet."""
        return [metric for metric in cell.metrics if self._known(cell.name(metric)) is None]

    def measure(self, cell: StudyCell) -> None:
        """Measures what is missing of a cell. A metric that does not apply to it is kept as having no numbers."""
        missing = self.missing(cell)
        if not missing:
            return
        try:
            run = evaluate(cell.subject(), missing)
            found = {m.metric: _table(m.values, "" if m.reason is None else m.reason.text) for m in run.measurements}
        except (UnsupportedError, UndefinedError) as error:
            found = {metric.name: _table((), error.what) for metric in missing}
        for metric in missing:
            self._put(cell.name(metric), found[metric.name])

    def table(self, cell: StudyCell, metric: Metric) -> Table:
        """What a metric has found in a cell that was measured."""
        found = self._known(cell.name(metric))
        if found is None:
            raise CcvaeEvalError("a cell was not measured", where=f"{cell.dial.name} {cell.position:g}")
        return found

    def _known(self, name: str) -> Table | None:
        if name not in self._tables and self.folder is not None:
            try:
                plain = json.loads((self.folder / f"{name}.json").read_text())
                self._tables[name] = {(str(row[0]), row[1]): _reading(row[2:]) for row in plain}
            except (OSError, ValueError, TypeError, IndexError):
                return None
        return self._tables.get(name)

    def _put(self, name: str, table: Table) -> None:
        self._tables[name] = table
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = [[value, who, *_plain(reading)] for (value, who), reading in table.items()]
            atomic_write(self.folder / f"{name}.json", json.dumps(rows, allow_nan=False).encode())


IMAGE = {"where": "image"}
WHOLE = ""
"""The value's name in the row that says why a metric has no numbers at all."""


def row_of(value: Value) -> str | None:
    """The row that a value is kept in; None if it is not kept.

    >>> from ccvae_eval.core.results import Estimate
    >>> [row_of(Value("error", Estimate(0.0), at=at)) for at in ({"where": "inside"}, {"N": 8}, {"column": 1})]
    ['error where=inside', 'error', None]
    """
    at = _told_apart(value)
    if not at.keys() <= TOLD_APART:
        return None
    return " ".join([value.name, *(f"{key}={content}" for key, content in sorted(at.items()))])


def _told_apart(value: Value) -> dict[str, Plain]:
    return {key: content for key, content in value.at.items() if key not in SAID}


def _table(values: Sequence[Value], why: str) -> Table:
    rows: dict[tuple[str, str | None], Reading] = {}
    # what depends on less comes first: what depends on an assignment stands for a value only where nothing else does
    for v in sorted(values, key=lambda v: len(v.at)):
        row = row_of(v)
        if row is not None and _told_apart(v) != IMAGE:
            rows.setdefault((row, v.characteristic), _of(v))
    for v in values:
        own = (v.name, v.characteristic)
        if _told_apart(v) == IMAGE and not (own in rows and rows[own].defined):
            rows[own] = _of(v)  # where data have no regions, the whole image stands in
    return {**rows, (WHOLE, None): Reading(math.nan, note=why)} if why else rows


def rows_of(tables: Sequence[Table], value: str) -> list[str]:
    """The rows of one value that have a mean over characteristics; the value's own name, if there is none.

    >>> rows_of([{("kl", None): Reading(1.0), ("kl of=x", "A"): Reading(1.0)}], "kl")
    ['kl']
    """
    found = [row for table in tables for row, who in table if who is None and row.split(" ")[0] == value]
    return list(dict.fromkeys(found)) or [value]


def _of(value: Value) -> Reading:
    e = value.estimate
    chance, reference = (math.nan if side is None else float(side) for side in (value.chance, value.reference))
    return Reading(float(e.value), float(e.low), float(e.high), chance, reference, value.note)


def _plain(reading: Reading) -> list[Plain]:
    numbers = (reading.value, reading.low, reading.high, reading.chance, reading.reference)
    return [*(None if math.isnan(number) else number for number in numbers), reading.note]


def _reading(row: Sequence[Plain]) -> Reading:
    value, low, high, chance, reference = (math.nan if number is None else float(number) for number in row[:5])
    return Reading(value, low, high, chance, reference, str(row[5]))


def reading_of(table: Table, row: str, characteristic: str | None = None) -> Reading:
    """One reading; undefined, with the reason that is known, where there is none."""
    if (row, characteristic) in table:
        return table[row, characteristic]
    return Reading(
        math.nan, note=table[WHOLE, None].note if (WHOLE, None) in table else "the metric gives no such row here"
    )


Progress = Callable[[int, int], None]


def measure_all(cells: Sequence[StudyCell], ledger: CellStore, progress: Progress | None = None) -> None:
    """Measures all cells; ``progress`` is called with (cells done, cells)."""
    for done, cell in enumerate(cells, 1):
        ledger.measure(cell)
        if progress is not None:
            progress(done, len(cells))


def positions_of(steps: int) -> list[float]:
    """Equal steps from 0 to 1."""
    return [float(position) for position in np.linspace(0.0, 1.0, steps)]


@dataclass(frozen=True)
class Case:
    """What a known value may depend on.

    Args:
        cells: one for each position.
        tables: what the metric has found in each.
        metric: the metric, with its settings.
        value: the value's name.
        row: which of its rows.
    """

    cells: Sequence[StudyCell]
    tables: Sequence[Table]
    metric: Metric
    value: str
    row: str

    @cached_property
    def subject(self) -> Subject:
        """The model before it is spoilt, with its images."""
        return self.cells[0].subject()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The characteristics that enter the mean: those for which the value is defined at the first position."""
        every = self.cells[0].characteristics
        return tuple(name for name in every if reading_of(self.tables[0], self.row, name).defined)

    @property
    def strengths(self) -> Floats:
        return np.array([cell.dial.strength(cell.position) for cell in self.cells])

    @property
    def positions(self) -> Floats:
        return np.array([cell.position for cell in self.cells])

    def told_apart(self, key: str) -> str:
        """What tells the row apart by: 10 for m in ``composition m=10``; "" where nothing does."""
        at = dict(part.split("=", 1) for part in self.row.split(" ")[1:])
        return at.get(key, "")

    def cardinalities(self) -> Floats:
        return np.array([self.subject.schema[name].cardinality for name in self.names], dtype=np.float64)

    def ends(self, first: float, last: float) -> Floats:
        """Only the ends are known."""
        found = np.full(len(self.cells), math.nan)
        found[0], found[-1] = first, last
        return found

    def chance(self) -> float:
        """The chance level that the value itself gives at the last position."""
        return reading_of(self.tables[-1], self.row).chance

    def reference(self) -> float:
        """The reference that the value itself gives at the first position."""
        return reading_of(self.tables[0], self.row).reference
