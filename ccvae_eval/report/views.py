"""Views of a run for Python and notebooks: ``print(run)``, ``run.figure(...)`` and the notebook's report."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.results import Measurement
from ccvae_eval.evaluation.run import Run
from ccvae_eval.rendering.text import plain
from ccvae_eval.report import terminal
from ccvae_eval.report.checks import findings

WIDTH = 120
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def check_lines(run: Run) -> list[Text]:
    """The findings of the checks for the terminal, one line each; of notes only the number and the codes."""
    # the summary states what has no number, with the remedy
    found = [finding for finding in findings(run) if finding.check.code != "CE008"]
    shown, notes = ([f for f in found if (f.check.severity == "note") is note] for note in (False, True))
    lines = [Text(f"{f.check.code} {plain(f.sentence)}", style=STYLES[f.check.severity]) for f in shown]
    if notes:
        codes = ", ".join(dict.fromkeys(f.check.code for f in notes))
        lines.append(Text(f"{len(notes)} note{'s' if len(notes) > 1 else ''}: {codes}", style=STYLES["note"]))
    return lines


def text(run: Run) -> str:
    """Header, table and findings of a run, as the terminal shows them, without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, emoji=False, color_system=None)
    console.print(terminal.header(run), "", terminal.summary(run), *check_lines(run), sep="\n")
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined,no-any-return]


def notebook(run: Run) -> str:
    """The report of a run as HTML for a notebook: answer, checks and metrics, without a script."""
    from ccvae_eval.report.page import notebook_html

    return notebook_html(run)


def figure(run: Run, address: str, kind: str | None = None) -> Any:
    """A figure of one metric, see :meth:`Run.figure`."""
    from ccvae_eval.report.figures import figures_of

    metric, _, characteristic = address.partition("@")
    measurement = run.measurement(metric)
    if characteristic:
        measurement = _restricted(measurement, characteristic)
    kinds = []
    for parts, sheet in figures_of(measurement):
        if kind in (None, parts[0]):
            return sheet
        kinds.append(parts[0])
    what = f"no figure {kind!r}" if kind else "no figure"
    hint = suggestion(kind or "", list(dict.fromkeys(kinds))) if kinds else "The run carries no pictures of it."
    raise UsageError(f"{metric} has {what}{f' of {characteristic}' if characteristic else ''}", hint=hint)


def _restricted(measurement: Measurement, characteristic: str) -> Measurement:
    """The measurement with the pictures of one characteristic, and those that belong to none.

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
    return replace(measurement, pictures=kept)
