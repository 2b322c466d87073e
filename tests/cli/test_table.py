"""``table``: formats, groups, bold numbers and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccvae_eval.evaluation.storage import write
from tests.support.commands import run_command
from tests.support.comparisons import model


@pytest.fixture(autouse=True)
def _runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        write(model(k, 1.0, path=f"ours-{k}.pt"), Path(f"runs/ours-{k}"))
        write(model(10 + k, path=f"csvae-{k}.pt"), Path(f"runs/csvae-{k}"))


def test_markdown_of_two_runs_has_the_better_number_bold(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("table", "runs/ours-0", "runs/csvae-0", "--values", "locality.focus,drift.spill") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| model | locality.focus ↑ | drift.spill ↓ |"
    assert lines[2].startswith("| ours-0 | **0.")
    assert lines[2].count("**") == 4
    assert "**" not in lines[3]


def test_groups_of_training_seeds_in_latex(capsys: pytest.CaptureFixture[str]) -> None:
    groups = ["--group", "ours=runs/ours-*", "--group", "csvae=runs/csvae-*"]
    assert run_command("table", *groups, "--values", "locality.focus", "--latex") == 0
    shown = capsys.readouterr().out
    assert "ours & \\textbf{0." in shown
    assert "over training seeds" in shown
    assert run_command("table", *groups, "--methods") == 0
    assert "Welch's t-test" in capsys.readouterr().out


def test_runs_that_are_not_comparable_have_no_bold_number(capsys: pytest.CaptureFixture[str]) -> None:
    write(model(1, path="other.pt", seed=9), Path("other"))
    assert run_command("table", "runs/ours-0", "other", "--values", "locality.focus") == 0
    shown = capsys.readouterr().out
    assert "**" not in shown
    assert "not compared: runs A and B are not comparable (seed: 0 and 9)" in shown


def test_a_folder_of_runs_and_rows_of_characteristics_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rows", "characteristic", "--values", "locality.focus", "--csv", "-o", "t.csv"]
    assert run_command("table", "runs", *options) == 0
    assert capsys.readouterr().out == ""
    assert len(Path("t.csv").read_text().splitlines()) == 1 + 6 * 4
    assert run_command("table", "runs", "--rows", "group") == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give either runs or groups"),
        (["runs", "--latex", "--csv"], 2, "exclude each other"),
        (["absent"], 3, "no run found"),
        (["runs", "--values", "focus"], 2, "not a valid address"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("table", *arguments) == code
    assert message in capsys.readouterr().err
