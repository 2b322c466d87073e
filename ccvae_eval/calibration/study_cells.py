"""Cells of a calibration: one perturbed model each, the values that metrics measure on it, and their storage.

Some metrics evaluate a view of each model, because the oracle lacks what their expected values need: reconstruction
gets posteriors with a density instead of point masses, disentanglement gets one latent dimension per characteristic,
since scores of blocks of dimensions have no closed form, and intervention gets a label for ``--by``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.calibration.code_faults import FullModel
from ccvae_eval.calibration.perturbations import Perturbation, PerturbationContext
from ccvae_eval.calibration.verdict import Reading
from ccvae_eval.core.errors import CcvaeEvalError, UndefinedError, UnsupportedError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.results import Value
from ccvae_eval.core.types import Floats, Gaussian, Images, Labels, Plain
from ccvae_eval.data.interface import quantize
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.judge import Judge
from ccvae_eval.model.interface import LabelSchema, LatentLayout, Proxy
from ccvae_eval.oracle.model import VERSION, DrawnImages, Oracle


@dataclass(frozen=True, slots=True)
class View:
    """The view of a model that a metric evaluates.

    Args:
        name: identifies the view in stored cells.
        narrow: keep the first latent dimension of each characteristic, and binary labels only.
        scale: standard deviation of q(z|x) in every latent dimension; 0 = that of the model.
        by_label: show values by the classes of the first binary characteristic, too (``--by``).
    """

    name: str = ""
    narrow: bool = False
    scale: float = 0.0
    by_label: bool = False

    def __call__(self, model: FullModel) -> FullModel:
        """The model, seen through this view."""
        return ViewedModel(model, self) if self.narrow or self.scale else model

    def by(self, characteristics: Sequence[str], schema: LabelSchema) -> str | None:
        """The label by whose classes values are shown."""
        return next((name for name in characteristics if self.by_label and schema[name].kind == "binary"), None)


PLAIN = View()
VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "disentanglement": View("narrow", narrow=True, scale=0.5),
        "reconstruction": View("soft", scale=0.05),
        "intervention": View("by label", by_label=True),
    }
)
"""By metric; all other metrics evaluate the models as they are."""


@dataclass(eq=False, repr=False)
class ViewedModel(Proxy[FullModel]):
    """A model seen through a view."""

    view: View

    @property
    def layout(self) -> LatentLayout:
        whole = self.inner.layout
        if not self.view.narrow:
            return whole
        return LatentLayout(whole.dim, {name: columns[:1] for name, columns in whole.characteristics.items()})

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        found = self.inner.encode(images, labels)
        return Gaussian(found.loc, torch.full_like(found.loc, self.view.scale)) if self.view.scale else found

    def conditional_prior(self, labels: Labels) -> Gaussian:
        whole = self.inner.conditional_prior(labels)
        order = self.inner.layout.characteristic_columns
        return whole.columns([order.index(column) for column in self.layout.characteristic_columns])


@dataclass(eq=False, repr=False)
class RememberedRenderings(Proxy[DrawnImages]):
    """A synthetic data set whose rendered images the oracle can encode."""

    oracle: Oracle

    def __len__(self) -> int:
        return len(self.inner)

    def render(self, factors: Floats, labels: NDArray[np.float32]) -> Images:
        images = self.inner.render(factors, labels)
        self.oracle.remember(images, quantize(factors), labels.astype(np.int64))
        return images


SCORES_OF_RENDERINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"disentanglement": ("consistency", "restrictiveness")}
)
"""By metric, the scores of images that the data render for the purpose. They are measured apart from the others: votes
would use such images too, and their expected values are those of groups of the measured images."""

CELL_VERSION = 3
"""Version of the perturbations: a change invalidates stored cells."""

Table = Mapping[tuple[str, str | None], Reading]
"""Readings by (row, characteristic), None = the mean over characteristics. A row is a value's name with the keys that
distinguish it from other rows of the value (``composition m=10``), see :func:`row_of`."""

DESCRIPTIVE_KEYS = frozenset({"likelihood", "K", "features", "N", "bins", "do"})
"""Keys that describe rows without distinguishing them."""
ROW_KEYS = frozenset({"where", "m", "pair", "labels", "of", "set"})
"""Keys that distinguish rows of a value. Rows with any other key (a judged label, a column) are left out."""


@dataclass(frozen=True)
class StudyCell:
    """One perturbed model and the metrics to measure on it.

    Args:
        context: the images and the unperturbed model.
        perturbation, position: the perturbation, and the position from 0 to 1 along it.
        metrics: the metrics to measure.
        characteristics: the characteristics to evaluate.
        judge: the judge, or None.
        view: the view of the model that the metrics evaluate.
    """

    context: PerturbationContext
    perturbation: Perturbation
    position: float
    metrics: tuple[Metric, ...]
    characteristics: tuple[str, ...]
    judge: Judge | None = None
    view: View = PLAIN

    def subject(self, *, encodes_renderings: bool = False) -> Subject:
        """The perturbed model with its images, encoded.

        Args:
            encodes_renderings: True if the oracle must encode further images that the data render.
        """
        context, strength = self.context, self.perturbation.strength(self.position)
        data: Any = context.data
        if encodes_renderings:
            context = context.of_renderings
            data = RememberedRenderings(data, context.references.oracle)
        model = self.view(self.perturbation.perturb(context, strength))
        asked, by = self.characteristics, self.view.by(self.characteristics, context.data.schema)
        return prepare(model, data, context.ids, seed=context.seed, judge=self.judge, characteristics=asked, by=by)

    def name(self, metric: Metric) -> str:
        """Digest of everything that this metric's numbers depend on."""
        context, perturbation = self.context, self.perturbation
        strength = f"{perturbation.name} {perturbation.strength(self.position)!r}"
        key = [
            CELL_VERSION, VERSION, context.data.digest, blake2b(context.ids.tobytes(), digest_size=16).hexdigest(),
            context.seed, context.model_name if context.model is not None else "oracle", self.view.name,
            list(context.names), list(self.characteristics), perturbation.base if self.position == 0 else strength,
            "" if self.judge is None else self.judge.sha256, metric.name, metric.version, settings_of(metric),
        ]  # fmt: skip
        return blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()


@dataclass
class CellStore:
    """Measured cells, stored in files so that an interrupted calibration can resume.

    Args:
        folder: folder of the files; None = in memory only.
    """

    folder: Path | None = None
    _tables: dict[str, Table] = field(default_factory=dict)

    def missing(self, cell: StudyCell) -> list[Metric]:
        """The metrics of a cell that are not measured yet."""
        return [metric for metric in cell.metrics if self._load(cell.name(metric)) is None]

    def measure(self, cell: StudyCell) -> None:
        """Measure the missing metrics of a cell. A metric that does not apply is stored without values."""
        missing = self.missing(cell)
        if not missing:
            return
        try:
            found = _tables(cell.subject(), missing)
            if cell.context.model is None:  # the oracle, which can encode what the data render
                found = {metric.name: _with_renderings(cell, metric, found[metric.name]) for metric in missing}
        except (UnsupportedError, UndefinedError) as error:
            found = {metric.name: _table((), error.what) for metric in missing}
        for metric in missing:
            self._save(cell.name(metric), found[metric.name])

    def table(self, cell: StudyCell, metric: Metric) -> Table:
        """The readings of a metric in a measured cell."""
        found = self._load(cell.name(metric))
        if found is None:
            raise CcvaeEvalError("the cell is not measured", where=f"{cell.perturbation.name} {cell.position:g}")
        return found

    def _load(self, name: str) -> Table | None:
        if name not in self._tables and self.folder is not None:
            try:
                plain = json.loads((self.folder / f"{name}.json").read_text())
                self._tables[name] = {(str(row[0]), row[1]): _from_plain(row[2:]) for row in plain}
            except (OSError, ValueError, TypeError, IndexError):
                return None
        return self._tables.get(name)

    def _save(self, name: str, table: Table) -> None:
        self._tables[name] = table
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = [[value, characteristic, *_as_plain(reading)] for (value, characteristic), reading in table.items()]
            atomic_write(self.folder / f"{name}.json", json.dumps(rows, allow_nan=False).encode())


WHOLE_IMAGE = {"where": "image"}
METRIC_ROW = ""
"""Row with the reason why a metric has no values."""


def row_of(value: Value) -> str | None:
    """The row of a value; None if it is left out.

    >>> from ccvae_eval.core.results import Estimate
    >>> [row_of(Value("error", Estimate(0.0), at=at)) for at in ({"where": "inside"}, {"N": 8}, {"column": 1})]
    ['error where=inside', 'error', None]
    """
    at = _row_keys(value)
    if not at.keys() <= ROW_KEYS:
        return None
    return " ".join([value.name, *(f"{key}={content}" for key, content in sorted(at.items()))])


def _row_keys(value: Value) -> dict[str, Plain]:
    return {key: content for key, content in value.at.items() if key not in DESCRIPTIVE_KEYS}


def _tables(subject: Subject, metrics: Sequence[Metric]) -> dict[str, Table]:
    """The tables of some metrics of a subject, by metric."""
    run = measure(subject, metrics)
    return {m.metric: _table(m.values, "" if m.reason is None else m.reason.text) for m in run.measurements}


def _with_renderings(cell: StudyCell, metric: Metric, rows: Table) -> Table:
    """The rows of a metric, with those of its scores of rendered images measured by themselves."""
    scores = tuple(score for score in SCORES_OF_RENDERINGS.get(metric.name, ()) if (score, None) in rows)
    if not scores:
        return rows
    settings: Any = metric
    apart = replace(settings, score=scores, every=False)
    return {**rows, **_tables(cell.subject(encodes_renderings=True), [apart])[metric.name]}


def _table(values: Sequence[Value], why: str) -> Table:
    rows: dict[tuple[str, str | None], Reading] = {}
    # values with fewer keys first: the value of an assignment is used only if there is no other
    for v in sorted(values, key=lambda v: len(v.at)):
        row = row_of(v)
        if row is not None and _row_keys(v) != WHOLE_IMAGE:
            rows.setdefault((row, v.characteristic), _reading_of(v))
    for v in values:
        own = (v.name, v.characteristic)
        if _row_keys(v) == WHOLE_IMAGE and not (own in rows and rows[own].defined):
            rows[own] = _reading_of(v)  # the whole image replaces a missing region
    counts = Counter(row for row, _ in rows)  # a value of one characteristic only is its own mean
    rows |= {(row, None): reading for (row, _), reading in rows.items() if counts[row] == 1}
    return {**rows, (METRIC_ROW, None): Reading(math.nan, note=why)} if why else rows


def rows_of(tables: Sequence[Table], value: str) -> list[str]:
    """The rows of one value that have a mean over characteristics; the value's name if there are none.

    >>> rows_of([{("kl", None): Reading(1.0), ("kl of=x", "A"): Reading(1.0)}], "kl")
    ['kl']
    """
    means = (row for table in tables for row, characteristic in table if characteristic is None)
    return list(dict.fromkeys(row for row in means if row.split(" ")[0] == value)) or [value]


def _reading_of(value: Value) -> Reading:
    e = value.estimate
    return _from_plain([e.value, e.low, e.high, value.chance, value.reference, value.note])


def _as_plain(reading: Reading) -> list[Plain]:
    *numbers, note = astuple(reading)
    return [*(None if math.isnan(number) else number for number in numbers), note]


def _from_plain(row: Sequence[Any]) -> Reading:
    value, low, high, chance, reference = (math.nan if number is None else float(number) for number in row[:5])
    return Reading(value, low, high, chance, reference, str(row[5]))


def reading_of(table: Table, row: str, characteristic: str | None = None) -> Reading:
    """One reading; undefined with a reason if the table lacks it."""
    no_row = Reading(math.nan, note="the metric has no such row")
    return table.get((row, characteristic), table.get((METRIC_ROW, None), no_row))


def positions_of(steps: int) -> list[float]:
    """Equidistant positions from 0 to 1."""
    return [float(position) for position in np.linspace(0.0, 1.0, steps)]


@dataclass(frozen=True)
class Case:
    """One row of a value along one perturbation, for which expected values are computed.

    Args:
        cells: one cell for each position.
        tables: readings of the metric in each cell.
        metric: the metric, with its settings.
        value: the value's name.
        row: the row of the value.
    """

    cells: Sequence[StudyCell]
    tables: Sequence[Table]
    metric: Metric
    value: str
    row: str

    @cached_property
    def subject(self) -> Subject:
        """The model at the first position, with its images."""
        return self.cells[0].subject()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The characteristics in the mean: those for which the value is defined at the first position."""
        every = self.cells[0].characteristics
        return tuple(name for name in every if reading_of(self.tables[0], self.row, name).defined)

    @property
    def strengths(self) -> Floats:
        return np.array([cell.perturbation.strength(cell.position) for cell in self.cells])

    @property
    def positions(self) -> Floats:
        return np.array([cell.position for cell in self.cells])

    def row_key(self, key: str) -> str:
        """The row's value of a key: "10" for m in ``composition m=10``; "" without the key."""
        at = dict(part.split("=", 1) for part in self.row.split(" ")[1:])
        return at.get(key, "")

    def ends(self, first: float, last: float) -> Floats:
        """Expected values at both ends only, shape (positions,)."""
        found = np.full(len(self.cells), math.nan)
        found[0], found[-1] = first, last
        return found

    def chance(self) -> float:
        """The measured chance level at the last position."""
        return reading_of(self.tables[-1], self.row).chance

    def reference(self) -> float:
        """The measured reference at the first position."""
        return reading_of(self.tables[0], self.row).reference
