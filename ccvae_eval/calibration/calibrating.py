"""``calibrate``: every value against its own dials, and all others looked at from afar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ccvae_eval import registry
from ccvae_eval.calibration.cells import Cell, Ledger, Progress, measure_all, positions_of, reading_of
from ccvae_eval.calibration.dials import DIALS, Bench, Dial, dial_named
from ccvae_eval.calibration.known import CODES, Case
from ccvae_eval.calibration.rendered import RENDERED
from ccvae_eval.calibration.verdicts import Reading, Verdict, judge, moved
from ccvae_eval.data.contract import DataSet
from ccvae_eval.data.faces.dataset import Faces
from ccvae_eval.errors import UndefinedError, UsageError, suggestion
from ccvae_eval.judge import Judge, judge_for
from ccvae_eval.measure import ValueSpec
from ccvae_eval.metrics.contract import Metric
from ccvae_eval.model import LabelledVAE
from ccvae_eval.run import plan_of
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Floats, Ids, Plain

CARD = ("density", "locality", "drift", "diversity", "accuracy")
SAMPLE = 64
"""Images for the metrics that decode. Those that only look at codes, which cost nothing, get more."""
MORE = 24
"""So many times more: nearest neighbours need 267 images of each class of hair for an interval."""
STEPS = 11
CHARACTERISTICS = ("Eyeglasses", "Smiling", "Wearing_Hat", "Wearing_Necktie", "Hair_Color")
"""Of ``faces``: two pairs of binary labels, for the dials that turn two into each other, and a categorical one."""
RATE = 1500.0
"""Images decoded, judged and compared in a second of one core."""
ENDS_AT_CHANCE = ("shuffle", "collapse")
"""What these dials lead to is known for any model: another's code, and no variety, are those values' chance levels."""
CELL_SECONDS = 2.0
"""What a cell costs beside them."""

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Curve:
    """One value along one dial.

    Args:
        metric, value, dial: which.
        own: whether the value declares the dial. If not, only the ends were measured, and nothing is judged.
        positions: from 0 to 1.
        readings: what was measured there.
        known: what is known there, NaN where nothing is.
        verdict: on the value, if the dial is its own.
        higher_is_better: of the value.
    """

    metric: str
    value: str
    dial: Dial
    own: bool
    positions: tuple[float, ...]
    readings: tuple[Reading, ...]
    known: Floats
    verdict: Verdict
    higher_is_better: bool | None = None

    @property
    def moved(self) -> float:
        """How far it goes from end to end, see :func:`ccvae_eval.calibration.verdicts.moved`."""
        return moved(self.readings[0], self.readings[-1])

    def as_plain(self) -> dict[str, Plain]:
        """The row as ``--json`` has it; NaN is None."""
        first, last = self.readings[0], self.readings[-1]
        return {
            "metric": self.metric,
            "value": self.value,
            "dial": self.dial.name,
            "own": self.own,
            "passed": self.verdict.passed,
            "spearman": _plain(self.verdict.spearman),
            "at_zero": _plain(first.value),
            "at_end": _plain(last.value),
            "known_zero": _plain(float(self.known[0])),
            "known_end": _plain(float(self.known[-1])),
            "covers": _plain(self.verdict.covers),
            "why": self.verdict.why,
            "strengths": [self.dial.strength(position) for position in self.positions],
            "values": [_plain(reading.value) for reading in self.readings],
            "low": [_plain(reading.low) for reading in self.readings],
            "high": [_plain(reading.high) for reading in self.readings],
            "known": [_plain(float(number)) for number in self.known],
        }


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of a calibration.

    Args:
        curves: own ones first, in the order of metrics, values and dials.
        facts: what it was made with: data, images, steps, seed, judge, model.
    """

    curves: tuple[Curve, ...]
    facts: Mapping[str, Plain]

    @property
    def own(self) -> tuple[Curve, ...]:
        return tuple(curve for curve in self.curves if curve.own)

    @property
    def failed(self) -> tuple[Curve, ...]:
        return tuple(curve for curve in self.own if curve.verdict.passed is False)

    def as_plain(self) -> dict[str, Plain]:
        return {**self.facts, "calibration": [curve.as_plain() for curve in self.curves]}


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
        self.ledger = Ledger(folder)
        self.model = model
        chosen = [dial_named(name) for name in dials] if dials else list(DIALS.values())
        self.dials = [dial for dial in chosen if model is None or not dial.drawn]
        self.names = self._names(characteristics)
        self.benches = {}
        for size in dict.fromkeys((sample, sample * MORE)):
            ids = independent_ids(data, size, seed)
            if not len(ids):
                raise UndefinedError("there is no image to calibrate on", where=data.spec)
            self.benches[size] = Bench(data, ids, self.names, model, None, seed, model_name)
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

    def _cell(self, metric: Metric, dial: Dial, position: float, bench: Bench) -> Cell:
        schema = self.data.schema
        names = tuple(name for name in self.names if schema[name].kind in dial.kinds)
        return Cell(bench, dial, position, (metric,), names, self.judge)

    def cells_of(self, metric: Metric, dial: Dial) -> list[Cell]:
        """One for each position: all steps of an own dial, the ends of any other."""
        bench = self.small if self.decodes(metric) else self.large
        positions = positions_of(self.steps if _owns(metric, dial) else 2)
        return [self._cell(metric, dial, position, bench) for position in positions]

    def cells(self) -> list[Cell]:
        """All cells; metrics that look at the same model and images share one, so that they share its decodings."""
        found: dict[tuple[str, int, tuple[str, ...]], Cell] = {}
        for metric, dial in self._pairs():
            for cell in self.cells_of(metric, dial):
                who = dial.base if cell.position == 0 else f"{dial.name} {cell.position!r}"
                key = (who, len(cell.bench.ids), cell.characteristics)
                there = found.setdefault(key, replace(cell, metrics=()))
                if metric not in there.metrics:
                    found[key] = replace(there, metrics=(*there.metrics, metric))
        return list(found.values())

    def _pairs(self) -> Iterator[tuple[Metric, Dial]]:
        for dial in self.dials:
            for metric in self.metrics:
                if self.foreign or _owns(metric, dial):
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
        return Calibration(tuple(curves), self.facts)

    def _curves(self, metric: Metric, dial: Dial) -> Iterator[Curve]:
        cells = self.cells_of(metric, dial)
        tables = [self.ledger.table(cell, metric) for cell in cells]
        for value, spec in metric.values.items():
            own = dial.name in spec.dials
            if not own and not self.foreign:
                continue
            readings = [reading_of(table, value) for table in tables]
            known = np.full(len(cells), math.nan)
            verdict = Verdict(None)
            if own:
                known = self._known(Case(cells, tables, metric, value), spec)
                verdict = judge(readings, known, spec.higher_is_better)
            positions = tuple(cell.position for cell in cells)
            yield Curve(
                metric.name, value, dial, own, positions, tuple(readings), known, verdict, spec.higher_is_better
            )

    def _known(self, case: Case, spec: ValueSpec) -> Floats:
        key = (case.metric.name, case.value, case.cells[0].dial.name)
        if not case.names:
            return case.ends(math.nan, math.nan)
        if self.model is None:
            found = CODES.get(key) or RENDERED.get(key)
            if found is not None:
                return found(case)
        elif key[2] in ENDS_AT_CHANCE:
            return case.ends(math.nan, case.chance())
        return case.ends(*(_end(case, end) for end in spec.known_ends.get(key[2], (None, None))))


def independent_ids(data: DataSet, size: int, seed: int) -> Ids:
    """Images drawn independently from the split ``test``; fewer are among more.

    Not the balanced sample of an evaluation: known values are expectations over independent images. (Measured on
    ``faces``: balancing leaves the labels less correlated than chance, .018 for .026 at 1,536 images; what is learnt
    of such a correlation on four fifths is then wrong on the last, and areas whose truth is .5 come out as .48.)
    """
    every = data.split("test")
    return np.sort(numpy_stream(seed, "calibrate").permutation(every)[:size])


def _end(case: Case, end: float | str | None) -> float:
    if end is None:
        return math.nan
    if isinstance(end, str):
        return case.chance() if end == "chance" else case.reference()
    return end


def _owns(metric: Metric, dial: Dial) -> bool:
    return any(dial.name in spec.dials for spec in metric.values.values())


def calibrate(
    metrics: Sequence[str | Metric] = CARD,
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
    sample = int(more.get("sample", SAMPLE))
    chosen = [_metric(m, {"redrawn": sample, **(options or {}).get(_name(m), {})}) for m in metrics]
    judged = judge_for(images, choice=judge, cache_dir=cache_dir, notice=notice)
    return Calibrator(chosen, images, judged=judged, **more)


def _name(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else metric.name


def _metric(metric: str | Metric, settings: Mapping[str, Any]) -> Metric:
    """A registered metric; as many images are redrawn as are measured, so that both are the same ones."""
    if not isinstance(metric, str):
        return metric
    kind = registry.metrics[metric]
    known = {f.name for f in fields(kind)}
    for key in settings:
        if key not in known and key != "redrawn":
            raise UsageError(f"{metric} has no setting {key!r}", hint=suggestion(key, known))
    made: Metric = kind(**{key: value for key, value in settings.items() if key in known})
    return made
