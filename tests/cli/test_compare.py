"""``compare``: runs, folders of runs, groups and checkpoints; hostile names; errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import ccvae_eval
from ccvae_eval.evaluation.storage import write
from tests.support.commands import run_command
from tests.support.comparisons import model

CHECKPOINT = str(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt")


pytestmark = pytest.mark.usefixtures("own_folder")


def written(name: str, *arguments: object, **more: object) -> str:
    write(model(*arguments, **more), Path(name))  # type: ignore[arg-type]
    return name


def test_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written("a", 1, 1.0, path="ours.pt"), written("b", 2, path="theirs.pt")
    assert run_command("compare", a, f"{b}/run.json") == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["A", "ours.pt"]
    assert shown.count("A better") == 10
    assert "adjusted (Holm) among 4 tests of means and among 6 tests of single characteristics" in shown
    assert "6 single characteristics differ" in shown


def test_a_run_and_itself_and_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = written("a", 1)
    assert run_command("compare", a, a) == 0
    assert capsys.readouterr().out.count("(equal throughout)") == 4
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command("compare", a, written("b", 2)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^value +A +B ", shown, re.MULTILINE)
    assert "left out at this width: adjusted p;" in shown
    monkeypatch.setenv("COLUMNS", "60")
    assert run_command("compare", a, a, "--verbose") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_a_folder_of_runs_json_and_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    for k in (1, 2, 3):
        written(f"runs/{k}", k, path=f"{k}.pt")
    assert run_command("compare", "runs", "--value", "locality.focus@Hat", "--json", "-o", "out") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["models"] == {"A": "1.pt", "B": "2.pt", "C": "3.pt"}
    assert [v["models"] for v in document["values"]] == [["A", "B"], ["A", "C"], ["B", "C"]]
    assert json.loads(Path("out/comparison.json").read_text()) == document


def test_the_page_is_written_beside_the_file_unless_it_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written("a", 1, 1.0), written("b", 2, path="[bold]b.pt")
    assert run_command("compare", a, b) == 0
    assert not list(Path().rglob("comparison.*"))
    assert run_command("compare", a, b, "--out", "out", "--no-page") == 0
    assert [file.name for file in Path("out").iterdir()] == ["comparison.json"]
    capsys.readouterr()
    assert run_command("compare", a, b, "--out", "out", "--force") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Written to out/comparison.json, out/comparison.html"
    page = Path("out/comparison.html").read_text()
    assert "A is better in locality.focus" in page
    assert "[bold]b.pt" in page


def test_a_single_characteristic_is_shown_even_if_it_does_not_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("compare", written("a", 1), written("b", 2), "--value", "locality.focus@Hat") == 0
    shown = capsys.readouterr().out
    assert "locality.focus@Hat" in shown
    assert "among 1 test of single characteristics;" in shown


def test_groups_of_training_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        written(f"runs/ours-{k}", k, 1.0, path=f"ours-{k}.pt")
        written(f"runs/csvae-{k}", 10 + k, path=f"csvae-{k}.pt")
    assert run_command("compare", "--group", "ours=runs/ours-*", "--group", "csvae=runs/csvae-*") == 0
    shown = capsys.readouterr().out
    assert "ours better" in shown
    assert "unit: training seeds (6)" in shown
    assert run_command("compare", "--group", "ours=runs/ours-*", "--group", "csvae=runs/csvae-*", "-o", "out") == 0
    assert "3 seeds of ours" in Path("out/comparison.html").read_text()
    assert run_command("compare", "--group", "ours=runs/ours-[01]", "--group", "csvae=runs/csvae-*") == 2
    assert "'ours' must have at least 3 runs, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give either models or groups"),
        (["a", "--group", "x=y"], 2, "give either models or groups"),
        (["a"], 2, "a: two to 26 checkpoints or runs can be compared, got 1"),
        (["model.pt"], 2, "model.pt: two to 26 checkpoints or runs can be compared, got 1"),
        (["a", "absent.pt"], 3, "absent.pt"),
        (["--group", "ours"], 2, "must be NAME=PATTERN"),
        (["--group", "x=a", "--group", "x=a"], 2, "given twice"),
        (["--group", "x=none-*", "--group", "y=a"], 3, "no run matches"),
        (["a", "other"], 2, "seed: 0 and 5"),
        (["a", "a", "--value", "locality.focsu"], 2, "Did you mean 'focus'"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    written("a", 1)
    written("other", 1, seed=5)
    assert run_command("compare", *arguments) == code
    assert message in capsys.readouterr().err


def test_hostile_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    a = written("a", 1, path="\x1b[31m[bold]evil[/bold]" + "x" * 300)
    assert run_command("compare", a, a) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31m[bold]evil[/bold]" in shown


def test_checkpoints_are_evaluated_first_with_the_same_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-m", "reconstruction", "--limit", "20", "--judge", "none", "--json"]
    assert run_command("compare", CHECKPOINT, CHECKPOINT, *options) == 0
    document = json.loads(capsys.readouterr().out)
    assert [v["verdict"] for v in document["values"]] == ["no evidence of a difference (equal throughout)"]
    first, second = Path("runs").iterdir()
    assert (first / "run.json").exists()
    assert (second / "run.json").exists(), "each run has a folder of its own"


def test_a_checkpoint_beside_a_run_is_evaluated_as_the_run_was(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["-m", "accuracy", "--option", "accuracy.least=3", "--limit", "20", "--judge", "none", "--seed", "4"]
    given += ["--by", "Smiling"]
    assert run_command("run", CHECKPOINT, "-o", "first", "--no-page", "--no-figures", *given) == 0
    capsys.readouterr()
    assert run_command("compare", "first", CHECKPOINT, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    verdicts = {v["verdict"] for v in document["values"] if v["difference"] is not None}
    assert verdicts == {"no evidence of a difference (equal throughout)"}
    (second,) = Path("runs").iterdir()
    evaluated = json.loads((second / "run.json").read_text())
    assert evaluated["seed"] == 4
    assert evaluated["data"]["by"] == "Smiling"
    assert run_command("compare", "first", str(second)) == 0
    assert "By class of Smiling: --value METRIC.VALUE/by=Smiling:gap" in capsys.readouterr().out
    assert run_command("compare", "first", str(second), "--value", "accuracy.balanced_accuracy/by=Smiling:gap") == 0
    assert "By class of" not in capsys.readouterr().out


def test_the_next_command_has_the_remedies_of_checkpoints_and_a_folder_for_the_results_of_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["-m", "accuracy", "--data", "faces,n=2000", "--limit", "20", "--judge", "none"]
    assert run_command("compare", CHECKPOINT, CHECKPOINT, *options) == 0
    proposed = capsys.readouterr().out.partition("Next: ")[2]
    assert re.match(r"ccvae-eval compare .* --limit (?!20\b)\d+$", proposed.strip())
    assert run_command("compare", *map(str, Path("runs").iterdir())) == 0
    assert capsys.readouterr().out.strip().endswith("--out comparison")


@pytest.mark.parametrize("second", ["absent.pt", "broken.pt", "other.pt"])
def test_both_checkpoints_are_opened_before_the_first_is_evaluated(
    second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.pt").write_bytes(Path(CHECKPOINT).read_bytes()[:1000])
    train = "train vae --data digits --steps 1 --out other.pt"
    assert second != "other.pt" or run_command(*train.split()) == 0
    options = ["-m", "reconstruction", "--limit", "20", "--judge", "none", "--data", "faces"]
    assert run_command("compare", CHECKPOINT, second, *options) == 3
    assert "evaluating" not in capsys.readouterr().err
    assert not Path("runs").exists()
