"""Help, lists, explanations, completion and refusals come without the heavy libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import ccvae_eval
from ccvae_eval.cli import VERBS
from tests.support import honest_files
from tests.support.imitated_libraries import imitated_libraries

CHECKPOINT = str(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt")
HEAVY = {"torch", "sklearn", "scipy", "cv2", "matplotlib", "pandas", "kornia", "numpy"}
METRICS = [name for name, verb in VERBS.items() if verb.is_metric or name == "disentanglement"]

SERVER = """
import contextlib, io, json, os, sys
from ccvae_eval.cli.main import main

for line in sys.stdin:
    request = json.loads(line)
    if os.fork() == 0:
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        output, code = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), None
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                main(request["arguments"])
            except SystemExit as ended:
                code = ended.code
        output.seek(0)
        answer = {"code": code, "heavy": sorted(set(sys.modules) & set(request["heavy"])), "output": output.read()}
        os.write(1, json.dumps(answer).encode() + b"\\n")
        os._exit(0)
    os.wait()
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ended: its exit code, the heavy modules that it imported, and its output."""

    code: int
    heavy: list[str]
    output: str


class CommandRunner:
    """Runs each command in a fork of one process that has imported the root command alone."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.folder = server, folder

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        request = {"arguments": arguments, "folder": str(self.folder), "environment": environment, "heavy": [*HEAVY]}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Ended(**json.loads(self.server.stdout.readline()))


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.fixture
def command(server: subprocess.Popen[str], tmp_path: Path) -> CommandRunner:
    return CommandRunner(server, tmp_path)


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_help_of_a_verb(verb: str, command: CommandRunner) -> None:
    ended = command(verb, "--help")
    assert (ended.code, ended.heavy) == (0, [])
    assert "--help" in ended.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(["list", what] for what in ("models", "metrics", "data", "plugins")),
        ["list", "plugins", "--json"],
        ["explain", "schema"],
        *(["explain", name] for name in [*METRICS, "focus", "judge", "folder", "ccvae"]),
        ["reproduce"],
        ["new", "model", "mine"],
        ["inspect", CHECKPOINT],
        ["inspect", CHECKPOINT, "--json"],
    ],
    ids=" ".join,
)
def test_a_command_that_looks_something_up(arguments: list[str], command: CommandRunner) -> None:
    ended = command(*arguments)
    assert (ended.code, ended.heavy) == (0, [])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files that no command accepts."""
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.xyz").write_text("hello")
    (tmp_path / "archive.pt").write_bytes(b"PK\x03\x04" + b"x" * 100)
    (tmp_path / "program.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echoq\x00\x85q\x01Rq\x02.")
    (tmp_path / "half.pt").write_bytes(Path(CHECKPOINT).read_bytes()[:100_000])
    (tmp_path / "half.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "recipe.toml").write_text("title = ")
    return tmp_path


FILES = ("absent.pt", "text.pt", "text.xyz", "archive.pt", "program.pt", "half.pt", "half.safetensors", "empty.pt")


@pytest.mark.parametrize("name", [*FILES, "folder", "pipe.pt"])
def test_a_file_that_is_no_checkpoint(name: str, files: Path, command: CommandRunner) -> None:
    ended = command("run", str(files / name))
    assert (ended.code, ended.heavy) == (3, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "text.pt"],
        ["convert", "text.pt", "--out", "x.pt"],
        ["export", "text.pt", "--out", "x.npz"],
        ["calibrate", "--checkpoint", "text.pt"],
        ["train", "ccvae", "--data", "faces", "--init-from", "text.pt"],
        ["run", CHECKPOINT, "--judge", "text.pt"],
        ["run", CHECKPOINT, "--out", "text.pt"],
        ["demo", "--out", "text.pt"],
        ["reproduce", "recipe.toml"],
        ["reproduce", "absent.toml"],
        *([name, "text.pt"] for name in METRICS),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("files")
def test_every_verb_refuses_a_file(arguments: list[str], command: CommandRunner) -> None:
    ended = command(*arguments)
    assert (ended.code, ended.heavy) == (3, [])


INSPECTED: dict[str, tuple[bytes, str]] = {
    "page.html": (b"<!DOCTYPE html><html>", "a web page"),
    "values.csv": (b"metric,value\nlocality.focus,0.5\n", "a text file"),
    "recipe.toml": (b'title = "x"\n', "a text file"),
    "other.json": (b'{"a": 1}', "a JSON file"),
    "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image"),
    "train-images-idx3-ubyte": (b"\0\0\x08\x03" + bytes(50), "an IDX file of images"),
    "images.gz": (b"\x1f\x8b\x08" + bytes(50), "a gzip file"),
    "array.npy": (b"\x93NUMPY\x01\0" + bytes(50), "a NumPy array"),
    "weights.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
    "anything": (bytes(range(1, 256)) * 9, "no known format"),
}


@pytest.mark.parametrize("name", INSPECTED)
def test_inspect_says_what_a_file_is(name: str, tmp_path: Path, command: CommandRunner) -> None:
    content, message = INSPECTED[name]
    (tmp_path / name).write_bytes(content)
    ended = command("inspect", name)
    assert (ended.code, ended.heavy) == (3, [])
    assert message in ended.output


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_inspect_says_what_an_archive_of_arrays_is(option: list[str], tmp_path: Path, command: CommandRunner) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.zeros(3))
    ended = command("inspect", "x.npz", *option)
    assert (ended.code, ended.heavy) == (0, ["numpy"])
    assert "uint8 3 x 8 x 8" in ended.output


def test_inspect_opens_external_checkpoints(tmp_path: Path, command: CommandRunner) -> None:
    with imitated_libraries():
        for style in ("lightning 1", "omegaconf", "whole module", "state dict in the legacy format"):
            honest_files.STYLES[style](tmp_path / f"{style}.pt")
    for path in tmp_path.iterdir():
        for option in ([], ["--json"]):
            ended = command("inspect", str(path), *option)
            assert (ended.code, ended.heavy) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "Did you mean 'run'?"),
        (["evaluate", CHECKPOINT], "Did you mean 'run'?"),
        (["run", CHECKPOINT, "--metirc", "locality"], "--metirc"),
        (["run", CHECKPOINT, "--metric", "localty"], "Did you mean 'locality'?"),
        (["run", CHECKPOINT, "--data", "nonsense:"], "'nonsense' is not a registered data set"),
        (["run", CHECKPOINT, "--data", "fces,size=64"], "Did you mean 'faces'?"),
        (["run", CHECKPOINT, "--plugin", "absent.py"], "plugin file does not exist"),
        (["run", CHECKPOINT, "--device", "gpu"], "device 'gpu' is unknown"),
        (["run", CHECKPOINT, "--sample", "-3"], "--sample must be a positive number"),
        (["run", CHECKPOINT, "--report", "absent"], "'absent' is not a registered report"),
        (["run", CHECKPOINT, "--set", "latent"], "KEY=VALUE"),
        (["run", CHECKPOINT, "--option", "steps=5"], "metric.key=value"),
        (["run", CHECKPOINT, "--model", "ccvea"], "Did you mean 'ccvae'?"),
        (["run", CHECKPOINT, "--option", "locality.step=5"], "Did you mean 'steps'?"),
        (["locality", CHECKPOINT, "--steps", "1"], "at least 3, got 1"),
        (["disentanglement"], "--codes FILE is required"),
        (["train", "ccvea", "--data", "faces"], "Did you mean 'ccvae'?"),
        (["train", "ccvae", "--data", "fces"], "Did you mean 'faces'?"),
        (["train", "ccvae", "--data", "faces", "--out", "x.zip"], ".pt or .safetensors"),
        (["train", "ccvae", "--data", "faces", "--rate", "7"], "--supervision must be from 0 to 1, got 7"),
        (["train", "ccvae", "--data", "faces", "--device", "gpu"], "device 'gpu' is unknown"),
        (["reproduce", "absent"], "recipe 'absent' is unknown"),
        (["reproduce", "walks", "--data", "fces"], "Did you mean 'faces'?"),
        (["convert", CHECKPOINT, "--out", "x.zip"], ".pt or .safetensors"),
        (["export", CHECKPOINT, "--out", "x.csv"], "must end in .npz"),
        (["export", CHECKPOINT, "--out", "x.npz", "--data", "fces"], "Did you mean 'faces'?"),
        (["calibrate", "localty"], "Did you mean 'locality'?"),
        (["calibrate", "--data", "fces"], "Did you mean 'faces'?"),
        (["explain", "localty"], "Did you mean 'locality'?"),
        (["check", "ccvea"], "Did you mean 'ccvae'?"),
        (["new", "model", "ccvae"], "registered already"),
        (["list", "modles"], "modles"),
        (["demo", "--device", "gpu"], "device 'gpu' is unknown"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, command: CommandRunner) -> None:
    ended = command(*arguments)
    assert message in " ".join(ended.output.split())
    assert (ended.code, ended.heavy) == (2, [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lo", {"locality"}),
        ("run x.pt --metr", {"--metric", "--metric-timeout"}),
        ("run x.pt --metric d", {"density", "disentanglement", "diversity", "drift"}),
        ("run x.pt --data fa", {"faces", "falcor3d"}),
        ("run x.pt --device c", {"cpu", "cuda"}),
        ("run x.pt --option loc", {"locality."}),
        ("run x.pt --option locality.st", {"locality.steps="}),
        ("drift x.pt --matc", {"--matcher"}),
        ("train cs", {"csvae"}),
        ("train j", {"judge"}),
        ("train ccvae --dat", {"--data"}),
        ("explain s", {"schema"}),
        ("list mod", {"models"}),
        ("reproduce w", {"walks"}),
        ("check pyt", {"pythae"}),
        ("calibrate g", {"generation"}),
        ("compare a b --metric l", {"locality"}),
    ],
)
def test_completion(words: str, expected: set[str], command: CommandRunner) -> None:
    line = f"ccvae-eval {words}"
    ended = command(_CCVAE_EVAL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1))
    assert set(ended.output.split()) == expected
    assert (ended.code, ended.heavy) == (0, [])


def test_completion_is_offered_for_every_command(command: CommandRunner) -> None:
    ended = command(_CCVAE_EVAL_COMPLETE="complete_bash", COMP_WORDS="ccvae-eval ", COMP_CWORD="1")
    assert set(ended.output.split()) == set(VERBS)
    # --show-completion prints the same script, but for the shell that it finds among its parent processes
    shown = command(_CCVAE_EVAL_COMPLETE="source_bash")
    assert (shown.code, shown.heavy) == (0, [])
    assert "_CCVAE_EVAL_COMPLETE" in shown.output
