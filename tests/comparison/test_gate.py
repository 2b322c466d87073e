"""Gates: bounds, baselines, files of rules, JUnit and Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ccvae_eval.comparison.gate import Gate, Rule, check_findings, check_rules, junit, markdown, read_gate
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value, ValueSpec
from ccvae_eval.evaluation.result_table import Mean
from ccvae_eval.evaluation.run import Run
from tests.support.comparisons import HOSTILE, run_of


def run(shift: float = 0.0, names: tuple[str, ...] = ("Smile", "Hat")) -> Run:
    """Mean focus near 0.5, interval about 0.46 to 0.54 for each label."""
    rng = np.random.default_rng(0)
    focus = {name: Mean(0.5 + shift + 0.2 * rng.standard_normal(100)) for name in names}
    return run_of({"locality": ("focus", focus), "drift": ("spill", {"Smile": Mean(rng.random(100))})},
                  directions={"drift": None})  # fmt: skip


def checked(text: str, kind: str = "min", baseline: Run | None = None, on: Run | None = None):
    (result,) = check_rules(on or run(), [Rule.parse(kind, text)], baseline)  # type: ignore[arg-type]
    return result


def test_a_bound_is_held_against_the_worse_end_of_the_interval() -> None:
    estimate = run().find("locality.focus@Smile").estimate
    for kind, end in (("min", estimate.low), ("max", estimate.high)):
        inside = estimate.value
        result = checked(f"locality.focus@Smile={inside}", kind)
        assert (result.passed, result.within_noise, result.verdict) == (False, True, "failed, within noise")
        assert checked(f"locality.focus@Smile.value={inside}", kind).passed
        assert checked(f"locality.focus@Smile={end}", kind).passed
    assert checked("locality.focus@Smile=0.1").verdict == "passed"
    assert checked("locality.focus@Smile=0.9").verdict == "failed"
    assert not checked(f"locality.focus@Smile.high={estimate.high + 1e-9}").passed
    assert checked("locality.focus=0.4").found.endswith("]")


def test_a_value_that_is_absent_or_undefined_fails() -> None:
    assert checked("locality.focus@Smil=0").found == "absent: no value at 'locality.focus@Smil'. Did you mean 'Smile'?"
    assert checked("locality.focsu=0").found == "absent: locality has no value 'focsu'. Did you mean 'focus'?"
    assert not checked("generation.obeyed=0").passed
    undefined = run_of({"locality": ("focus", {"Smile": "no region"})})
    for kind in ("min", "max"):
        result = checked("locality.focus@Smile=0", kind, on=undefined)
        assert (result.passed, result.found) == (False, "undefined: no region")


def test_a_bound_outside_of_the_range_of_the_value_cannot_be_met() -> None:
    ranged = replace(run(), specs={"locality": {"focus": ValueSpec("", "", True, (-1.0, 1.0))}})
    assert checked("locality.focus=1.5", on=ranged).found.endswith("]; cannot be met: focus is at most 1")
    assert checked("locality.focus=-1.5", "max", on=ranged).found.endswith("]; cannot be met: focus is at least -1")
    for possible, kind in (("1", "min"), ("-1", "max"), ("1.5", "max")):
        assert "cannot be met" not in checked(f"locality.focus={possible}", kind, on=ranged).found


def test_a_mean_without_a_label_says_so() -> None:
    whole = run()
    measured = whole.measurement("locality")
    values = tuple(replace(v, excluded=1) if v.characteristic is None else v for v in measured.values)
    partly = replace(whole, measurements=(replace(measured, values=values),))
    assert checked("locality.focus=0.1", on=partly).found.endswith("], without 1 undefined label")
    assert checked("locality.focus@Smile=0.1", on=partly).found.endswith("]")


def test_a_metric_that_is_not_applicable_fails_with_its_reason() -> None:
    m = Measurement("locality", 1, {}, "focus", status="unsupported", reason=Reason("x", "points have no pixels"))
    result = checked("locality.focus=0", on=replace(run(), measurements=(m,)))
    assert (result.passed, result.found) == (False, "unsupported: points have no pixels")


def test_a_value_without_an_interval_is_held_itself() -> None:
    bare = run()
    m = bare.measurements[0]
    values = tuple(Value(v.name, Estimate(v.estimate.value), v.characteristic) for v in m.values)
    bare = replace(bare, measurements=(replace(m, values=values),))
    assert checked("locality.focus=0.45", on=bare).found.endswith("without an interval")
    assert checked("locality.focus=0.45", on=bare).passed
    assert not checked("locality.focus.low=0.45", on=bare).passed


def test_a_drop_fails_only_if_it_is_significant_and_larger_than_allowed() -> None:
    now, before = run(-0.1), run()
    assert checked("locality.focus=0.02", "max-drop", before, now).verdict == "failed"
    assert checked("locality.focus=0.2", "max-drop", before, now).passed
    assert checked("locality.focus=0", "max-drop", now, before).passed, "an improvement"
    own = before.measurements[0].evidence["focus/Smile/numerator"]
    differences = np.tile([-0.3, 0.28], 50)
    noisy = run_of({"locality": ("focus", {"Smile": Mean(own + differences)})})
    result = checked("locality.focus@Smile=0.001", "max-drop", before, noisy)
    assert "worse by" in result.found
    assert result.verdict == "passed, within noise"


def test_drops_are_adjusted_for_their_number() -> None:
    now, before = run(-0.1), run()
    rules = [Rule.parse("max-drop", f"locality.focus@{name}=0.02") for name in ("Smile", "Hat")]
    one, both = check_rules(now, rules[:1], before)[0], check_rules(now, rules, before)[0]
    p = [float(result.found.partition("p = ")[2].rstrip(")")) for result in (one, both)]
    assert p[1] == pytest.approx(2 * p[0], rel=0.05)


def test_wrong_drops_are_refused_and_absent_ones_fail() -> None:
    with pytest.raises(UsageError, match="need a baseline"):
        checked("locality.focus=0.1", "max-drop")
    with pytest.raises(UsageError, match="no better direction"):
        checked("drift.spill=0.1", "max-drop", run())
    with pytest.raises(UsageError, match="not comparable"):
        checked("locality.focus=0.1", "max-drop", replace(run(), header=replace(run().header, seed=9)))
    with pytest.raises(UsageError, match="max-drop compares values"):
        Rule.parse("max-drop", "locality.focus.low=0.1")
    assert not checked("locality.focus@Tie=0.1", "max-drop", run()).passed


@pytest.mark.parametrize("text", ["locality.focus", "locality.focus=", "=0.4", "locality.focus=nan", "focus=0.4"])
def test_a_malformed_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Rule.parse("min", text)


def test_a_file_of_rules(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(
        'baseline = "runs/main"\nfail-on = ["CE001"]\n[min]\n"locality.focus@Smile" = 0.4\n[max]\n"drift.spill" = 1\n'
        '[max-drop]\n"locality.focus" = 0.02\n'
    )
    rules = tuple(Rule.parse(kind, text) for kind, text in (
        ("min", "locality.focus@Smile=0.4"), ("max", "drift.spill=1"), ("max-drop", "locality.focus=0.02"),
    ))  # fmt: skip
    assert read_gate(file) == Gate(rules, ("CE001",), "runs/main")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mni]\n", "'mni' is not a key of a gate.*\n.*'min'"),
        ("min = 3\n", "'min' must be a table"),
        ('fail-on = "CE001"\n', "'fail-on' must be a list"),
        ('[min]\n"locality.focus" = "much"\n', "must be a number, got 'much'"),
        ('[min]\n"locality.focus" = nan\n', "must be finite, got nan"),
        ('[min]\n"locality.focus" = true\n', "must be a number"),
        ('[min]\n"locality" = 1\n', "not a valid address"),
        ("[min\n", "not valid TOML"),
        ("a = " + "[" * 50_000, "nested more than 32 levels"),
    ],
)
def test_a_wrong_file_of_rules_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_gate(file)


def test_an_absent_or_huge_file_of_rules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        read_gate(tmp_path / "absent.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(InputError, match="too large"):
        read_gate(tmp_path / "huge.toml")


def test_checks_that_found_something_fail() -> None:
    found = [("CE001", "All images were seen."), ("CE003", "Hat is rare."), ("CE001", "Twice.")]
    results = check_findings(found, ["CE001", "CE002"])
    assert [(r.name, r.passed, r.found) for r in results] == [
        ("CE001", False, "All images were seen.; Twice."), ("CE002", True, "nothing")
    ]  # fmt: skip


def test_junit_is_valid_xml_with_one_case_for_each_requirement() -> None:
    names = tuple(HOSTILE)
    rules = [Rule.of("min", f"locality.focus@{name}.value", 0.6) for name in names]
    results = check_rules(run(names=names), rules)
    suite = ElementTree.fromstring(junit(results, "<run>\x1b"))
    assert suite.attrib == {"name": "ccvae-eval gate", "tests": str(len(names)), "failures": str(len(names))}
    assert [case.get("classname") for case in suite] == ["<run>\\x1b"] * len(names)
    assert suite[2].get("name") == "locality.focus@<script>alert(1)</script>.value ≥ 0.6"
    assert suite[3].get("name", "").startswith("locality.focus@\\x1b[31mred")
    assert len(suite.findall("testcase/failure")) == len(names)


def test_markdown_keeps_hostile_names_inert() -> None:
    names = tuple(HOSTILE)
    text = markdown(check_rules(run(names=names), [Rule.of("min", f"locality.focus@{n}", 0.6) for n in names]), "<b>|x")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(names)
    for line in table:
        assert line.replace("\\|", "").count("|") == 5
    assert "\x1b" not in text
    assert not any(c in text.replace("\\<", "").replace("\\>", "").replace("\\`", "") for c in "<>`")
    assert text.splitlines()[0] == "### ccvae-eval gate: \\<b\\>\\|x"
