"""Views of a run for Python and notebooks: ``print(run)``, ``run.figure(...)`` and the notebook's report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.text import Text

from ccvae_eval.core.errors import UsageError, python_words, suggestion
from ccvae_eval.core.results import Measurement
from ccvae_eval.evaluation.run import Run
from ccvae_eval.rendering.tables import printed
from ccvae_eval.rendering.text import plain
from ccvae_eval.report import terminal
from ccvae_eval.report.checks import findings

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def check_lines(run: Run, words: Callable[[str], str] = str) -> list[Text]:
    """The findings of the checks for the terminal, one line each with its remedy; of notes the titles in one line.

    Args:
        run: the run.
        words: what to do with each line before it is shown.
    """
    # the summary states what has no number, with the remedy
    found = [finding for finding in findings(run) if finding.check.code != "CE008"]
    shown, notes = ([f for f in found if (f.check.severity == "note") is note] for note in (False, True))
    lines = [
        Text(f"{f.check.code} {plain(words(f'{f.sentence} {f.check.remedy}'))}", style=STYLES[f.check.severity])
        for f in shown
    ]
    if notes:
        titles = {f.check.code: f"{f.check.title[0].lower()}{f.check.title[1:]} ({f.check.code})" for f in notes}
        text = f"{len(notes)} note{'s' if len(notes) > 1 else ''}: {'; '.join(titles.values())}"
        lines.append(Text(text, style=STYLES["note"]))
    return lines


def for_python(run: Run) -> Run:
    """The run with arguments of Python, instead of options of the command line, in its reasons and remedies."""

    def of(m: Measurement) -> Measurement:
        values = tuple(replace(v, note=python_words(v.note), remedy=python_words(v.remedy)) for v in m.values)
        reason = m.reason and replace(m.reason, text=python_words(m.reason.text), remedy=python_words(m.reason.remedy))
        return replace(m, values=values, reason=reason)

    warnings = tuple(map(python_words, run.header.warnings))
    header = replace(run.header, warnings=warnings)
    return replace(run, header=header, measurements=tuple(map(of, run.measurements)))


def text(run: Run) -> str:
    """Header, table and findings of a run, as the terminal shows them, without colours."""
    run = for_python(run)
    return printed(terminal.header(run), "", terminal.summary(run), *check_lines(run, python_words))


def notebook(run: Run) -> str:
    """The report of a run as HTML for a notebook: answer, checks and metrics, without a script."""
    from ccvae_eval.report.page import notebook_html

    return notebook_html(for_python(run))


def figure(
    run: Run, address: str, kind: str | None = None, *, images: Sequence[int] = (), width: float | None = None
) -> Any:
    """A figure of one metric or of the run, see :meth:`Run.figure`."""
    from ccvae_eval.rendering.figures import WIDTH, style
    from ccvae_eval.report.figures import RUN_FIGURES, figures_of, named

    metric, _, characteristic = address.partition("@")
    sheet, kinds = None, list[str]()
    if address in RUN_FIGURES:
        with style(width or WIDTH):
            sheet = RUN_FIGURES[address](run)
    else:
        measurement = named(run, run.measurement(metric), images)
        if characteristic:
            measurement = _restricted(measurement, characteristic)
        for parts, drawn in figures_of(measurement, width or WIDTH):
            if kind in (None, parts[0]):
                sheet = drawn
                break
            kinds.append(parts[0])
    if sheet is None:
        what = f"no figure {kind!r}" if kind else "no figure"
        hint = suggestion(kind or "", list(dict.fromkeys(kinds))) if kinds else "The run carries no pictures of it."
        raise UsageError(f"{metric} has {what}{f' of {characteristic}' if characteristic else ''}", hint=hint)
    if width:
        sheet.set_figwidth(width)
    return sheet


def _restricted(measurement: Measurement, characteristic: str) -> Measurement:
    """The measurement with the values and pictures of one characteristic, and those that belong to none.

    Raises:
        UsageError: the measurement has no value of this characteristic.
    """
    names = list(dict.fromkeys(v.characteristic for v in measurement.values if v.characteristic))
    if characteristic not in names:
        hint = suggestion(characteristic, names)
        raise UsageError(f"{measurement.metric} has no characteristic {characteristic!r}", hint=hint)

    def owners(key: str) -> set[str]:
        return {name for name in names if f"/{name}/" in f"/{key}/" or name in key.rpartition("/")[2].split("|")}

    kept = {k: p for k, p in measurement.pictures.items() if not owners(k) or characteristic in owners(k)}
    values = tuple(v for v in measurement.values if v.characteristic in (None, characteristic))
    return replace(measurement, values=values, pictures=kept)
