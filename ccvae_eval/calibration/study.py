"""``calibrate``: the response of every value to the perturbations that it declares, and to the ends of all others.

With the answer key of the calibration study (package ``study`` of the repository) the oracle has expected values for
every value and perturbation. Without it, as in an installed package, and for every model given by the user, a
calibration checks what holds for any model:

* at strength zero the value is that of the unperturbed model, evaluated by itself (the expected value at position 0);
* at the end of a perturbation of :data:`ENDS_AT_CHANCE` the value is at its chance level, if the metric declares one
  (except for the built-in values of :data:`OTHER_NULL_MODEL`);
* along the perturbation the value responds, in one direction: the worse one, unless expected values at both ends
  define it.

UDR, a score of several models, and ``obeyed_rank``, of continuous labels, are calibrated with the answer key only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ccvae_eval.calibration import CALIBRATED_METRICS, SAMPLE, STEPS
from ccvae_eval.calibration.perturbations import (
    MODEL_ITSELF,
    PERTURBATIONS,
    UNPERTURBED,
    Perturbation,
    PerturbationContext,
    perturbation_named,
)
from ccvae_eval.calibration.study_cells import (
    PLAIN,
    VIEWS,
    Case,
    CellStore,
    StudyCell,
    positions_of,
    reading_of,
    rows_of,
)
from ccvae_eval.calibration.verdict import (
    Calibration,
    Curve,
    no_expectation,
    reason_without_perturbation,
    with_verdicts,
)
from ccvae_eval.core.errors import UndefinedError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids, Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.evaluation.metric import Metric, metric_class, metric_named
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.judge import Judge, judge_source
from ccvae_eval.metrics.shared.features import EDGES
from ccvae_eval.model.interface import LabelledVAE

CODES_FACTOR = 24
"""Factor by which metrics that do not decode get more images, for narrow intervals of nearest-neighbour values."""
CHARACTERISTICS = ("Eyeglasses", "Smiling", "Wearing_Hat", "Wearing_Necktie", "Hair_Color")
"""Default characteristics of ``faces``: two pairs of binary labels and a categorical one."""
IMAGES_PER_SECOND = 1500.0
"""Images decoded, judged and compared per second on one core."""
SECONDS_PER_CELL = 2.0
"""Seconds for each cell in addition to those for its images."""
ENDS_AT_CHANCE = ("shuffle", "collapse")
"""Perturbations that end at the chance level of a value for any model: codes of other images, and no diversity."""
VOTES = ("factor_vae_votes", "beta_vae_votes", "z_max_var_votes")
OTHER_NULL_MODEL = frozenset(
    {
        ("intervention", "energy"),
        *(("disentanglement", value) for value in ("infoe", "downstream", "r2_linear", "r2_nonlinear", *VOTES)),
    }
)
"""Values whose chance level is that of another null model, such as the label frequencies, so they end elsewhere."""
UNAFFECTED = frozenset({("intervention", "error where=outside", "idle")})
"""(metric, row, perturbation) where one row of the value stays constant: no edit changes the outside of a region."""
STABILITY, OBEYED_RANK = ("disentanglement", "udr"), ("intervention", "obeyed_rank")
WITHOUT_ORACLE = frozenset({STABILITY, OBEYED_RANK})
"""Values that the oracle lacks, because they need several models or a continuous label. The answer key has models."""
REQUIRED_SETTINGS: Mapping[str, Mapping[str, Any]] = {"diversity": {"features": EDGES}}
"""Settings without which a value has no row."""

Notice = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """The plan of a calibration.

    Args:
        cells: number of perturbed models.
        missing: number of them that are not measured yet.
        decode: images to decode for those.
        seconds: estimated duration on one core.
    """

    cells: int
    missing: int
    decode: int
    seconds: float


class AnswerKey(Protocol):
    """Interface of the package ``study.expected`` of the repository."""

    def expected(self, case: Case) -> Floats | None:
        """Expected values of a case, shape (positions,), NaN where unknown; None without an entry for the case."""

    def curve_without_oracle(
        self, value: tuple[str, str], context: PerturbationContext, perturbation: Perturbation,
        positions: Sequence[float], higher_is_better: bool | None,
    ) -> Curve:  # fmt: skip
        """The curve of one of :data:`WITHOUT_ORACLE`."""


def answer_key() -> AnswerKey | None:
    """The answer key if this package is in a checkout of the repository; None if it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "study" / "expected" / "__init__.py").is_file():
        return None
    found: Any = import_module("study.expected")
    return found  # type: ignore[no-any-return]


class Calibrator:
    """A prepared calibration; see :func:`calibrate` for the arguments."""

    def __init__(
        self,
        metrics: Sequence[Metric],
        data: DataSet,
        *,
        model: LabelledVAE | None = None,
        model_name: str = "",
        dials: Sequence[str] | None = None,
        characteristics: Sequence[str] | None = None,
        sample: int = SAMPLE,
        steps: int = STEPS,
        seed: int = 0,
        judge: Judge | None = None,
        foreign: bool = True,
        folder: Path | None = None,
    ) -> None:
        if steps < 2:
            raise UsageError(f"steps must be at least 2, got {steps}", where="--steps")
        if sample < 1:
            raise UsageError(f"sample must be at least 1, got {sample}", where="--sample")
        self.metrics, self.data, self.steps, self.foreign, self.judge = tuple(metrics), data, steps, foreign, judge
        self.model, self.store = model, CellStore(folder)
        self.answer_key = answer_key() if model is None else None
        chosen = [perturbation_named(name) for name in dials] if dials else list(PERTURBATIONS.values())
        self.perturbations = [p for p in chosen if model is None or not p.needs_oracle]
        self.names = self._names(characteristics)
        contexts = {}
        for size in dict.fromkeys((sample, sample * CODES_FACTOR)):
            ids = independent_ids(data, size, seed)
            if not len(ids):
                raise UndefinedError("the test split has no images", where=data.spec)
            contexts[size] = PerturbationContext(data, ids, self.names, model, None, seed, model_name)
        self.decoding, self.codes_only = contexts[sample], contexts[sample * CODES_FACTOR]
        self._decodes: dict[str, int] = {}
        self.facts: dict[str, Plain] = {
            "data": data.spec,
            "model": model_name or "oracle",
            "images": {"decoding": len(self.decoding.ids), "codes only": len(self.codes_only.ids)},
            "steps": steps,
            "seed": seed,
            "characteristics": list(self.names),
            "judge": None if judge is None else judge.sha256,
        }

    def _names(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        available = self.data.schema.names if self.model is None else tuple(self.model.layout.characteristics)
        if asked:
            for name in asked:
                if name not in available:
                    raise UsageError(f"{name!r} is not a characteristic", hint=suggestion(name, available))
            return tuple(asked)
        default = tuple(name for name in CHARACTERISTICS if name in available)
        return default if self.model is None and default else available

    def decodes(self, metric: Metric) -> int:
        """Number of images that a metric decodes in one cell."""
        if metric.name not in self._decodes:
            subject = self._cell(metric, self.perturbations[0], 0.0, self.decoding).subject()
            self._decodes[metric.name] = Plan.of(subject, [metric]).decode
        return self._decodes[metric.name]

    def _cell(
        self, metric: Metric, perturbation: Perturbation, position: float, context: PerturbationContext
    ) -> StudyCell:
        schema = self.data.schema
        view = VIEWS.get(metric.name, PLAIN) if self.model is None else PLAIN
        kinds = ("binary",) if view.narrow else perturbation.kinds
        names = tuple(name for name in self.names if schema[name].kind in kinds)
        return StudyCell(context, perturbation, position, (metric,), names, self.judge, view)

    def cells_of(self, metric: Metric, perturbation: Perturbation) -> list[StudyCell]:
        """One cell for each position: all steps of an own perturbation, the ends of any other."""
        context = self.decoding if self.decodes(metric) else self.codes_only
        positions = positions_of(self.steps if _declares(metric, perturbation) else 2)
        return [self._cell(metric, perturbation, position, context) for position in positions]

    def _unperturbed_cell(self, metric: Metric, perturbation: Perturbation) -> StudyCell | None:
        """The cell of the unperturbed model; None with an answer key, and for a base other than the model itself."""
        if self.answer_key is not None or perturbation.base != MODEL_ITSELF or not _declares(metric, perturbation):
            return None
        return replace(self.cells_of(metric, perturbation)[0], perturbation=UNPERTURBED)

    def cells(self) -> list[StudyCell]:
        """All cells; metrics that evaluate the same model and images share a cell and its decoded images."""
        found: dict[tuple[str, int, tuple[str, ...], str], StudyCell] = {}
        for metric, perturbation in self._pairs():
            if not (self.foreign or _declares(metric, perturbation)):
                continue
            cells = (*self.cells_of(metric, perturbation), self._unperturbed_cell(metric, perturbation))
            for cell in filter(None, cells):
                used = cell.perturbation
                model = used.base if cell.position == 0 else f"{used.name} {cell.position!r}"
                key = (model, len(cell.context.ids), cell.characteristics, cell.view.name)
                shared = found.setdefault(key, replace(cell, metrics=()))
                if metric not in shared.metrics:
                    found[key] = replace(shared, metrics=(*shared.metrics, metric))
        return list(found.values())

    def _pairs(self) -> Iterator[tuple[Metric, Perturbation]]:
        for perturbation in self.perturbations:
            for metric in self.metrics:
                if self.foreign or any(perturbation.name in spec.dials for spec in metric.values.values()):
                    yield metric, perturbation

    def plan(self) -> CalibrationPlan:
        """The cells, the images to decode and the estimated duration."""
        cells = self.cells()
        todo = [(cell, self.store.missing(cell)) for cell in cells]
        decode = sum(self.decodes(metric) for _, missing in todo for metric in missing)
        left = sum(bool(missing) for _, missing in todo)
        return CalibrationPlan(len(cells), left, decode, decode / IMAGES_PER_SECOND + left * SECONDS_PER_CELL)

    def measure(self, progress: Progress | None = None) -> Calibration:
        """Measure all cells and judge the values; ``progress`` is called with (cells done, cells)."""
        cells = self.cells()
        for done, cell in enumerate(cells, 1):
            self.store.measure(cell)
            if progress is not None:
                progress(done, len(cells))
        curves = [curve for metric, perturbation in self._pairs() for curve in self._curves(metric, perturbation)]
        order = {metric.name: place for place, metric in enumerate(self.metrics)}
        values = {metric.name: list(metric.values) for metric in self.metrics}
        curves.sort(key=lambda c: (not c.own, order[c.metric], values[c.metric].index(c.value)))
        without = {
            (metric.name, value): reason_without_perturbation(metric.name, value, spec)
            for metric in self.metrics
            for value, spec in metric.values.items()
            if not spec.dials
        }
        found, checks = with_verdicts(curves)
        return Calibration(tuple(found), {**self.facts, "questions": checks}, without)

    def _curves(self, metric: Metric, perturbation: Perturbation) -> Iterator[Curve]:
        for value, spec in metric.values.items():
            own = (metric.name, value) in WITHOUT_ORACLE and perturbation.name in spec.dials
            if own and self.answer_key is not None:
                yield self.answer_key.curve_without_oracle(
                    (metric.name, value), self.codes_only, perturbation, positions_of(self.steps), spec.higher_is_better
                )
        if not (self.foreign or _declares(metric, perturbation)):
            return
        cells = self.cells_of(metric, perturbation)
        tables = [self.store.table(cell, metric) for cell in cells]
        for value, spec in metric.values.items():
            own = perturbation.name in spec.dials
            if (metric.name, value) in WITHOUT_ORACLE or not (own or self.foreign):
                continue
            for row in rows_of(tables, value):
                readings = tuple(reading_of(table, row) for table in tables)
                judged = own and any(reading.defined for reading in readings)
                case = Case(cells, tables, metric, value, row)
                yield Curve(
                    metric.name, value, row, perturbation, own, tuple(cell.position for cell in cells), readings,
                    self._expected(case) if judged else no_expectation(len(cells)),
                    higher_is_better=spec.higher_is_better,
                )  # fmt: skip

    def _expected(self, case: Case) -> Floats:
        """Expected values of a case: from the answer key, or those that hold for any model."""
        if self.answer_key is not None:
            found = self.answer_key.expected(case)
            return no_expectation(len(case.cells)) if found is None else found
        metric, perturbation = case.metric, case.cells[0].perturbation
        cell = self._unperturbed_cell(metric, perturbation)
        first = math.nan if cell is None else reading_of(self.store.table(cell, metric), case.row).value
        if (metric.name, case.row, perturbation.name) in UNAFFECTED:
            return case.ends(first, first)
        at_chance = perturbation.name in ENDS_AT_CHANCE and (metric.name, case.value) not in OTHER_NULL_MODEL
        return case.ends(first, case.chance() if at_chance else math.nan)


def independent_ids(data: DataSet, size: int, seed: int) -> Ids:
    """Ids sampled independently from the test split, ascending; a smaller sample is part of a larger one.

    The sample is not balanced like that of an evaluation, because expected values are expectations over independent
    images (docs/adr/004).
    """
    ids = data.split("test")
    return np.sort(numpy_stream(seed, "calibrate").permutation(ids)[:size])


def _declares(metric: Metric, perturbation: Perturbation) -> bool:
    """True if a value of the oracle declares the perturbation, so that the metric is measured at every step."""
    of_oracle = (spec for value, spec in metric.values.items() if (metric.name, value) not in WITHOUT_ORACLE)
    return any(perturbation.name in spec.dials for spec in of_oracle)


def calibrate(
    metrics: Sequence[str | Metric] = CALIBRATED_METRICS,
    data: DataSet | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    model: LabelledVAE | None = None,
    model_name: str = "",
    dials: Sequence[str] | None = None,
    characteristics: Sequence[str] | None = None,
    sample: int = SAMPLE,
    steps: int = STEPS,
    seed: int = 0,
    judge: str = "auto",
    foreign: bool = True,
    folder: Path | None = None,
    cache_dir: str | Path | None = None,
    notice: Notice | None = None,
    progress: Progress | None = None,
    on_plan: Callable[[CalibrationPlan], None] | None = None,
) -> Calibration:
    """Measures every value on models with a known perturbation, and judges its response.

    Args:
        metrics: names of metrics, or metrics with settings.
        data: rendered images, ``faces`` of 64 pixels if None; with a ``model``, its images.
        options: settings by name of the metric.
        model: a trained model in place of the reference model; only perturbations that need no renderer apply.
        model_name: identifier of the model in stored cells.
        dials: names of the perturbations; default: all.
        characteristics: default: five of ``faces``, or all.
        sample: number of images for metrics that decode; others get 24 times as many.
        steps: number of positions along each perturbation, at least 2.
        seed: random seed.
        judge: "auto", "full", "none" or a file.
        foreign: measure also the ends of perturbations that a value does not declare.
        folder: folder of stored cells, from which an interrupted calibration resumes.
        cache_dir: folder of stored judges.
        notice: called with messages for the user.
        progress: called with (cells done, cells).
        on_plan: called with the plan before anything is measured.

    Returns:
        The calibration: one curve for each value and perturbation.

    Raises:
        UnsupportedError: there is no model and the data have no renderer, or the model does not predict its labels or
            has no p(z_c|y).
    """
    images = Faces() if data is None else data
    defaults = _default_settings(images, sample, characteristics, with_assignment=model is None)
    chosen = [m if not isinstance(m, str) else _metric(m, (options or {}).get(m, {}), defaults) for m in metrics]
    calibrator = Calibrator(
        chosen, images, model=model, model_name=model_name, dials=dials, characteristics=characteristics,
        sample=sample, steps=steps, seed=seed, foreign=foreign, folder=folder,
        judge=judge_source(images, choice=judge, cache_dir=cache_dir, notice=notice).require(),
    )  # fmt: skip
    if on_plan is not None:
        on_plan(calibrator.plan())
    return calibrator.measure(progress)


def _default_settings(
    data: DataSet, sample: int, characteristics: Sequence[str] | None, *, with_assignment: bool
) -> dict[str, Any]:
    """Settings of a calibration: all scores, resampled variety for all images, an assignment, and pairs of labels."""
    names = characteristics or CHARACTERISTICS
    binary = [name for name in names if name in data.schema and data.schema[name].kind == "binary"]
    settings: dict[str, Any] = {"redrawn": sample, "every": True}
    if with_assignment and len(binary) > 1:
        settings |= {"assign": f"{binary[0]}=1,{binary[1]}=0", "together": 2}
    return settings


def _metric(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Metric:
    """A registered metric with its settings and the default settings of a calibration."""
    known = {f.name for f in fields(metric_class(name))}
    usable = known - {"every"} if settings.get("score") else known
    merged = {key: value for key, value in {**defaults, **REQUIRED_SETTINGS.get(name, {})}.items() if key in usable}
    return metric_named(name, {**merged, **settings})
