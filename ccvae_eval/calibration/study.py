"""``calibrate``: every value against its own dials, and all others looked at from afar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ccvae_eval.calibration.curves import Calibration, Curve, judged, nothing_known, why_without
from ccvae_eval.calibration.defaults import EVERY, SAMPLE, STEPS
from ccvae_eval.calibration.perturbations import PERTURBATIONS, Perturbation, PerturbationContext, perturbation_named
from ccvae_eval.calibration.study_cells import (
    PLAIN,
    VIEWS,
    Case,
    CellStore,
    Progress,
    StudyCell,
    measure_all,
    positions_of,
    reading_of,
    rows_of,
)
from ccvae_eval.core.errors import UndefinedError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids, Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.evaluation.metric import Metric
from ccvae_eval.evaluation.runner import plan_of
from ccvae_eval.judge import Judge, judge_for
from ccvae_eval.metrics.shared.features import EDGES
from ccvae_eval.model.interface import LabelledVAE
from ccvae_eval.plugins import registry

MORE = 24
"""So many times more: nearest neighbours need 267 images of each class of hair for an interval."""
CHARACTERISTICS = ("Eyeglasses", "Smiling", "Wearing_Hat", "Wearing_Necktie", "Hair_Color")
"""Of ``faces``: two pairs of binary labels, for the dials that turn two into each other, and a categorical one."""
RATE = 1500.0
"""Images decoded, judged and compared in a second of one core."""
ENDS_AT_CHANCE = ("shuffle", "collapse")
"""What these dials lead to is known for any model: another's code, and no variety, are those values' chance levels."""
CELL_SECONDS = 2.0
"""What a cell costs beside them."""
STABILITY = ("disentanglement", "udr")
ASKED_FOR: Mapping[str, Mapping[str, Any]] = {"diversity": {"features": EDGES}}
"""Settings without which a value has no row at all."""

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a calibration will do.

    Args:
        cells: models to be measured.
        missing: how many of them are not yet.
        decode: images that those will decode.
        seconds: about, on one core.
    """

    cells: int
    missing: int
    decode: int
    seconds: float


class AnswerKey(Protocol):
    """What the calibration study knows: the package ``study.expected`` of the repository."""

    def expected(self, case: Case) -> Floats | None:
        """The known values of a case, shape (positions,), NaN where unknown; None if the key has no such entry."""

    def stability_curve(
        self, bench: PerturbationContext, dial: Perturbation, positions: Sequence[float], higher_is_better: bool | None
    ) -> Curve:
        """The curve of UDR, a score of several models that no single perturbed model has."""


def answer_key() -> AnswerKey | None:
    """The answer key, where this package lies in a checkout of the repository; None where it was installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "study" / "expected" / "__init__.py").is_file():
        return None
    found: Any = import_module("study.expected")
    return found  # type: ignore[no-any-return]


class Calibrator:
    """A calibration in preparation; the arguments are those of :func:`calibrate`."""

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
        judged: Judge | None = None,
        foreign: bool = True,
        folder: Path | None = None,
    ) -> None:
        if steps < 2:
            raise UsageError(f"{steps} steps have no two ends", where="--steps")
        if sample < 1:
            raise UsageError(f"{sample} is no number of images", where="--sample")
        self.metrics, self.data, self.steps, self.foreign, self.judge = tuple(metrics), data, steps, foreign, judged
        self.ledger, self.key = CellStore(folder), answer_key()
        self.model = model
        chosen = [perturbation_named(name) for name in dials] if dials else list(PERTURBATIONS.values())
        self.dials = [dial for dial in chosen if model is None or not dial.drawn]
        self.names = self._names(characteristics)
        self.benches = {}
        for size in dict.fromkeys((sample, sample * MORE)):
            ids = independent_ids(data, size, seed)
            if not len(ids):
                raise UndefinedError("there is no image to calibrate on", where=data.spec)
            self.benches[size] = PerturbationContext(data, ids, self.names, model, None, seed, model_name)
        self.small, self.large = self.benches[sample], self.benches[sample * MORE]
        self._decodes: dict[str, int] = {}
        self.facts: dict[str, Plain] = {
            "data": data.spec,
            "model": model_name or "oracle",
            "images": {"decoding": len(self.small.ids), "codes only": len(self.large.ids)},
            "steps": steps,
            "seed": seed,
            "characteristics": list(self.names),
            "judge": None if judged is None else judged.sha256,
        }

    def _names(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        known = self.data.schema.names if self.model is None else tuple(self.model.layout.characteristics)
        if asked:
            for name in asked:
                if name not in known:
                    raise UsageError(f"characteristic {name!r} is unknown", hint=suggestion(name, known))
            return tuple(asked)
        usual = tuple(name for name in CHARACTERISTICS if name in known)
        return usual if self.model is None and usual else known

    def decodes(self, metric: Metric) -> int:
        """Images that a metric decodes in one cell."""
        if metric.name not in self._decodes:
            self._decodes[metric.name] = plan_of(
                self._cell(metric, self.dials[0], 0.0, self.small).subject(), [metric]
            ).decode
        return self._decodes[metric.name]

    def _cell(self, metric: Metric, dial: Perturbation, position: float, bench: PerturbationContext) -> StudyCell:
        schema = self.data.schema
        stage = VIEWS.get(metric.name, PLAIN) if self.model is None else PLAIN
        kinds = ("binary",) if stage.narrow else dial.kinds
        names = tuple(name for name in self.names if schema[name].kind in kinds)
        return StudyCell(bench, dial, position, (metric,), names, self.judge, stage)

    def cells_of(self, metric: Metric, dial: Perturbation) -> list[StudyCell]:
        """One for each position: all steps of an own dial, the ends of any other."""
        bench = self.small if self.decodes(metric) else self.large
        positions = positions_of(self.steps if _owns(metric, dial) else 2)
        return [self._cell(metric, dial, position, bench) for position in positions]

    def cells(self) -> list[StudyCell]:
        """All cells; metrics that look at the same model and images share one, so that they share its decodings."""
        found: dict[tuple[str, int, tuple[str, ...], str], StudyCell] = {}
        for metric, dial in self._pairs():
            for cell in self.cells_of(metric, dial) if self.foreign or _owns(metric, dial) else ():
                who = dial.base if cell.position == 0 else f"{dial.name} {cell.position!r}"
                key = (who, len(cell.bench.ids), cell.characteristics, cell.stage.name)
                there = found.setdefault(key, replace(cell, metrics=()))
                if metric not in there.metrics:
                    found[key] = replace(there, metrics=(*there.metrics, metric))
        return list(found.values())

    def _pairs(self) -> Iterator[tuple[Metric, Perturbation]]:
        for dial in self.dials:
            for metric in self.metrics:
                if self.foreign or any(dial.name in spec.dials for spec in metric.values.values()):
                    yield metric, dial

    def plan(self) -> Planned:
        """What there is to do."""
        cells = self.cells()
        todo = [(cell, self.ledger.missing(cell)) for cell in cells]
        decode = sum(self.decodes(metric) for _, missing in todo for metric in missing)
        left = sum(bool(missing) for _, missing in todo)
        return Planned(len(cells), left, decode, decode / RATE + left * CELL_SECONDS)

    def measure(self, progress: Progress | None = None) -> Calibration:
        """Measures all cells and judges the values."""
        measure_all(self.cells(), self.ledger, progress)
        curves = [curve for metric, dial in self._pairs() for curve in self._curves(metric, dial)]
        order = {metric.name: place for place, metric in enumerate(self.metrics)}
        values = {metric.name: list(metric.values) for metric in self.metrics}
        curves.sort(key=lambda c: (not c.own, order[c.metric], values[c.metric].index(c.value)))
        without = {
            (metric.name, value): why_without(metric.name, value, spec)
            for metric in self.metrics
            for value, spec in metric.values.items()
            if not spec.dials
        }
        found, questions = judged(curves)
        return Calibration(tuple(found), {**self.facts, "questions": questions}, without)

    def _curves(self, metric: Metric, dial: Perturbation) -> Iterator[Curve]:
        stable = metric.values[STABILITY[1]] if metric.name == STABILITY[0] else None
        if stable is not None and dial.name in stable.dials and self.model is None and self.key is not None:
            yield self.key.stability_curve(self.large, dial, positions_of(self.steps), stable.higher_is_better)
        if not (self.foreign or _owns(metric, dial)):
            return
        cells = self.cells_of(metric, dial)
        tables = [self.ledger.table(cell, metric) for cell in cells]
        for value, spec in metric.values.items():
            own = dial.name in spec.dials
            if (metric.name, value) == STABILITY:
                continue
            if not own and not self.foreign:
                continue
            for row in rows_of(tables, value):
                readings = tuple(reading_of(table, row) for table in tables)
                asked = own and any(reading.defined for reading in readings)
                known = self._known(Case(cells, tables, metric, value, row)) if asked else nothing_known(len(cells))
                yield Curve(
                    metric.name, value, row, dial, own, tuple(cell.position for cell in cells), readings, known,
                    higher_is_better=spec.higher_is_better,
                )  # fmt: skip

    def _known(self, case: Case) -> Floats:
        if self.model is None and self.key is not None:
            found = self.key.expected(case)
            if found is not None:
                return found
        elif case.names and case.cells[0].dial.name in ENDS_AT_CHANCE:
            return case.ends(math.nan, case.chance())
        return nothing_known(len(case.cells))


def independent_ids(data: DataSet, size: int, seed: int) -> Ids:
    """Images drawn independently from the split ``test``; fewer are among more.

    Not the balanced sample of an evaluation: known values are expectations over independent images. (Measured on
    ``faces``: balancing leaves the labels less correlated than chance, .018 for .026 at 1,536 images; what is learnt
    of such a correlation on four fifths is then wrong on the last, and areas whose truth is .5 come out as .48.)
    """
    every = data.split("test")
    return np.sort(numpy_stream(seed, "calibrate").permutation(every)[:size])


def _owns(metric: Metric, dial: Perturbation) -> bool:
    """Whether a metric is measured at every step: stability alone is measured without the metric."""
    return any(dial.name in spec.dials for value, spec in metric.values.items() if (metric.name, value) != STABILITY)


def calibrate(
    metrics: Sequence[str | Metric] = EVERY,
    data: DataSet | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    judge: str = "auto",
    cache_dir: str | Path | None = None,
    notice: Notice | None = None,
    progress: Progress | None = None,
    **more: Any,
) -> Calibration:
    """Measures every value on models of known entanglement, and says which answer to their dials as they must.

    Args:
        metrics: names, or metrics with settings of your own.
        data: drawn images; ``faces`` at 64 pixels, if None. With a ``model``, its images.
        options: settings by metric's name.
        judge: "auto", "none" or a file.
        cache_dir: where a judge is kept.
        notice: called with sentences.
        progress: called with (cells done, cells).
        **more: ``model`` (a trained one, instead of the oracle: only dials that need no renderer are turned) and
            ``model_name`` (what stands for it in what is kept), ``dials`` (only these), ``characteristics`` (only
            these), ``sample`` (64 images for metrics that decode, 24 times as many for others), ``steps`` (11),
            ``seed`` (0), ``foreign`` (True: also look at the ends of dials that are not a value's own), ``folder``
            (where cells are kept, so that an interrupted calibration goes on).

    Returns:
        The calibration: one curve for each value and dial.

    Raises:
        UnsupportedError: the data cannot be drawn and there is no model, or the model does not predict its labels or
            has no p(z_c|y).
    """
    return calibrator(metrics, data, options=options, judge=judge, cache_dir=cache_dir, notice=notice, **more).measure(
        progress
    )


def calibrator(
    metrics: Sequence[str | Metric],
    data: DataSet | None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    judge: str = "auto",
    cache_dir: str | Path | None = None,
    notice: Notice | None = None,
    **more: Any,
) -> Calibrator:
    """Prepares a calibration; the arguments are those of :func:`calibrate`."""
    images = Faces() if data is None else data
    usual = _usual(images, int(more.get("sample", SAMPLE)), more)
    chosen = [_metric(m, (options or {}).get(_name(m), {}), usual) for m in metrics]
    judged_by = judge_for(images, choice=judge, cache_dir=cache_dir, notice=notice)
    return Calibrator(chosen, images, judged=judged_by, **more)


def _usual(data: DataSet, sample: int, more: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a calibration: all scores, as many images redrawn as are measured, something assigned."""
    asked = more.get("characteristics") or CHARACTERISTICS
    binary = [name for name in asked if name in data.schema and data.schema[name].kind == "binary"]
    usual: dict[str, Any] = {"redrawn": sample, "every": True}
    if more.get("model") is None and len(binary) > 1:
        usual["assign"] = f"{binary[0]}=1,{binary[1]}=0"
    return usual


def _name(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else metric.name


def _metric(metric: str | Metric, settings: Mapping[str, Any], usual: Mapping[str, Any]) -> Metric:
    """A registered metric with its settings, and what is usual in a calibration."""
    if not isinstance(metric, str):
        return metric
    kind = registry.metrics[metric]
    known = {f.name for f in fields(kind)}
    for key in settings:
        if key not in known:
            raise UsageError(f"{metric} has no setting {key!r}", hint=suggestion(key, known))
    asked_for = {"every"} if settings.get("score") else set()
    here = {**usual, **ASKED_FOR.get(metric, {})}
    made: Metric = kind(**{**{k: v for k, v in here.items() if k in known and k not in asked_for}, **settings})
    return made
