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


def test_runs_that_are_not_comparable_keep_their_own_numbers_and_have_no_bold_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(model(1, path="other.pt", names=("Smile", "Hat"), seed=9), Path("other"))
    ours = model(0, 1.0).find("locality.focus").estimate
    reason = "not compared: runs ours-0 and other are not comparable (seed: 0 and 9)"
    assert run_command("table", "runs/ours-0", "other", "--values", "locality.focus") == 0
    shown = capsys.readouterr()
    assert f"| ours-0 | {ours.value:.2f} \\[{ours.low:.2f}, {ours.high:.2f}\\] |" in shown.out
    assert "bold" not in shown.out
    assert "**" not in shown.out
    assert f"* {reason}" in shown.out
    assert shown.err == f"{reason}\n"
    assert run_command("table", "runs/ours-0", "other", "--methods") == 0
    assert f"Notes: {reason}." in capsys.readouterr().out


def test_two_runs_of_one_checkpoint_are_not_two_training_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    write(model(0, 1.0, path="ours-0.pt"), Path("runs/ours-again"))
    for arguments in (["runs", "--rows", "group"], ["--group", "ours=runs/ours-*"]):
        assert run_command("table", *arguments) == 2
        assert "runs/ours-0 and runs/ours-again are runs of one checkpoint" in capsys.readouterr().err


def test_training_seeds_on_other_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"digest": "d", "split": "test", "sample": 64, "name": "faces"}
    write(model(3, 1.0, path="ours-3.pt", data=data), Path("runs/ours-3"))
    assert run_command("table", "--group", "ours=runs/ours-*") == 2
    assert "ours (ours-0.pt) and ours (ours-3.pt) are not comparable (sample: None and 64)" in capsys.readouterr().err


def test_the_footer_counts_the_training_seeds_of_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    groups = ["--group", "ours=runs/ours-*", "--group", "csvae=runs/csvae-0"]
    assert run_command("table", *groups, "--values", "locality.focus") == 0
    assert "* training seeds: ours 3, csvae 1 (interval over images)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "family"),
    [([], "4 tests of means and among 6 tests of single"), (["--values", "drift.spill@Smile"], "1 test of single")],
)
def test_the_number_of_tests_is_stated(values: list[str], family: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("--latex", "--markdown", "--methods"):
        assert run_command("table", "runs/ours-0", "runs/csvae-0", *values, form) == 0
        assert f"among {family} characteristics" in capsys.readouterr().out


def test_means_over_fewer_characteristics_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    write(model(5, path="few.pt", names=("Smile", "Hat")), Path("few"))
    for form in ("--latex", "--markdown", "--methods"):
        assert run_command("table", "runs/ours-0", "few", form) == 0
        assert "locality.focus: mean over 2 of 3 characteristics, without Tie" in capsys.readouterr().out


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
