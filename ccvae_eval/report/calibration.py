"""A calibration in the terminal, as Markdown and as a page of small curves. Nothing here prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.calibration.curves import Calibration, Curve
from ccvae_eval.calibration.verdict import widening
from ccvae_eval.report.text import escaped, figure, plain

DPI = 120
COLUMNS = 5
LONGEST = 32
"""Letters of a title that a curve has room for on one line."""
PIPE = "\\|"
WORDS = {True: "yes", False: "NO", None: "–"}
STYLES = {True: "green", False: "bold red", None: "dim"}


def table(calibration: Calibration) -> RenderableType:
    """One row for each value and dial of its own; what failed, below."""
    rows = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    rows.add_column("value", overflow="fold")
    rows.add_column("dial", overflow="fold")
    for name in ("passed", "at zero", "known", "at end", "known", "rank", "covers"):
        rows.add_column(name, justify="right", no_wrap=True)
    notes, metric = [], ""
    for curve in calibration.own:
        if curve.metric != metric:
            metric = curve.metric
            rows.add_row(Text(plain(metric), style="bold"))
        first, last, verdict = curve.readings[0], curve.readings[-1], curve.verdict
        rows.add_row(
            escaped(f" {curve.row}"),
            escaped(curve.dial.name),
            Text(WORDS[verdict.passed], style=STYLES[verdict.passed]),
            *map(figure, (first.value, float(curve.known[0]), last.value, float(curve.known[-1]))),
            figure(verdict.spearman),
            figure(verdict.covers, 2),
        )
        if verdict.why:
            notes.append(f"{curve.metric}.{curve.row} at {curve.dial.name}: {verdict.why}")
    return Group(rows, *(Text(f"· {plain(note)}", style="dim") for note in notes))


def summary(calibration: Calibration) -> str:
    """What passed, and how often plain intervals held what is known."""
    judged = calibration.judged
    passed = len(judged) - len(calibration.failed)
    unjudged = len(calibration.own) - len(judged)
    text = f"{passed} of {len(judged)} pairs of a value and its own dial pass"
    text += f"; {unjudged} could not be judged on these data." if unjudged else "."
    held, asked = calibration.covered
    return f"{text} Of {asked} known points plain 95 % intervals hold {held} ({held / asked:.0%})." if asked else text


def level(calibration: Calibration) -> str:
    """By how much intervals were widened, and why."""
    questions = int(str(calibration.facts["questions"]))
    return (
        f"So that all of {questions} questions hold together at 95 % where nothing is wrong, intervals are made "
        f"{widening(questions):.2f} times as wide."
    )


def _cell(curve: Curve | None) -> str:
    """What a value does at one dial, in a table: from .. to, bold where it is its own, a dot where it does not move."""
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


def sees(calibration: Calibration) -> str:
    """The table of what each value sees and does not see, as Markdown: one table for each metric."""
    parts = []
    dials = list(dict.fromkeys(curve.dial.name for curve in calibration.curves))
    for metric in dict.fromkeys(curve.metric for curve in calibration.curves):
        mine = {(c.row, c.dial.name): c for c in calibration.curves if c.metric == metric}
        rows = {row: [_cell(mine.get((row, dial))) for dial in dials] for row in dict.fromkeys(row for row, _ in mine)}
        kept = [place for place in range(len(dials)) if any(cells[place] for cells in rows.values())]
        lines = [["value", *(dials[place] for place in kept)]]
        lines += [[f"`{value}`", *(cells[place] for place in kept)] for value, cells in rows.items()]
        parts.append(f"### {metric}\n\n{_markdown(lines)}")
    return "\n\n".join(parts)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = (f"| {' | '.join(cell.replace('|', PIPE) for cell in line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows])


def page(calibration: Calibration, command: str) -> str:
    """The whole page as Markdown."""
    facts = calibration.facts
    dials = {curve.dial.name: curve.dial for curve in calibration.curves}
    own = [["value", "dial", "passed", "at zero", "known", "at end", "known", "rank corr.", "covers", "why not"]]
    for c in calibration.own:
        numbers = (c.readings[0].value, float(c.known[0]), c.readings[-1].value, float(c.known[-1]))
        own.append(
            [
                f"`{c.metric}.{c.row}`", c.dial.name, WORDS[c.verdict.passed], *map(figure, numbers),
                figure(c.verdict.spearman), figure(c.verdict.covers, 2), c.verdict.why,
            ]
        )  # fmt: skip
    spoilt = [["dial", "from", "to", "unit", "what it does"]]
    spoilt += [[d.name, f"{d.strengths[0]:g}", f"{d.strengths[1]:g}", d.unit, d.summary] for d in dials.values()]
    return "\n\n".join(
        [
            "# What the values answer to",
            f"Written by `{command}`; definitions: metrics.md, section 9. Do not edit.",
            f"Model: {facts['model']}. Data: `{facts['data']}`, images {_words(facts['images'])}. "
            f"Seed {facts['seed']}, {facts['steps']} steps. Labels: {', '.join(facts['characteristics'])}. "
            "Every number is the mean over them.",
            f"{summary(calibration)} {level(calibration)}",
            "## Dials",
            _markdown(spoilt),
            "## Values at their own dials",
            _markdown(own),
            "![The curves, with intervals; +: what is known](curves.png)",
            "## What each value sees and does not see",
            "From the first end of a dial to its last; · = it does not move beyond its intervals; bold = the value's "
            "own dial, at which it is judged; empty = undefined at both ends. Nothing else is judged here.",
            sees(calibration),
            *_dialless(calibration),
            "",
        ]
    )


def _dialless(calibration: Calibration) -> list[str]:
    """The values without a dial of their own, and why."""
    if not calibration.without:
        return []
    lines = [["value", "why"]]
    lines += [[f"`{metric}.{value}`", why] for (metric, value), why in calibration.without.items()]
    return ["## Values without a dial", _markdown(lines)]


def _words(images: object) -> str:
    return ", ".join(f"{count} {what}" for what, count in images.items()) if isinstance(images, dict) else str(images)


def draw(calibration: Calibration, path: Path) -> None:
    """The own dials' curves, with their intervals and what is known, as one PNG."""
    curves = [curve for curve in calibration.own if not all(math.isnan(r.value) for r in curve.readings)]
    if not curves:
        return
    rows = -(-len(curves) // COLUMNS)
    sheet = Figure(figsize=(COLUMNS * 2.1, rows * 1.7), layout="constrained")
    axes = sheet.subplots(rows, COLUMNS, squeeze=False)
    for place in axes.flat[len(curves) :]:
        place.set_axis_off()
    for place, curve in zip(axes.flat, curves, strict=False):
        x = [curve.dial.strength(position) for position in curve.positions]
        colour = "#cc3311" if curve.verdict.passed is False else "#4477aa"
        low, high = (_column(curve, side) for side in ("low", "high"))
        place.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        place.plot(x, _column(curve, "value"), color=colour, linewidth=1.2, marker=".", markersize=3)
        place.plot(x, curve.known, color="#222222", linestyle="none", marker="+", markersize=5)
        between = "." if len(curve.metric) + len(curve.row) < LONGEST else ".\n"
        place.set_title(f"{plain(curve.metric)}{between}{plain(curve.row)}", fontsize=7)
        place.set_xlabel(plain(f"{curve.dial.name}, {curve.dial.unit}"), fontsize=6)
        place.tick_params(labelsize=5)
    FigureCanvasAgg(sheet)
    sheet.savefig(path, dpi=DPI)


def _column(curve: Curve, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(reading, name) for reading in curve.readings])
