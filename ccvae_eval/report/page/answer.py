"""The answer of a run for its page: position of each headline value, tables of values, provenance, methods."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ccvae_eval.core.results import Measurement, Value, ValueSpec, spec_at
from ccvae_eval.evaluation.metric import presentation_of
from ccvae_eval.evaluation.run import Run, stopping_of
from ccvae_eval.rendering import tables
from ccvae_eval.rendering.text import at_text, explanation, figure, with_interval
from ccvae_eval.report import terminal

MOST_ROWS = 600
"""Rows of one metric's full table; values.csv has the rest."""
LEFT, RIGHT = 6.0, 94.0
"""Positions of chance and of the best value on the line of the profile, in percent of its width."""
BEYOND = 5.0
"""Percent of the width that a value may lie beyond either end."""


@dataclass(frozen=True, slots=True)
class Position:
    """A headline value on the line from chance to the best value; positions in percent of the width.

    Args:
        metric, headline: names.
        value: the number with its interval, as text.
        chance, best: the ends of the line as text; "" without one.
        best_is: "reference" (the reference model's value) or "best possible".
        at, low, high: positions of the value and its interval; None without a line.
        why: reason why there is no value, or no line.
    """

    metric: str
    headline: str
    value: str
    chance: str = ""
    best: str = ""
    best_is: str = ""
    at: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A value as a row of a table: cells as text, and for the copy buttons its numbers, separated by commas.

    The numbers are value, low, high, chance, reference and n; empty if undefined.
    """

    name: str
    at: str
    characteristic: str
    cells: tuple[str, ...]
    note: str
    address: str
    numbers: str


@dataclass(frozen=True, slots=True)
class MetricPart:
    """One metric of the page: its sentence, its tables and its definition."""

    name: str
    status: str
    sentence: str
    headline: str
    summary: str
    arrow: str
    rows: tuple[Row, ...]
    others: tuple[Row, ...]
    classes: tuple[Row, ...]
    left_out: int
    notes: tuple[str, ...]
    definition: tuple[str, ...]
    settings: str
    seconds: str


def specs_of(run: Run, metric: str) -> Mapping[str, ValueSpec]:
    """Descriptions of a metric's values: those of the installed metric; from the run alone if it is not installed."""
    kind = presentation_of(metric)
    return run.specs.get(metric, {}) if kind is None else kind.values


def profile(run: Run) -> list[Position]:
    """The headline value of each metric between its chance level and its best value."""
    return [_position(m, specs_of(run, m.metric)) for m in run]


def _position(m: Measurement, specs: Mapping[str, ValueSpec]) -> Position:
    value = tables.headline_of(m)
    if value is None or not value.estimate.defined:
        status = tables.STATUS[m.status].rstrip(":") or "undefined"
        return Position(m.metric, m.headline, "–", why=status)
    spec = specs.get(m.headline, ValueSpec(""))
    end = None if spec.higher_is_better is None else spec.range[1 if spec.higher_is_better else 0]
    best, best_is = (end, "best possible") if value.reference is None else (value.reference, "reference")
    chance, text = value.chance, with_interval(value.estimate)
    if chance is None or best is None or best == chance:
        why = "no chance level" if chance is None else "no reference"
        return Position(m.metric, m.headline, text, "" if chance is None else figure(chance), why=why)

    def place(number: float) -> float | None:
        share = (number - chance) / (best - chance)
        x = LEFT + (RIGHT - LEFT) * share
        return None if math.isnan(x) else round(min(max(x, LEFT - BEYOND), RIGHT + BEYOND), 2)

    estimate = value.estimate
    low, high = place(estimate.low), place(estimate.high)
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    return Position(
        m.metric, m.headline, text, figure(chance), figure(best), best_is, place(estimate.value), low, high
    )  # fmt: skip


def _row(m: Measurement, value: Value, spec: ValueSpec) -> Row:
    estimate = value.estimate
    name = value.name
    number, interval, chance, reference, _, count = tables.value_cells(value, spec)
    unit = f", {spec.unit}" if spec.unit and spec.unit != "share" else ""
    owner = "" if value.characteristic is None else f"@{value.characteristic}"
    at = at_text(value.at)
    remedy = f" → {value.remedy}" if value.remedy else ""
    numbers = (estimate.value, estimate.low, estimate.high, value.chance, value.reference, estimate.n)
    return Row(
        f"{name}{unit}", at, value.characteristic or tables.whole(spec),
        (number, interval, chance, reference, count), f"{tables.value_note(m, value)}{remedy}",
        f"{m.metric}.{name}{owner}{f' ({at})' if at else ''}", ",".join(map(_number, numbers)),
    )  # fmt: skip


def _number(value: float | None) -> str:
    """A number of at most six significant digits; "" if undefined."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def metric_parts(run: Run) -> Iterator[MetricPart]:
    """The metrics of the page, in the order of the run."""
    for m in run:
        specs = specs_of(run, m.metric)
        spec = specs.get(m.headline, ValueSpec(""))
        head = [v for v in m.values if v.name == m.headline and not v.at]
        head.sort(key=lambda v: v.characteristic is None)
        others = [v for v in tables.without_classes(m).values if v.name != m.headline or v.at]
        classes = [v for family in tables.classes_of(m, verbose=True) for v in family]
        kind = presentation_of(m.metric)
        yield MetricPart(
            m.metric,
            m.status,
            terminal.sentence(m),
            m.headline,
            spec.summary,
            tables.ARROWS[spec.higher_is_better],
            tuple(_row(m, v, spec) for v in head),
            tuple(_row(m, v, specs.get(v.name, ValueSpec(""))) for v in others[:MOST_ROWS]),
            tuple(_row(m, v, spec_at(specs.get(v.name, ValueSpec("")), v.at)) for v in classes[:MOST_ROWS]),
            max(len(others) - MOST_ROWS, 0) + max(len(classes) - MOST_ROWS, 0),
            m.notes,
            () if kind is None else _definition(kind, m.version),
            ", ".join(f"{key} {json.dumps(value)}" for key, value in m.settings.items()),
            f"{m.seconds:.1f}",
        )


def _definition(kind: Any, version: int) -> tuple[str, ...]:
    """The paragraphs of a metric's docstring without the list of its settings."""
    other = f"The run was made by version {version} of this metric; this is the text of version {kind.version}."
    paragraphs = [other] * (kind.version != version) + explanation(kind).split("\n\n")
    return tuple(p for p in paragraphs if not p.lstrip().startswith("Args:"))


def meta(run: Run) -> str:
    """Data, judge, seed and day of a run in one line."""
    h = run.header
    judge = f"judge {str(h.judge.get('sha256'))[:8]}" if h.judge else "no judge"
    return " · ".join([_sample(run), judge, f"seed {h.seed}", h.started[:10]])


def _sample(run: Run) -> str:
    """The number of images and their split, or of rows, for codes without a model."""
    return terminal.images_text(run) if run.header.checkpoint.get("model") else f"{run.header.data.get('n')} rows"


def facts(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """The provenance of a run: groups of named facts."""
    h = run.header
    evidence = run.evidence_file or {}
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("Checkpoint", h.checkpoint),
        ("Training", h.training or {}),
        ("Data", {key: value for key, value in h.data.items() if key != "labels"}),
        ("Labels", {str(label["name"]): _label_text(label) for label in h.data.get("labels", ())}),
        ("Judge", h.judge or {"judge": "none"}),
        ("Environment", h.environment),
        ("Evaluation", {
            "tool": " ".join(str(h.tool.get(key, "")) for key in ("name", "version")), "seed": h.seed,
            "started": h.started, "regions": h.regions.get("source") or "none",
            "metrics": ", ".join(f"{m.metric} {m.version}" for m in run),
            "evidence.npz": f"sha256 {evidence.get('sha256')}" if evidence else "none",
        }),
    ]  # fmt: skip
    return [
        (title, [(str(key), _fact(value)) for key, value in group.items() if value not in (None, {}, [], "")])
        for title, group in groups
        if group
    ]


def _label_text(label: Mapping[str, Any]) -> str:
    classes = ", ".join(map(str, label.get("classes") or ()))
    return f"{label.get('kind')}{f': {classes}' if classes else ''}"


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(v)}" for key, v in value.items())
    return ", ".join(map(_fact, value)) if isinstance(value, list | tuple) else str(value)


def methods(run: Run) -> str:
    """A paragraph for the appendix of a paper that says how the numbers were computed."""
    h, data = run.header, run.header.data
    digest = str(h.checkpoint.get("sha256") or "")[:12]
    named = ", ".join(f"{m.metric} (version {m.version})" for m in run if m.status == "ok")
    parts = [
        f"We evaluated {h.checkpoint.get('model') or 'the codes'}{f' (checkpoint sha256 {digest})' if digest else ''} "
        f"on {_sample(run)} of {data.get('name')} with {h.tool.get('name')} "
        f"{h.tool.get('version')} (seed {h.seed}): {named or 'no metric has a value'}.",
        "Values are means over the labels for which they are defined, with 95% confidence intervals over images.",
    ]
    if stopping := stopping_of(data):
        parts.append(stopping.methods)
    if h.judge:
        parts.append(
            f"Judged values use an independent classifier (sha256 {str(h.judge.get('sha256'))[:12]}) trained on "
            f"{h.judge.get('trained_on')}."
        )
    if source := h.regions.get("source"):
        parts.append(f"Regions of the labels in the image: {source}.")
    if h.data.get("seen_in_training") is False:
        parts.append("None of these images was used to train the model.")
    return " ".join(parts)
