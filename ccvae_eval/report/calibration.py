"""A calibration as a terminal table, as a Markdown page and as a figure of curves. Nothing here prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.calibration.study import CalibrationPlan
from ccvae_eval.calibration.verdict import Calibration, Curve, widening
from ccvae_eval.rendering.figures import CLASS_COLOURS, fitted, panel_title, save, style, titled_panels
from ccvae_eval.rendering.tables import bullets
from ccvae_eval.rendering.text import escaped, figure, markdown_row, plain

COLUMNS = 3
WORDS = {True: "yes", False: "NO", None: "–"}
STYLES = {True: "green", False: "bold red", None: "dim"}


def plan_line(plan: CalibrationPlan) -> str:
    """The plan of a calibration in one line."""
    done = f" ({plan.cells - plan.missing} already measured)" if plan.missing < plan.cells else ""
    duration = f"about {max(plan.seconds / 60, 1):.0f} min on one idle core"
    return f"{plan.cells} perturbed models{done}, {plan.decode:,} images to decode, {duration}"


def table(calibration: Calibration) -> RenderableType:
    """One row for each value under each of its own perturbations; reasons for failures below the table."""
    rows = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    rows.add_column("value", overflow="fold")
    rows.add_column("perturbation", overflow="fold")
    for name in ("passed", "at start", "known", "at end", "known", "rank", "covers"):
        rows.add_column(name, justify="right", no_wrap=True)
    notes, metric = [], ""
    for curve in calibration.own:
        if curve.metric != metric:
            metric = curve.metric
            rows.add_row(Text(plain(metric), style="bold"))
        first, last, verdict = curve.readings[0], curve.readings[-1], curve.verdict
        rows.add_row(
            escaped(f" {curve.row}"),
            escaped(curve.perturbation.name),
            Text(WORDS[verdict.passed], style=STYLES[verdict.passed]),
            *map(figure, (first.value, float(curve.expected[0]), last.value, float(curve.expected[-1]))),
            figure(verdict.spearman),
            figure(verdict.covers, 2),
        )
        if verdict.why:
            notes.append(f"{curve.metric}.{curve.row} under {curve.perturbation.name}: {verdict.why}")
    return Group(rows, *bullets(notes))


def summary(calibration: Calibration) -> str:
    """The number of passed tests, and the coverage of the 95% confidence intervals."""
    judged = calibration.judged
    passed = len(judged) - len(calibration.failed)
    unjudged = len(calibration.own) - len(judged)
    text = f"{passed} of {len(judged)} tests of a value under one of its own perturbations passed"
    text += f"; {unjudged} could not be judged on these data." if unjudged else "."
    held, known = calibration.covered
    if not known:
        return text
    return f"{text} The 95% confidence intervals contain {held} of {known} known values ({held / known:.0%})."


def level(calibration: Calibration) -> str:
    """The factor by which intervals were widened, and the reason."""
    comparisons = int(str(calibration.facts["questions"]))
    return (
        f"Intervals are {widening(comparisons):.2f} times as wide as plain ones, so that all {comparisons} comparisons "
        "hold simultaneously at 95% (Bonferroni)."
    )


def _cell(curve: Curve | None) -> str:
    """A table cell: start → end, bold for the value's own perturbations, a dot if the value does not change."""
    if curve is None or math.isnan(curve.moved):
        return ""
    first, last = curve.readings[0].value, curve.readings[-1].value
    text = f"· {_short(first)}" if curve.moved <= 1 else f"{_short(first)} → {_short(last)}"
    return f"**{text}**" if curve.own else text


def _short(value: float) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"
    return "0" if float(text) == 0 else text


def responses(calibration: Calibration) -> str:
    """The response of every value to every perturbation: one Markdown table for each metric."""
    parts = []
    names = list(dict.fromkeys(curve.perturbation.name for curve in calibration.curves))
    for metric in dict.fromkeys(curve.metric for curve in calibration.curves):
        curves = {(c.row, c.perturbation.name): c for c in calibration.curves if c.metric == metric}
        rows = {
            row: [_cell(curves.get((row, name))) for name in names] for row in dict.fromkeys(row for row, _ in curves)
        }
        kept = [j for j in range(len(names)) if any(cells[j] for cells in rows.values())]
        lines = [["value", *(names[j] for j in kept)]]
        lines += [[f"`{value}`", *(cells[j] for j in kept)] for value, cells in rows.items()]
        parts.append(f"### {metric}\n\n{_markdown(lines)}")
    return "\n\n".join(parts)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = map(markdown_row, lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows])


def page(calibration: Calibration, command: str) -> str:
    """The calibration as a Markdown page; ``command`` is the command line that made it."""
    facts = calibration.facts
    perturbations = {curve.perturbation.name: curve.perturbation for curve in calibration.curves}
    own = [
        ["value", "perturbation", "passed", "at start", "known", "at end", "known", "rank corr.", "covers", "reason"]
    ]
    for c in calibration.own:
        numbers = (c.readings[0].value, float(c.expected[0]), c.readings[-1].value, float(c.expected[-1]))
        own.append(
            [
                f"`{c.metric}.{c.row}`", c.perturbation.name, WORDS[c.verdict.passed], *map(figure, numbers),
                figure(c.verdict.spearman), figure(c.verdict.covers, 2), c.verdict.why,
            ]
        )  # fmt: skip
    strengths = [["perturbation", "from", "to", "unit", "effect"]]
    strengths += [
        [p.name, f"{p.strengths[0]:g}", f"{p.strengths[1]:g}", p.unit, p.summary] for p in perturbations.values()
    ]
    return "\n\n".join(
        [
            "# Responses of the values to perturbations",
            f"Written by `{command}`; definitions: metrics.md, section 9. Do not edit.",
            f"Model: {facts['model']}. Data: `{facts['data']}`, images: {_image_counts(facts['images'])}. "
            f"Seed {facts['seed']}, {facts['steps']} steps. Labels: {', '.join(facts['characteristics'])}. "
            "Every number is the mean over these labels.",
            f"{summary(calibration)} {level(calibration)}",
            "## Perturbations",
            _markdown(strengths),
            "## Values under their own perturbations",
            _markdown(own),
            "![Measured values with 95% confidence intervals; +: known value](curves.png)",
            "## Response of every value to every perturbation",
            "Value at the start → value at the end of a perturbation. · = the change is within the intervals; "
            "bold = the value's own perturbation, on which it is tested; empty = undefined at both ends.",
            responses(calibration),
            *_not_calibrated(calibration),
            "",
        ]
    )


def _not_calibrated(calibration: Calibration) -> list[str]:
    """The values that no perturbation tests, with the reasons."""
    if not calibration.without:
        return []
    lines = [["value", "reason"]]
    lines += [[f"`{metric}.{value}`", why] for (metric, value), why in calibration.without.items()]
    return ["## Values without a perturbation", _markdown(lines)]


def _image_counts(images: object) -> str:
    return ", ".join(f"{count} ({what})" for what, count in images.items()) if isinstance(images, dict) else str(images)


def draw(calibration: Calibration, path: Path) -> None:
    """Writes the curves under the values' own perturbations, with intervals and known values, as one PNG."""
    curves = [curve for curve in calibration.own if not all(math.isnan(r.value) for r in curve.readings)]
    if not curves:
        return
    held, known = calibration.covered
    title = f"Values under their own perturbations: {len(calibration.judged) - len(calibration.failed)} of "
    title += f"{len(calibration.judged)} tests passed; intervals contain {held} of {known} known values\n"
    title += "Line: measured value with 95% confidence interval; +: known value; failed tests in orange"
    with style():
        sheet, axes = titled_panels(len(curves), COLUMNS, 2.25, 1.7, title)
        for panel, curve in zip(axes, curves, strict=True):
            x = [curve.perturbation.strength(position) for position in curve.positions]
            colour = CLASS_COLOURS[1 if curve.verdict.passed is False else 0]
            low, high = (_column(curve, side) for side in ("low", "high"))
            panel.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
            panel.plot(x, _column(curve, "value"), color=colour, marker=".", markersize=3)
            panel.plot(x, curve.expected, color="black", linestyle="none", marker="+", markersize=5)
            panel_title(panel, curve.metric)
            panel.set_xlabel(fitted(f"{curve.perturbation.name} ({curve.perturbation.unit})", 2.2))
            panel.set_ylabel(fitted(curve.row, 1.4))
            panel.grid(visible=True)
    save(sheet, path)


def _column(curve: Curve, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(reading, name) for reading in curve.readings])
