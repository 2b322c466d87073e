"""Gates: requirements that a run must meet, for continuous integration.

A bound on a value is held against the end of its confidence interval that is worse for the model: the lower end for
``min``, the upper end for ``max``. An address that ends in ``.value``, ``.low`` or ``.high`` names another number. A
value may be worse than that of a baseline on the same images, unless the drop is significant and larger than allowed.
A value that is absent or undefined fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from ccvae_eval.comparison.compare import LEVEL, ComparedValue, compare
from ccvae_eval.core.errors import InputError, UsageError, suggestion
from ccvae_eval.core.files import read_regular_file
from ccvae_eval.core.results import spec_at
from ccvae_eval.core.typed import load_toml
from ccvae_eval.core.types import Plain
from ccvae_eval.evaluation.run import Address, Run
from ccvae_eval.rendering.text import markdown_text, plain
from ccvae_eval.statistics.paired import holm

Kind = Literal["min", "max", "max-drop"]
REQUIREMENTS: dict[Kind, str] = {"min": "≥", "max": "≤", "max-drop": "drop ≤"}
MAX_RULES_BYTES = 1 << 20
_KEYS: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(REQUIREMENTS, (dict, "a table")),
    "baseline": (str, "a text"),
    "fail-on": (list, "a list"),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One requirement.

    Args:
        kind: "min" or "max" bound a number; "max-drop" bounds how much worse the value may be than the baseline's.
        address: the number; for "max-drop" without ``.low``, ``.high`` or ``.value``.
        bound: the limit.
    """

    kind: Kind
    address: Address
    bound: float

    @classmethod
    def of(cls, kind: Kind, address: str, bound: object) -> Rule:
        """A rule from the parts of an option or of a file.

        Raises:
            UsageError: the address is malformed or the bound is not a finite number.
        """
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise UsageError(f"the bound of {address} must be a number, got {bound!r}")
        place = Address.parse(address)
        if kind == "max-drop" and place.end:
            raise UsageError(f"max-drop compares values, got {address!r}", hint=f"Leave out .{place.end}.")
        return cls(kind, place, float(bound))

    @classmethod
    def parse(cls, kind: Kind, text: str) -> Rule:
        """The rule of an option such as ``locality.focus@Eyeglasses=0.4``.

        Raises:
            UsageError: the text is not ADDRESS=NUMBER.

        >>> Rule.parse("min", "locality.focus@Eyeglasses=0.4").required
        '≥ 0.4'
        """
        address, _, bound = text.rpartition("=")
        try:
            return cls.of(kind, address, float(bound))
        except ValueError:
            raise UsageError(
                f"--{kind} must be ADDRESS=NUMBER, got {text!r}", hint="locality.focus@Smiling=0.4"
            ) from None

    @property
    def required(self) -> str:
        """The requirement in words."""
        return f"{REQUIREMENTS[self.kind]} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Gate:
    """The requirements of one gate.

    Args:
        rules: bounds on values.
        fail_on: codes of checks that may not find anything.
        baseline: run that "max-drop" rules compare with.
    """

    rules: tuple[Rule, ...] = ()
    fail_on: tuple[str, ...] = ()
    baseline: str | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a run has where a gate asks.

    Args:
        name: the address, or the code of a check.
        required: the requirement in words.
        found: what the run has, in words.
        passed: True if the requirement is met.
        within_noise: True if the confidence interval contains the bound, or the drop is not significant.
    """

    name: str
    required: str
    found: str
    passed: bool
    within_noise: bool = False

    @property
    def verdict(self) -> str:
        """ "passed" or "failed", and if the difference from the bound is within noise."""
        return ("passed" if self.passed else "failed") + (", within noise" if self.within_noise else "")

    def as_plain(self) -> dict[str, Plain]:
        """The result as plain data."""
        return {
            "name": self.name,
            "required": self.required,
            "found": self.found,
            "passed": self.passed,
            "within_noise": self.within_noise,
        }


def check_rules(run: Run, rules: Sequence[Rule], baseline: Run | None = None) -> list[GateResult]:
    """Checks a run against rules.

    Args:
        run: the run.
        rules: the requirements.
        baseline: the run that "max-drop" rules compare with, on the same images.

    Raises:
        UsageError: a "max-drop" rule without a baseline, with a baseline that is not comparable, or for a value
            without a direction.
    """
    drops = _drops(run, [rule for rule in rules if rule.kind == "max-drop"], baseline)
    return [drops[rule] if rule in drops else _bound(run, rule) for rule in rules]


def check_findings(findings: Iterable[tuple[str, str]], codes: Sequence[str]) -> list[GateResult]:
    """Results of the requirement that checks find nothing.

    Args:
        findings: code and sentence of everything that the checks have found in the run.
        codes: the checks that may not find anything.
    """
    found = list(findings)
    sentences = {code: "; ".join(sentence for c, sentence in found if c == code) for code in codes}
    return [GateResult(code, "no finding", text or "nothing", not text) for code, text in sentences.items()]


def _bound(run: Run, rule: Rule) -> GateResult:
    """Holds a number of the run against a bound."""
    without = next((m for m in run if m.metric == rule.address.metric and m.reason), None)
    if without is not None and without.reason is not None:
        return _failed(rule, f"{without.status}: {without.reason.text}")
    try:
        value = run.find(rule.address)
    except UsageError as error:
        return _failed(rule, f"absent: {error.what}. {error.hint}")
    estimate = value.estimate
    if not estimate.defined:
        return _failed(rule, f"undefined: {value.note}")
    has_interval = not math.isnan(estimate.low)
    end = rule.address.end or ({"min": "low", "max": "high"}[rule.kind] if has_interval else "value")
    number = float(getattr(estimate, end))
    passed = number >= rule.bound if rule.kind == "min" else number <= rule.bound
    interval = f" [{estimate.low:.4g}, {estimate.high:.4g}]" if has_interval else " without an interval"
    if value.characteristic is None and value.excluded:  # a model can be undefined exactly where it is bad
        interval += f", without {value.excluded} undefined {'label' if value.excluded == 1 else 'labels'}"
    spec = run.specs.get(rule.address.metric, {}).get(value.name)
    least, most = spec_at(spec, value.at).range if spec else (None, None)
    if rule.kind == "min" and most is not None and rule.bound > most:
        interval += f"; cannot be met: {value.name} is at most {most:g}"
    if rule.kind == "max" and least is not None and rule.bound < least:
        interval += f"; cannot be met: {value.name} is at least {least:g}"
    within = has_interval and estimate.low <= rule.bound <= estimate.high
    return GateResult(str(rule.address), rule.required, f"{estimate.value:.4g}{interval}", passed, within)


def _drops(run: Run, rules: Sequence[Rule], baseline: Run | None) -> dict[Rule, GateResult]:
    """Compares values with the baseline's on the same images; p-values are adjusted for the number of rules."""
    if rules and baseline is None:
        raise UsageError("max-drop rules need a baseline", hint="--baseline RUN")
    results: dict[Rule, GateResult] = {}
    compared: dict[Rule, ComparedValue] = {}
    for rule in rules:
        assert baseline is not None
        try:
            for side in (run, baseline):
                side.find(rule.address)
        except UsageError as error:
            results[rule] = _failed(rule, f"absent: {error.what}. {error.hint}")
            continue
        row = compare(run, baseline, values=[str(rule.address)])[str(rule.address)]
        if not row.compared:
            results[rule] = _failed(rule, row.verdict)
        elif row.higher_is_better is None:
            raise UsageError(f"{rule.address} has no better direction", hint="max-drop takes values with a direction.")
        else:
            compared[rule] = row
    adjusted = holm([row.difference.p for row in compared.values()])
    for (rule, row), p in zip(compared.items(), adjusted, strict=True):
        drop = -row.difference.value if row.higher_is_better else row.difference.value
        significant = p < LEVEL
        change = f"{'worse' if drop > 0 else 'better'} by {abs(drop):.2g}" if drop else "equal"
        text = f"{row.first:.4g}, baseline {row.second:.4g}: {change} (p = {p:.2g})"
        failed = significant and drop > rule.bound
        noise = not significant and drop > rule.bound
        results[rule] = GateResult(str(rule.address), rule.required, text, not failed, noise)
    return results


def _failed(rule: Rule, why: str) -> GateResult:
    return GateResult(str(rule.address), rule.required, why, passed=False)


def read_gate(path: Path) -> Gate:
    """Reads a gate from a TOML file.

    The file has the tables ``min``, ``max`` and ``max-drop`` with lines such as ``"locality.focus@Smiling" = 0.4``,
    and may have the keys ``baseline = "RUN"`` and ``fail-on = ["CE001"]``.

    Raises:
        InputError: the file cannot be read.
        UsageError: it is not a gate; the message names the key.
    """
    where = str(path)
    raw = read_regular_file(path, MAX_RULES_BYTES)
    try:
        content = load_toml(raw, where)
    except InputError as error:
        raise UsageError(error.what, where=where, why=error.why) from None
    for key, value in content.items():
        if key not in _KEYS:
            raise UsageError(f"{key!r} is not a key of a gate", where=where, hint=suggestion(key, _KEYS))
        kind, what = _KEYS[key]
        if not isinstance(value, kind):
            raise UsageError(f"{key!r} must be {what}", where=where)
    rules = [Rule.of(kind, address, bound) for kind in REQUIREMENTS for address, bound in content.get(kind, {}).items()]
    return Gate(tuple(rules), tuple(map(str, content.get("fail-on", ()))), content.get("baseline"))


def junit(results: Sequence[GateResult], name: str) -> bytes:
    """The results as JUnit XML, one test case for each requirement.

    Args:
        results: of one run.
        name: name of the run.
    """
    failures = sum(not result.passed for result in results)
    suite = ElementTree.Element("testsuite", name="ccvae-eval gate", tests=str(len(results)), failures=str(failures))
    for result in results:
        # XML has no control characters, not even escaped ones
        title, owner, found = (
            plain(text, keep_newlines=False) for text in (f"{result.name} {result.required}", name, result.found)
        )
        case = ElementTree.SubElement(suite, "testcase", classname=owner, name=title)
        if not result.passed:
            ElementTree.SubElement(case, "failure", message=found)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def markdown(results: Sequence[GateResult], name: str) -> str:
    """The results as a Markdown table, as GitHub shows it in the summary of a job."""
    failed = sum(not result.passed for result in results)
    rows = [["value", "required", "found", "result"], ["---"] * 4]
    rows += [[markdown_text(r.name), r.required, markdown_text(r.found), r.verdict] for r in results]
    title = f"### ccvae-eval gate: {markdown_text(name)}"
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([title, "", f"{failed} of {len(results)} requirements failed.", "", *table, ""])
