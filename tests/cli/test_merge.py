"""``run --blocks`` and ``merge``: an ordinary run from shares, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ccvae_eval
from ccvae_eval.cli.merge import OF_MERGE
from ccvae_eval.cli.options import Common, options_of
from tests.support.commands import run_command

SHIPPED = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
OPTIONS = ["-m", "reconstruction,accuracy", "--option", "reconstruction.importance=0", "--sample", "64", "--judge",
           "none", "--labels", "Smiling,Eyeglasses", "--plugin", "own.py"]  # fmt: skip


def evidence(folder: str) -> dict[str, bytes]:
    """The bytes of each array of a run's evidence."""
    with np.load(f"{folder}/evidence.npz") as arrays:
        return {name: array.tobytes() for name, array in arrays.items()}


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.slow
def test_shares_make_an_ordinary_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccvae_eval.evaluation.subject.BLOCK", 32)  # two blocks of 64 images
    shutil.copy(SHIPPED, "model.pt")
    added: list[Path] = []
    monkeypatch.setattr("ccvae_eval.plugins.registry.add_plugin_file", added.append)
    output = ["--no-figures", "--no-page", "--quiet"]
    assert run_command("run", "model.pt", *OPTIONS, *output, "--out", "whole") == 0
    for number in (1, 2):
        assert run_command("run", "model.pt", *OPTIONS, *output, "--blocks", f"{number}/2", "--json") == 0
    shown = capsys.readouterr().out
    folder = Path(json.loads(shown[shown.rindex('{\n "share"') :])["share"]).parent
    assert sorted(file.name for file in folder.iterdir()) == ["share-1-of-2.npz", "share-2-of-2.npz"]
    assert set(added) == {Path("own.py")}
    added.clear()
    assert run_command("merge", folder, *output, "--out", "merged") == 0
    assert added == [], "a share executes no code"
    assert Path("whole/values.csv").read_bytes() == Path("merged/values.csv").read_bytes()
    assert evidence("whole") == evidence("merged")
    before, after = (json.loads((Path(name) / "run.json").read_text()) for name in ("whole", "merged"))
    assert after["command"] == f"{before['command']} --json"
    assert after["data"] == before["data"]


@pytest.mark.slow
def test_a_share_without_images_says_so_and_can_be_joined(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SHIPPED, "model.pt")
    options, output = OPTIONS[:-2], ["--no-figures", "--no-page"]
    assert run_command("run", "model.pt", *options, "--blocks", "2/2", "--dry-run", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["decode"] == 0
    for number, empty in ((1, False), (2, True)):
        assert run_command("run", "model.pt", *options, "--blocks", f"{number}/2", "--out", "shares") == 0
        said = " ".join(capsys.readouterr().err.split())
        assert ("share 2/2 has no images, because shares consist of whole blocks of 1,024" in said) == empty
    assert run_command("merge", "shares", *output, "--quiet", "--out", "merged") == 0
    assert json.loads(Path("merged/run.json").read_text())["data"]["n"] == 64


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "model.pt", "--blocks", "3/2"], 2, "--blocks: must be I/N with 1 <= I <= N, got '3/2'"),
        (["run", "model.pt", "--blocks", "3/2", "--dry-run"], 2, "--blocks: must be I/N with 1 <= I <= N, got '3/2'"),
        (["run", "model.pt", "--blocks", "1/2", "--gate", "g.toml"], 2, "a share of a run has no values yet"),
        (["run", "model.pt", "--blocks", "1/2", "--report", "x"], 2, "a share of a run has no values yet"),
        (["merge", "nowhere"], 3, "nowhere: has no shares of a run"),
        (["merge"], 2, "Missing argument"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*arguments) == code
    assert message in capsys.readouterr().err


def test_merge_has_the_options_that_change_no_number() -> None:
    assert {option.name for option in options_of(Common)} > OF_MERGE
