"""Mistakes of a new user are answered with what is wrong and what is right."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval.cli import VERBS
from ccvae_eval.core.devices import device_named
from ccvae_eval.core.errors import UsageError
from ccvae_eval.data.sets.codes import read_codes
from tests.support.commands import run_command

CHECKPOINT = str(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt")


@pytest.mark.parametrize(
    ("given", "message"),
    [({"sampel": 3}, "no argument 'sampel'\nDid you mean 'sample'?"), ({"sample": "x"}, "sample must be a positive")],
)
def test_evaluate_names_the_argument_that_is_wrong(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        ccvae_eval.evaluate("absent.pt", **given)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_codes_of_export_are_read(tmp_path: Path) -> None:
    file = tmp_path / "codes.npz"
    np.savez(
        file, codes=np.zeros((4, 3)), labels=np.ones((4, 2)), names=np.array(["A", "B"]),
        kinds=np.array(["binary", "continuous"]), columns=np.array(["", "B", "B"]),
    )  # fmt: skip
    found = read_codes(file)
    assert found.factors.shape == (4, 2)
    assert found.arrays["kinds"] == ["discrete", "continuous"]
    assert (found.arrays["blocks"], found.arrays["block_names"]) == ([[1, 2]], ["B"])


def test_version_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("version") == 2
    assert "Did you mean '--version'?" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_errors_are_red_in_a_terminal_only(
    *, terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert run_command("version") == 2
    assert ("\x1b[31mError:" in capsys.readouterr().err) is terminal


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs the CPU build of torch")
def test_a_cpu_build_is_named() -> None:
    with pytest.raises(UsageError, match=r"no CUDA GPU found \(torch .* is the CPU build\)"):
        device_named("cuda")


def test_a_folder_of_checkpoints_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / "sub" / name).mkdir(parents=True)
        torch.save({"w": torch.zeros(3)}, tmp_path / f"{name}.pt")
        torch.save({"w": torch.zeros(3)}, tmp_path / "sub" / name / "x.pt")
    assert run_command("run", str(tmp_path)) == 3
    assert "2 files were read as one model: one, two." in capsys.readouterr().err
    assert run_command("inspect", str(tmp_path / "sub")) == 3
    assert "Its subfolders have checkpoint files: one, two." in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_plain_types_and_whole_words(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert run_command(*filter(None, [verb, "--help"])) == 0
        shown[width] = capsys.readouterr().out
    assert max(map(len, shown[60].splitlines())) <= 60
    words = [re.sub(r"-\s+", "-", text).split() for text in shown.values()]
    assert words[0] == words[1], "no word is broken except at a hyphen, and none is left out"
    for private in ("list[", "int range", "float range", "<str", "<bool", "…"):
        assert private not in shown[200]


def test_the_description_of_a_command_is_wrapped_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command("compare", "--help") == 0
    paragraphs = capsys.readouterr().out.split("\n\n")[1:3]
    for lines in (paragraph.splitlines() for paragraph in paragraphs):
        following = [line.split()[0] for line in lines[1:]]
        assert all(len(line) + 1 + len(word) > 78 for line, word in zip(lines, following, strict=False))


def test_the_options_of_data_sets_are_wrapped_between_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {}
    for width in (70, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert run_command("explain", "folder") == 0
        words[width] = capsys.readouterr().out.split()
    assert words[70] == words[200]
    assert "[,regions=FOLDER]" in words[70]


@pytest.mark.parametrize(
    ("stopped", "kept"),
    [
        ("ccvae_eval.api.evaluate", "Stopped: no results were written. A judge that was trained is kept in the cache."),
        ("ccvae_eval.cli.measuring.draw", "the run in new is complete. ccvae-eval report new writes its report."),
    ],
)
def test_an_interrupted_run_says_what_was_kept(
    stopped: str, kept: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(stopped, interrupted)
    monkeypatch.chdir(tmp_path)
    given = ["-m", "accuracy", "--limit", "8", "--judge", "none", "--out", "new"]
    assert run_command("run", CHECKPOINT, *given) == 130
    shown = " ".join(capsys.readouterr().err.split())
    assert kept in shown
    assert shown.endswith("The command was stopped by SIGINT.")
    assert (tmp_path / "new" / "run.json").is_file() is stopped.endswith("draw")


def test_dir_is_the_public_interface() -> None:
    assert set(dir(ccvae_eval)) == {*ccvae_eval.__all__, "__version__"}


def test_a_checkpoint_may_end_in_pth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.pth"
    assert run_command("train", "vae", "--data", "digits", "--steps", "1", "--out", out) == 0
    assert ccvae_eval.load(out).name == "vae"
    assert run_command("train", "vae", "--data", "digits", "--out", tmp_path / "x.npz") == 2
    assert "the checkpoint file must end in .pt or .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((Path(__file__).parent / "golden").glob("*.txt")), ids=lambda file: file.stem)
def test_numbers_are_written_as_in_papers(file: Path) -> None:
    """0.5 instead of .5, 95% in one word, [0.003, 0.004]; p-values are written <.001."""
    found = re.findall(r"\d \\?%|(?<![\w.<])\.\d|\d \.\. ", file.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("run x.pt --limit abc", "--limit must be a whole number, got 'abc'"),
        ("run x.pt --limit 0", "--limit must be at least 1, got 0"),
        ("run x.pt --split tset", "--split must be one of train, judge, test, got 'tset'"),
        ("train vae --data faces --learning-rate x", "--learning-rate must be a number, got 'x'"),
        ("list plugs", "what must be one of models, metrics,"),
        ("new modl x", "kind must be one of model, metric,"),
    ],
)
def test_a_refused_value_is_told_what_is_right(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*given.split()) == 2
    assert capsys.readouterr().err.startswith(f"Error: {message}")
