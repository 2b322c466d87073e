"""The command line that a run records and that ``Next:`` extends; output files that exist already."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import ccvae_eval
from ccvae_eval.cli import GIVEN
from ccvae_eval.cli.options import claim_folder, command_line
from tests.support.commands import run_command


@pytest.mark.parametrize(
    ("given", "without", "expected"),
    [
        ("run a.pt --out x -v", "", "ccvae-eval run a.pt --out x -v"),
        ("run a.pt -o x --force -v", "--out", "ccvae-eval run a.pt -v"),
        ("run a.pt --out=x -v", "--out", "ccvae-eval run a.pt -v"),
        ("run a.pt -ox -v", "--out", "ccvae-eval run a.pt -v"),
        ("run a.pt -dx -cA,B -v", "--data y --labels A", "ccvae-eval run a.pt -v"),
        ("run a.pt --sample 40 -d faces", "--sample 640", "ccvae-eval run a.pt -d faces"),
        ("run a.pt -c A,B --seed 1", "--labels A", "ccvae-eval run a.pt --seed 1"),
        ("run a.pt --characteristic A -v", "--labels A", "ccvae-eval run a.pt -v"),
        ("run a.pt -d x --rename A=B -v", "--data x,label=A=B", "ccvae-eval run a.pt -v"),
        ("run a.pt --data x --label A=B -v", "--data x,label=A=B", "ccvae-eval run a.pt -v"),
        ("run a.pt --data x --label A=B", "--sample all", "ccvae-eval run a.pt --data x --label A=B"),
    ],
)
def test_options_that_are_replaced_are_left_out(given: str, without: str, expected: str) -> None:
    token = GIVEN.set(tuple(given.split()))
    try:
        assert command_line(without) == expected
    finally:
        GIVEN.reset(token)


def test_a_part_with_spaces_is_quoted() -> None:
    token = GIVEN.set(("run", "my model.pt"))
    try:
        assert command_line() == "ccvae-eval run 'my model.pt'"
    finally:
        GIVEN.reset(token)


CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
WRITING = {
    "train vae --data digits": "ckpt.pt",
    "train judge --data digits": "judge.safetensors",
    f"convert {CHECKPOINT}": "other.pt",
    f"export {CHECKPOINT} --data faces,size=64,n=40": "codes.npz",
    "export hf RUN": "index.json",
    "table RUN": "table.md",
    "report RUN --figure density": "density.svg",
    "compare RUN RUN": "comparison.json",
    "compare RUN2 RUN2": "comparison.html",
}


@pytest.mark.parametrize(("command", "name"), WRITING.items(), ids=lambda text: text.replace(str(CHECKPOINT), "CKPT"))
def test_a_file_is_not_overwritten_without_force(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text("precious")
    out = tmp_path if command.startswith("compare") else file
    assert run_command(*shlex.split(command), "--out", out) == 2
    assert f"{file}: the file exists already" in " ".join(capsys.readouterr().err.split())
    assert file.read_text() == "precious"


def test_force_overwrites_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ckpt.pt"
    train = ["train", "vae", "--data", "digits", "--steps", "1", "--quiet", "--out", file]
    assert [run_command(*train), run_command(*train), run_command(*train, "--force")] == [0, 2, 0]
    assert run_command(*train[:5], "2", *train[6:], "--resume") == 0, "a training is resumed without --force"
    copy = tmp_path / "copy.pt"
    convert = ["convert", file, "--out", copy]
    assert [run_command(*convert), run_command(*convert), run_command(*convert, "--force")] == [0, 2, 0]


@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_results_are_not_written_among_other_files_without_force(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "values.csv").write_text("precious")
    assert run_command(verb, CHECKPOINT, "--data", "faces", "--out", tmp_path) == 2
    assert "the folder contains files that are not a run" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["values.csv"]
    claim_folder(tmp_path, force=True)


@pytest.mark.parametrize("name", [".gitkeep", "share-1-of-2.npz", "sweep.json"])
def test_empty_folders_and_those_of_shares_and_sweeps_are_accepted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    claim_folder(tmp_path, force=False)
