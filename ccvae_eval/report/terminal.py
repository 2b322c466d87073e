"""A run in the terminal: header, tables, heat map, density curves and one sentence for each metric.

Every function returns text or a renderable; nothing here prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.core.results import Measurement, Value, ValueSpec
from ccvae_eval.evaluation.plan import Plan
from ccvae_eval.evaluation.run import Run
from ccvae_eval.report.text import at_text, escaped, figure, nested, plain

ARROWS = {True: "↑", False: "↓", None: ""}
MEAN = "mean"
STATUS = {"ok": "", "undefined": "undefined:", "unsupported": "not applicable:", "failed": "failed:"}
CLASS_STYLES = ("cyan", "magenta", "yellow", "green", "blue")
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
CURVE_WIDTH = 48


def header(run: Run) -> RenderableType:
    """Checkpoint, data, regions and judge of a run, one line each, and its warnings."""
    h = run.header
    table = Table.grid(padding=(0, 2))
    path = h.checkpoint.get("path") or "(in memory)"
    digest = (h.checkpoint.get("sha256") or "")[:8]
    data = h.data
    if h.checkpoint.get("model") is None and data.get("name"):
        table.add_row("codes", escaped(str(data["name"])), f"{data.get('n')} rows, seed {h.seed}")
        return table
    table.add_row("checkpoint", escaped(f"{path}  {digest}"), escaped(f"model {h.checkpoint.get('model')}"))
    images = f"{data.get('n')} images of split {data.get('split')}"
    table.add_row("data", escaped(str(data.get("name"))), escaped(images))
    if source := h.regions.get("source"):
        table.add_row("regions", escaped(str(source)))
    judge = f"{str(h.judge.get('sha256'))[:8]}, trained on {h.judge.get('trained_on')}" if h.judge else "none"
    table.add_row("judge", escaped(judge), escaped(f"device {h.environment.get('device')}, seed {h.seed}"))
    return Group(table, *(Text(f"! {plain(w)}", style="yellow") for w in h.warnings))


def plan_line(plan: Plan) -> str:
    """The plan of a run in one line."""
    return f"{plan.encode:,} images to encode, {plan.decode:,} to decode"


def value_cells(value: Value, spec: ValueSpec) -> list[str]:
    """The cells of a value, for the columns that :func:`value_table` adds after the first ones."""
    estimate = value.estimate
    interval = "" if math.isnan(estimate.low) else f"[{figure(estimate.low)}, {figure(estimate.high)}]"
    levels = ("" if level is None else figure(level) for level in (value.chance, value.reference))
    count = f"{estimate.n:,}" if estimate.n else ""
    return [figure(estimate.value), interval, *levels, ARROWS[spec.higher_is_better], count]


def value_table(*first: str) -> Table:
    """An empty table of values with the columns ``first``, then those of :func:`value_cells`."""
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold")
    for name in first:
        table.add_column(name, overflow="fold")  # in a narrow terminal names are folded, numbers never
    for name in ("value", "95% interval", "chance", "reference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    return table


def summary(run: Run) -> RenderableType:
    """One row for each metric, the mean of its headline value; notes below the table."""
    table, notes = value_table("metric", "headline"), dict[str, list[str]]()
    for m in run.measurements:
        value = headline_of(m)
        if m.status != "ok" or value is None:
            table.add_row(m.metric, m.headline, "–")
            notes.setdefault(f"{STATUS[m.status]} {m.reason.text if m.reason else ''}", []).append(m.metric)
            continue
        spec = run.specs.get(m.metric, {}).get(value.name, ValueSpec(""))
        table.add_row(m.metric, value.name, *value_cells(value, spec))
        if note := value_note(value):
            notes.setdefault(note, []).append(m.metric)
    return Group(table, *bullets(f"{', '.join(names)}: {note}" for note, names in notes.items()))


def bullets(notes: Iterable[str]) -> list[RenderableType]:
    """Notes below a table, one line each."""
    return [Text(f"· {plain(note)}", style="dim") for note in notes]


def headline_of(measurement: Measurement) -> Value | None:
    """The mean of the headline value over characteristics; None if the measurement has none."""
    return next(
        (v for v in measurement.values if v.name == measurement.headline and v.characteristic is None and not v.at),
        None,
    )


def value_note(value: Value) -> str:
    """The note of a value, and the number of images (for a mean: characteristics) that it excludes."""
    what = "" if value.characteristic is None else " images" if value.excluded > 1 else " image"
    excluded = f"{value.excluded}{what} excluded" if value.excluded and value.estimate.defined else ""
    return "; ".join(part for part in (value.note, excluded) if part)


def metric_tables(run: Run, metric: str, *, verbose: bool = False) -> RenderableType:
    """One metric in full: the headline for each characteristic, then the other values (every row if ``verbose``)."""
    m = run.measurement(metric)
    specs = run.specs.get(metric, {})
    if m.status != "ok":
        return Text(f"{metric}: {STATUS[m.status]} {plain(m.reason.text) if m.reason else ''}", style="yellow")
    spec = specs.get(m.headline, ValueSpec(""))
    title = f"{metric}: {m.headline}" + (f" ({spec.summary})" if spec.summary else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    head, notes = value_table("characteristic"), dict[str, list[str]]()
    rows = [v for v in m.values if v.name == m.headline and not v.at]
    for v in sorted(rows, key=lambda v: v.characteristic is None):
        name = v.characteristic or MEAN
        head.add_row(escaped(name), *value_cells(v, spec), style="bold" if v.characteristic is None else "")
        if note := value_note(v):
            notes.setdefault(note, []).append(name)
    parts += [head, *bullets(f"{', '.join(names)}: {note}" for note, names in notes.items()), Text("")]
    others = [v for v in m.values if v.name != m.headline or v.at]
    shown = others if verbose else [v for v in others if v.characteristic is None]
    if shown:
        table = value_table("value", "characteristic") if verbose else value_table("value")
        for v in shown:
            unit = specs.get(v.name, ValueSpec("")).unit
            name = f"{v.name} ({at_text(v.at)})" if v.at else v.name
            name += f", {unit}" if unit and unit != "share" else ""
            first = [escaped(name), escaped(v.characteristic or MEAN)] if verbose else [escaped(name)]
            table.add_row(*first, *value_cells(v, specs.get(v.name, ValueSpec(""))))
        parts.append(table)
    return Group(*parts, *bullets(m.notes))


def curve(density: np.ndarray[tuple[int], np.dtype[np.float64]], top: float, *, ascii_only: bool = False) -> str:
    """A density as one line of block characters; ``top`` is a full block."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    positions = np.linspace(0, len(density) - 1, CURVE_WIDTH)
    heights = np.interp(positions, np.arange(len(density)), density) / top if top > 0 else np.zeros(CURVE_WIDTH)
    return "".join(blocks[round(float(h) * (len(blocks) - 1))] for h in np.clip(heights, 0, 1))


def density_curves(measurement: Measurement, *, ascii_only: bool = False) -> RenderableType:
    """The density of each class on the characteristic's axis, one line per class, from ``Density``'s pictures."""
    table = Table.grid(padding=(0, 1))
    for name, parts in nested(measurement.pictures, "curves").items():
        shown = {label: array for label, array in parts.items() if label != "grid" and "/" not in label}
        classes = {label: np.asarray(array, dtype=np.float64) for label, array in shown.items()}
        top = max((float(density.max()) for density in classes.values()), default=0.0)
        for index, (label, density) in enumerate(classes.items()):
            line = Text(curve(density, top, ascii_only=ascii_only), style=CLASS_STYLES[index % len(CLASS_STYLES)])
            table.add_row(escaped(name) if index == 0 else "", escaped(label), line)
    return table


SHADES = " ░▒▓█"
ASCII_SHADES = " .:*#"
MAX_ROWS, MAX_COLUMNS = 24, 9
MIN_WIDTH, MAX_WIDTH, TOTAL_WIDTH = 5, 15, 60
"""Character widths of the heat map: least and greatest for one factor, and for all factors together."""
NOT_SCORES = ("information", "factor_correlation", "active_codes")
"""Values of the panel that the table of scores leaves out."""


def panel_tables(run: Run, metric: str, *, verbose: bool = False, ascii_only: bool = False) -> RenderableType:
    """The disentanglement panel: a table for each family of scores, the heat map of information, and notes."""
    # imports SciPy's distributions, which most verbs do not need
    from ccvae_eval.metrics.disentanglement.panel import FAMILIES, OTHER, family_of

    m = run.measurement(metric)
    specs = run.specs.get(metric, {})
    parts: list[RenderableType] = []
    for family, question in FAMILIES.items():
        rows = [v for v in m.values if v.name not in NOT_SCORES and family_of(v.name) == family]
        if any(_shown(v, verbose) for v in rows):
            parts += [Text(f"{family}: {question}" if family != OTHER else question, style="bold")]
            parts += [_family_table(rows, specs, verbose=verbose), Text("")]
    if "information" in m.pictures:
        parts += [heat_map(m, ascii_only=ascii_only), Text("")]
    reasons: dict[str, list[str]] = {}
    for v in m.values:
        if not v.estimate.defined and v.name not in NOT_SCORES and v.characteristic is None and "code" not in v.at:
            reasons.setdefault(v.note, []).append(f"{v.name} ({at_text(v.at)})" if v.at else v.name)
    notes = [f"{', '.join(names)}: undefined, {why}" for why, names in reasons.items()]
    return Group(*parts, *bullets([*notes, *m.notes]))


def _shown(value: Value, verbose: bool) -> bool:
    return verbose or (value.characteristic is None and "code" not in value.at)


def _family_table(values: list[Value], specs: Mapping[str, ValueSpec], *, verbose: bool) -> Table:
    table = value_table("score", "factor or code") if verbose else value_table("score")
    for v in (value for value in values if _shown(value, verbose)):
        spec = specs.get(v.name, ValueSpec(""))
        at = {key: value for key, value in v.at.items() if key != "code"}
        name = f"{v.name} ({at_text(at)})" if at else v.name
        owner = [escaped(str(v.characteristic or v.at.get("code", "all")))] if verbose else []
        table.add_row(escaped(name), *owner, *value_cells(v, spec))
    return table


def heat_map(measurement: Measurement, *, ascii_only: bool = False) -> RenderableType:
    """Mutual information of each code (row) with each factor (column), in percent of the factor's entropy.

    Shows at most 24 codes, those with the most information, and 9 factors; cells below one percent are blank.
    """
    shares = np.nan_to_num(np.asarray(measurement.pictures["information"], dtype=np.float64))
    codes, factors = (measurement.pictures[key].tolist() for key in ("codes", "factors"))
    active = np.asarray(measurement.pictures["active"], dtype=bool)
    shown = sorted(np.argsort(-shares.max(axis=1), kind="stable")[:MAX_ROWS].tolist())
    shades = ASCII_SHADES if ascii_only else SHADES
    title = Text("mutual information with each factor, % of the factor's entropy", style="bold")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("", overflow="fold", min_width=min(12, max(len(str(codes[j])) for j in shown)))
    width = max(MIN_WIDTH, min(MAX_WIDTH, TOTAL_WIDTH // max(len(factors[:MAX_COLUMNS]), 1)))
    for name in factors[:MAX_COLUMNS]:
        table.add_column(escaped(str(name)), justify="right", overflow="fold", width=width)
    for j in shown:
        cells = [_cell(float(share), shades, " " * ascii_only) for share in shares[j, :MAX_COLUMNS]]
        table.add_row(escaped(str(codes[j])), *cells, style="" if active[j] else "dim")
    hidden = {"codes": len(codes) - MAX_ROWS, "factors": len(factors) - MAX_COLUMNS}
    more = " and ".join(f"{n} more {what}" for what, n in hidden.items() if n > 0)
    return Group(title, table, *bullets([f"not shown: {more}"] if more else []))


def _cell(share: float, shades: str, gap: str) -> str:
    percent = round(100 * min(max(share, 0.0), 1.0))
    return f"{percent}{gap}{shades[round(percent / 100 * (len(shades) - 1))]}" if percent else ""


def _two_digits(value: float | None) -> str:
    return figure(value, 2)


def _percent(value: float | None) -> str:
    return figure(value) if value is None or math.isnan(value) else f"{value:.0%}"


_SENTENCES = {
    "density": "Each label is predicted from its own latents with an AUC of {value} (chance {chance})",
    "locality": "When one characteristic is changed, {value} of the image change beyond chance lies inside its region "
    "(0 = chance, 1 = all)",
    "drift": "Keypoints outside the edited region move {value} as much as those inside (0% = they stay in place)",
    "diversity": "Resampling a characteristic's latents changes its region by {value} RMS pixel intensity "
    "(valid samples only)",
    "disentanglement": "Of the information in a latent dimension, {value} beyond an even spread concerns one factor "
    "(chance {chance})",
    "accuracy": "The model predicts its labels from the image with a balanced accuracy of {value} (chance {chance})",
    "generation": "The judge recognises the requested class in {value} of the generated images "
    "(generated without a request: {chance})",
    "intervention": "When a label is set to another class, the judge recognises that class in {value} of the images "
    "(in their reconstructions: {chance})",
    "reconstruction": "The reconstruction MSE is {value} (of the mean image: {chance})",
}
_FORMATS = {"drift": _percent, "generation": _percent, "intervention": _percent, "reconstruction": figure}
"""Formats of the numbers in these sentences; two digits in the others."""


def sentence(measurement: Measurement) -> str:
    """The headline value of a metric in words, with its range over the characteristics."""
    if measurement.status != "ok":
        return f"{measurement.metric}: {measurement.reason.text if measurement.reason else measurement.status}."
    mean = headline_of(measurement)
    if mean is None or not mean.estimate.defined:
        return f"{measurement.metric} is undefined on these data{f': {mean.note}' if mean and mean.note else ''}."
    template = _SENTENCES.get(measurement.metric, f"{measurement.metric}: the mean {measurement.headline} is {{value}}")
    form = _FORMATS.get(measurement.metric, _two_digits)
    text = template.format(value=form(mean.estimate.value), chance=form(mean.chance))
    reference = "" if mean.reference is None else f"; the reference model reaches {form(mean.reference)}"
    return f"{text}{reference}.{_extremes(measurement, form)}"


def _extremes(measurement: Measurement, form: Callable[[float | None], str]) -> str:
    rows = [v for v in measurement.values if v.name == measurement.headline and v.characteristic and not v.at]
    ordered = sorted((v for v in rows if v.estimate.defined), key=lambda v: v.estimate.value)
    if len(ordered) < 2:
        return ""
    low, high = (f"{form(v.estimate.value)} ({v.characteristic})" for v in (ordered[0], ordered[-1]))
    return f" Range over characteristics: {low} to {high}."
