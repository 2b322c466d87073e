"""``gate``: exit codes, the table, files, and the gate of an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import ccvae_eval
from ccvae_eval.evaluation.result_table import Mean
from ccvae_eval.evaluation.storage import read, write
from tests.support.commands import run_command
from tests.support.comparisons import run_of

CHECKPOINT = str(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt")


@pytest.fixture(autouse=True)
def _no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    written = run_of(
        {"locality": ("focus", {n: Mean(0.5 + 0.1 * rng.standard_normal(60)) for n in ("Smile", "\x1b[31m")})}
    )
    write(written, tmp_path / "run")
    return str(tmp_path / "run")


def test_the_exit_code_is_1_if_a_requirement_is_not_met(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("gate", run, "--min", "locality.focus=.4", "--max", "locality.focus@Smile=.6") == 0
    assert run_command("gate", run, "--min", "locality.focus=.4", "--min", "locality.focus@Smile=.9") == 1
    shown = capsys.readouterr().out
    assert "1 of 2 requirements failed" in shown
    assert "≥ 0.9" in shown
    assert run_command("gate", run, "--min", "locality.focus@\x1b[31m=.9") == 1
    assert "\x1b" not in capsys.readouterr().out


def test_usage_errors(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("gate", run) == 2
    assert run_command("gate", run, "--min", "focus=1") == 2
    assert run_command("gate", run, "--max-drop", "locality.focus=1") == 2
    assert run_command("gate", str(tmp_path / "absent"), "--min", "locality.focus=1") == 3
    assert "Traceback" not in capsys.readouterr().err


def test_files_json_and_the_summary_of_a_job(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, summary = tmp_path / "gate.toml", tmp_path / "summary.md"
    rules.write_text(f'baseline = "{run}"\n[min]\n"locality.focus" = 0.4\n[max-drop]\n"locality.focus" = 0.0\n')
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run_command("gate", run, "--rules", str(rules), "--junit", str(tmp_path / "x.xml"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"]
    assert [r["required"] for r in document["results"]] == ["≥ 0.4", "drop ≤ 0"]
    assert document["results"][1]["found"].endswith("equal (p = 1)")
    assert ElementTree.parse(tmp_path / "x.xml").getroot().get("tests") == "2"
    assert summary.read_text().startswith("before\n### ccvae-eval gate: ")


def test_checks_may_be_required_to_find_nothing(run: str) -> None:
    stored = read(run)
    seen = {**stored.header.data, "split": "train", "seen_in_training": True}
    write(replace(stored, header=replace(stored.header, data=seen)), Path(run))
    assert run_command("gate", run, "--fail-on", "CE001") == 1
    assert run_command("gate", run, "--fail-on", "CE002") == 0
    assert run_command("gate", run, "--fail-on", "CE999") == 2


def test_an_evaluation_with_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "gate.toml"
    common = [
        "run",
        CHECKPOINT,
        "-m",
        "reconstruction",
        "--limit",
        "20",
        "--judge",
        "none",
        "--no-figures",
        "-o",
        str(tmp_path / "out"),
    ]
    rules.write_text('[max]\n"reconstruction.mse" = 0.00001\n')
    assert run_command(*common, "--gate", str(rules), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [result["passed"] for result in document["gate"]] == [False]
    assert document["measurements"][0]["metric"] == "reconstruction"
    rules.write_text("[maxx]\n")
    assert run_command(*common, "--gate", str(rules)) == 2
