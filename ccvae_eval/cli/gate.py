"""``gate``: check a run against requirements, for continuous integration."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.options import Json, Quiet
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.rendering.tables import FittedTable
from ccvae_eval.rendering.text import escaped

if TYPE_CHECKING:  # imports torch, which help does not need
    from ccvae_eval.comparison.gate import Gate, GateResult
    from ccvae_eval.evaluation.run import Run

GATE_FAILED = 1
MIN_HELP = "Lower limit ADDRESS=NUMBER for the lower end of the confidence interval; repeatable."
MAX_HELP = "Upper limit ADDRESS=NUMBER for the upper end of the confidence interval; repeatable."
DROP_HELP = "Largest allowed drop from the baseline, ADDRESS=NUMBER; fails if the drop is larger and significant."
RULES_HELP = "TOML file with the tables min, max and max-drop, and the keys baseline and fail-on."
FAIL_HELP = "Code of a check, such as CE001; the gate fails if the check has a finding. Repeatable."


def command(
    run: Annotated[str, typer.Argument(help="Folder of a run, or its run.json.", show_default=False)],
    least: Annotated[list[str] | None, typer.Option("--min", help=MIN_HELP)] = None,
    most: Annotated[list[str] | None, typer.Option("--max", help=MAX_HELP)] = None,
    max_drop: Annotated[list[str] | None, typer.Option("--max-drop", help=DROP_HELP)] = None,
    baseline: Annotated[str | None, typer.Option(help="Baseline run for --max-drop, compared image by image.")] = None,
    rules: Annotated[Path | None, typer.Option(help=RULES_HELP)] = None,
    fail_on: Annotated[list[str] | None, typer.Option("--fail-on", help=FAIL_HELP)] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML to this file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a run against requirements, for continuous integration.

    An address is metric.value[@characteristic][/by=LABEL:CLASS], and may end in .low, .high or .value. Exit code 1
    means that a requirement is not met. A value that is absent, undefined or not applicable fails. If
    GITHUB_STEP_SUMMARY is set, the table is appended to that file.
    """
    from ccvae_eval.comparison.gate import Gate, Rule, read_gate
    from ccvae_eval.evaluation.storage import read

    gate = Gate() if rules is None else read_gate(rules)
    given = [
        *(Rule.parse("min", text) for text in least or ()),
        *(Rule.parse("max", text) for text in most or ()),
        *(Rule.parse("max-drop", text) for text in max_drop or ()),
    ]
    codes = tuple(dict.fromkeys((*gate.fail_on, *(fail_on or ()))))
    gate = replace(gate, rules=(*gate.rules, *given), fail_on=codes, baseline=baseline or gate.baseline)
    if not gate.rules and not gate.fail_on:
        raise UsageError("a gate needs at least one requirement", hint="--min, --max, --max-drop or --rules FILE")
    with Screen(as_json=json, quiet=quiet) as screen:
        results = apply_gate(read(run), gate, screen, run, junit)
        if json:
            screen.document({"passed": all(r.passed for r in results), "results": [r.as_plain() for r in results]})
    if not all(result.passed for result in results):
        raise SystemExit(GATE_FAILED)


def apply_gate(run: Run, gate: Gate, screen: Screen, name: str, junit: Path | None = None) -> list[GateResult]:
    """Checks a run, prints the table, and writes JUnit XML and the summary of a GitHub job if requested."""
    from ccvae_eval.comparison import gate as gates
    from ccvae_eval.core.files import atomic_write
    from ccvae_eval.evaluation.storage import read

    baseline = None if gate.baseline is None else read(gate.baseline)
    results = gates.check_rules(run, gate.rules, baseline) + _check_codes(run, gate.fail_on)
    screen.show(_table(results))
    failed = sum(not result.passed for result in results)
    screen.advise(f"\n{failed} of {len(results)} requirements failed.")
    if junit is not None:
        atomic_write(junit, gates.junit(results, name))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(gates.markdown(results, name))
    return results


def _check_codes(run: Run, codes: tuple[str, ...]) -> list[GateResult]:
    """Results of the checks that must not have findings.

    Raises:
        UsageError: a code is unknown.
    """
    from ccvae_eval.comparison.gate import check_findings
    from ccvae_eval.report.checks import CHECKS, findings

    for code in codes:
        if code not in CHECKS:
            raise UsageError(f"unknown check {code!r}", where="--fail-on", hint=suggestion(code, CHECKS))
    return check_findings(((found.check.code, found.sentence) for found in findings(run)), codes) if codes else []


def _table(results: list[GateResult]) -> Table:
    table = FittedTable("value", "required", "found", "result")
    table.columns[1].no_wrap = True
    for result in results:
        style = "" if result.passed else "red"
        cells = (result.name, result.required, result.found, result.verdict)
        table.add_row(*map(escaped, cells), style=style)
    return table
