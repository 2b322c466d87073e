"""A run in the terminal: header, tables and one sentence for each metric.

Every function returns text or a renderable; nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from ccvae_eval.core.results import BY, Measurement, Value, ValueSpec
from ccvae_eval.core.types import Plain
from ccvae_eval.evaluation.metric import presentation_of
from ccvae_eval.evaluation.run import Run, stopping_of
from ccvae_eval.plugins.attribution import plugin_call
from ccvae_eval.rendering.tables import (
    bullets,
    class_table,
    classes_of,
    headline_of,
    metric_tables,
    partial_mean,
    reason_of,
    shaded_table,
    value_cells,
    value_table,
    without_classes,
)
from ccvae_eval.rendering.text import at_text, duration, escaped, formatted, plain
from ccvae_eval.report.matrices import matrices_of

if TYPE_CHECKING:  # imports torch, which a stored run does not need
    from ccvae_eval.evaluation.plan import Plan


def header(run: Run) -> RenderableType:
    """Checkpoint, data, regions and judge of a run, one line each, and its warnings."""
    h = run.header
    table = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    path = h.checkpoint.get("path") or "(in memory)"
    digest = (h.checkpoint.get("sha256") or "")[:8]
    data = h.data
    if h.checkpoint.get("model") is None and data.get("name"):
        table.add_row("codes", escaped(f"{data['name']}  {data.get('n')} rows, seed {h.seed}"))
        return table
    table.add_row("checkpoint", escaped(f"{path}  {digest}  model {h.checkpoint.get('model')}"))
    table.add_row("data", escaped(f"{data.get('name')}  {images_text(run)}"))
    if stopping := stopping_of(data):
        table.add_row("stopped", escaped(str(stopping)))
    if source := h.regions.get("source"):
        table.add_row("regions", escaped(str(source)))
    judge = judge_text(h.judge)
    table.add_row("judge", escaped(f"{judge}  device {h.environment.get('device')}, seed {h.seed}"))
    return Group(table, *(Text(f"! {plain(w)}", style="yellow") for w in h.warnings))


def images_text(run: Run) -> str:
    """The number of images and their split; if metrics used different images, how many each of them used."""
    data, used = run.header.data, dict[int, list[str]]()
    for m in run:
        if m.metric in run.ids:
            used.setdefault(len(run.ids[m.metric]), []).append(m.metric)
    most = max([int(data.get("n") or 0), *used])
    parts = [f"{count} for {', '.join(names)}" for count, names in sorted(used.items())] if len(used) > 1 else []
    return f"{most} images of split {data.get('split')}" + (f" ({'; '.join(parts)})" if parts else "")


def plan_line(plan: Plan) -> str:
    """The plan of a run, or of a share of it, in one line."""
    line = f"{plan.encode:,} images to encode, {plan.decode:,} to decode"
    if plan.decode or not replace(plan, share=(1, 1)).decode:
        return line
    from ccvae_eval.statistics.resampling import BLOCK  # imports torch, like a plan

    index, count = plan.share
    return f"{line}: share {index}/{count} has no images, because shares consist of whole blocks of {BLOCK:,}"


def dry_run(plan: Plan, seconds: float) -> RenderableType:
    """A plan that is not run: the images of each metric, the judge, and the time on this machine.

    Args:
        plan: the plan.
        seconds: estimated time of the pass over the images.
    """
    columns = (Column("images", justify="right"), Column("decoded", justify="right"))
    table = Table("metric", *columns, box=None, pad_edge=False)
    for part in plan.parts:
        why = part.measurement.reason.text if part.measurement is not None and part.measurement.reason else ""
        each = part.needs.decodings() * plan.images(part.subject)
        table.add_row(escaped(part.metric.name), f"{len(part.subject):,}", escaped(why) or f"{each:,}")
    lines = [
        f"{plan_line(plan)}; images that several metrics need are decoded once",
        f"judge: {judge_line(plan)}",
        f"time: about {duration(seconds)} to decode and measure on {plan.header.environment.get('device')}, "
        "measured on two batches; intervals, figures and the report take longer",
    ]
    return Group(table, *map(Text, lines))


def judge_line(plan: Plan) -> str:
    """What a plan does about the judge."""
    if plan.trains_judge:
        return "is trained first, on the judge split of the data; not included in the time"
    return judge_text(plan.header.judge)


def judge_text(judge: Mapping[str, Plain] | None) -> str:
    """The judge of a run, given its record."""
    return f"{str(judge.get('sha256'))[:8]}, trained on {judge.get('trained_on')}" if judge else "none"


def summary(run: Run) -> RenderableType:
    """One row for each metric, the mean of its headline value; notes below the table."""
    table, notes = value_table("metric", "headline"), dict[str, list[str]]()
    for m in run.measurements:
        value = headline_of(m)
        if m.status != "ok" or value is None:
            table.add_row(m.metric, m.headline, "–")
            continue
        spec = run.specs.get(m.metric, {}).get(value.name, ValueSpec(""))
        table.add_row(m.metric, value.name, *value_cells(value, spec))
        covered = partial_mean(m, value)
        for note in filter(None, (value.note if value.estimate.defined else "", covered)):
            notes.setdefault(note, []).append(m.metric)
    covered_by = bullets(f"{', '.join(names)}: {note}" for note, names in notes.items())
    return Group(table, *covered_by, *problem_lines(run), *_class_summary(run))


def problem_lines(run: Run) -> list[RenderableType]:
    """The metrics and labels without a number, with reason and remedy."""
    from ccvae_eval.evaluation.remedies import problems  # imports torch, which the header of a run does not need

    lines: list[RenderableType] = []
    for problem in problems(run.measurements):
        rows = _headline_rows(run.measurement(problem.metrics[0]))
        left_out = f"{len(problem.labels)} of {len(rows)} labels excluded: " if problem.labels else ""
        partly = any(v.estimate.defined for v in rows)
        text = str(replace(problem, reason=f"{left_out}{problem.reason}" if partly else problem.reason))
        lines.append(Text(f"· {plain(text)}", style="yellow"))
    return lines


def _headline_rows(m: Measurement) -> list[Value]:
    return [v for v in m.values if v.name == m.headline and v.characteristic and not v.at]


def tables(run: Run, metric: str, *, verbose: bool = False, ascii_only: bool = False) -> RenderableType:
    """The tables of one metric: those of its class (``tables``), else the table of its values; then its matrices.

    The values by class of another label have a table of their own.
    """
    whole, specs, kind = run.measurement(metric), run.specs.get(metric, {}), presentation_of(metric)
    measurement = without_classes(whole)
    found: RenderableType = metric_tables(measurement, specs, verbose=verbose)
    if hasattr(kind, "tables"):
        with plugin_call(kind, "metric", "tables(measurement, specs)"):
            found = kind.tables(measurement, specs, verbose=verbose, ascii_only=ascii_only)
    parts = [found, *_shaded(measurement, ascii_only=ascii_only)]
    if (label := run.header.data.get("by")) is not None and whole.status == "ok":
        families = [(_value_name(family[0]), family) for family in classes_of(whole, verbose=verbose)]
        text = f"{metric} has no value that is a mean over images, so nothing is shown by {plain(str(label))}."
        parts += [Text(""), class_table(families, specs, str(label)) or Text(text, style="dim")]
    return Group(*parts)


def _value_name(value: Value) -> str:
    at = at_text({key: x for key, x in value.at.items() if key != BY})
    return f"{value.name} ({at})" if at else value.name


def _class_summary(run: Run) -> list[RenderableType]:
    """The headline value of each metric by class of another label, if ``--by`` names one."""
    label = str(run.header.data.get("by", ""))
    families = [
        (f"{m.metric} {m.headline}", family)
        for m in run
        for family in classes_of(m)
        if family[0].name == m.headline and family[0].characteristic is None and len(family[0].at) == 1
    ]
    specs = {m.headline: run.specs.get(m.metric, {}).get(m.headline, ValueSpec("")) for m in run}
    table = class_table(families, specs, label)
    return [] if table is None else [Text(""), table]


def _shaded(measurement: Measurement, *, ascii_only: bool) -> Iterator[RenderableType]:
    """The matrices of a measurement as tables of shades, each below an empty line."""
    for matrix in matrices_of(measurement):
        numbers = [[cell.number for cell in row] for row in matrix.cells]
        table = shaded_table(f"{matrix.title}, in %", matrix.rows, matrix.columns, numbers, ascii_only=ascii_only)
        yield Group(Text(""), table, *bullets([matrix.reading]))


def sentence(measurement: Measurement) -> str:
    """The headline value of a metric in words, with its range over the characteristics."""
    if measurement.status != "ok":
        return f"{measurement.metric}: {measurement.reason.text if measurement.reason else measurement.status}."
    mean = headline_of(measurement)
    if mean is None or not mean.estimate.defined:
        why = reason_of(mean) if mean else ""
        return f"{measurement.metric} has no value{f': {why}' if why else ''}."
    kind = presentation_of(measurement.metric)
    template = getattr(kind, "sentence", f"{measurement.metric}: the mean {measurement.headline} is {{value}}")
    form = partial(formatted, form=getattr(kind, "number_format", ".2f"))
    with plugin_call(kind, "metric", "sentence"):
        text = template.format(value=form(mean.estimate.value), chance=form(mean.chance))
    reference = "" if mean.reference is None else f"; the reference model reaches {form(mean.reference)}"
    return f"{text}{reference}.{_extremes(measurement, form)}"


def sentences(run: Run) -> list[RenderableType]:
    """One sentence for each metric that has a number; the others stand below the table."""
    return [
        Text(f"· {plain(sentence(m))}")
        for m in run.measurements
        if m.status == "ok" and (mean := headline_of(m)) is not None and mean.estimate.defined
    ]


def _extremes(measurement: Measurement, form: Callable[[float | None], str]) -> str:
    ordered = sorted((v for v in _headline_rows(measurement) if v.estimate.defined), key=lambda v: v.estimate.value)
    if len(ordered) < 2:
        return ""
    (low, lowest), (high, highest) = ((form(v.estimate.value), v.characteristic) for v in (ordered[0], ordered[-1]))
    return "" if low == high else f" Range over characteristics: {low} ({lowest}) to {high} ({highest})."
