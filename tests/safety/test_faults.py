"""Bad inputs through the command itself: exit code 3 and one message that names the file and the fault.

docs/security.md lists the cases by number; the attacks are built in :mod:`tests.support.attacks`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch

import ccvae_eval
from ccvae_eval.checkpoint import read_bundle, write_bundle
from ccvae_eval.evaluation.storage import write
from tests.support import attacks
from tests.support.commands import run_command
from tests.support.runs import pictured_run

CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 3) -> str:
    """Runs a command that must refuse, and returns its message on one line."""
    assert run_command(*arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    _, error, message = shown.err.partition("Error: ")
    assert error
    assert "Traceback" not in shown.err
    assert "internal error" not in shown.err
    return " ".join(message.split())


@pytest.mark.parametrize("attack", attacks.REFUSED)
def test_the_command_refuses_an_attack(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    build, message = attacks.REFUSED[attack]
    build(path, canary)
    shown = refusal(capsys, "inspect", path)
    assert str(path) in shown
    assert message in shown
    assert [*tmp_path.iterdir()] == [path], "nothing was executed or written"


@pytest.mark.parametrize("attack", ["system_in_zip", "system_in_legacy", "tar_system_in_pickle"])
def test_the_console_script_refuses_an_attack(attack: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    attacks.REFUSED[attack][0](path, canary)
    script = Path(sys.executable).parent / "ccvae-eval"
    done = subprocess.run([script, "run", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "posix.system" in done.stderr
    assert not canary.exists()


def test_a_refusal_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attacks.REFUSED["system_in_zip"][0](tmp_path / "x.pt", tmp_path / "canary")
    assert run_command("inspect", tmp_path / "x.pt", "--json") == 3
    assert "posix.system" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_a_pickled_module_is_read_but_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attacks.module(tmp_path / "x.pt")
    assert run_command("inspect", tmp_path / "x.pt") == 0
    assert "torch.nn.modules.container.Sequential" in capsys.readouterr().out
    assert "torch.save(model.state_dict()" in refusal(capsys, "run", tmp_path / "x.pt")


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_file_cut_in_the_middle(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"x.{form}"
    write_bundle(path, {"w": torch.ones(1000)}, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is truncated" in refusal(capsys, "inspect", path)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_flipped_byte(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"x.{form}"
    write_bundle(path, {"w": torch.ones(1000)}, {})
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.ones(1000).numpy().tobytes()) + 7] ^= 1
    path.write_bytes(raw)
    assert "is damaged" in refusal(capsys, "inspect", path)


def test_the_digest_of_an_external_safetensors_file_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a file has no checksum, so that a flipped byte cannot be noticed."""
    safetensors.torch.save_file({"w": torch.ones(3)}, tmp_path / "x.safetensors")
    assert run_command("inspect", tmp_path / "x.safetensors") == 0
    assert read_bundle(tmp_path / "x.safetensors").sha256 in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", ["inspect", "run", "convert"])
def test_paths_that_are_not_files(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("empty").mkdir()
    expected = {"pipe": "is a pipe", "/dev/zero": "is a device", "loop": "symbolic links", "socket": "No such device"}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name, message in {**expected, "empty": "is a folder", "absent": "No such file"}.items():
            more = ["--out", "x.pt"] if verb == "convert" else []
            assert message in refusal(capsys, verb, name, *more)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_a_file_without_permission(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "x.pt"
        torch.save({"w": torch.ones(1)}, path)
        Path(folder).chmod(0o755)
        path.chmod(0)
        os.seteuid(65534)
        try:
            message = refusal(capsys, "inspect", path)
        finally:
            os.seteuid(0)
    assert "Permission denied" in message


def shipped(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """The shipped checkpoint with changed tensors or a changed record."""
    bundle = read_bundle(CHECKPOINT)
    tensors, record = dict(bundle.tensors), json.loads(json.dumps(dict(bundle.metadata)))
    change(tensors, record)
    write_bundle(path, tensors, record)
    return path


def test_missing_tensors_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shipped(tmp_path / "x.pt", lambda tensors, _: tensors.pop("encoder.loc.weight"))
    shown = refusal(capsys, "run", path, "--data", "faces", "--sample", 16)
    assert "1 missing, 0 unexpected, 0 of another shape" in shown
    assert "missing encoder.loc.weight (" in shown


def test_settings_for_a_model_of_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shipped(tmp_path / "x.pt", lambda _, record: record["model"]["settings"].update(style=10**9))
    assert "far too large" in refusal(capsys, "run", path, "--data", "faces", "--sample", 16)


def test_a_checkpoint_of_a_newer_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"ccvae_eval": {"format_version": 9, "tool": "7.5.0"}, "tensors": {}}, tmp_path / "x.pt")
    shown = refusal(capsys, "inspect", tmp_path / "x.pt")
    assert "7.5.0" in shown
    assert ccvae_eval.__version__ in shown


def _not_json(text: str) -> NoReturn:
    raise AssertionError(f"{text} in JSON")


def spoilt(part: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(tensors: dict[str, Any], _: dict[str, Any]) -> None:
        name = next(n for n, t in tensors.items() if n.startswith(part) and n.endswith("weight"))
        tensors[name].fill_(float("nan"))

    return change


def test_an_encoder_of_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be measured: one error, as JSON."""
    path = shipped(tmp_path / "x.pt", spoilt("encoder."))
    assert run_command("accuracy", path, "--data", "faces", "--sample", 16, "--json") == 4
    error = json.loads(capsys.readouterr().out, parse_constant=_not_json)["error"]
    assert error["code"] == "nan"
    assert "NaN" in error["what"]


@pytest.mark.slow
def test_a_decoder_of_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The metrics that need the decoder fail with a reason, and JSON has null."""
    path = shipped(tmp_path / "x.pt", spoilt("decoder."))
    code = run_command("reconstruction", path, "--data", "faces", "--sample", 16, "--json")
    document = json.loads(capsys.readouterr().out, parse_constant=_not_json)
    (measured,) = document["measurements"]
    assert code == 4
    assert (measured["status"], measured["reason"]["code"]) == ("failed", "nan")
    assert any("NaN or infinity" in warning for warning in document["warnings"])


# results of other people


RUNS: dict[str, tuple[Callable[[str], str], str]] = {
    "a number beyond floats": (lambda text: text.replace('"seed": 0', '"seed": 1e400'), "seed"),
    "an infinite setting": (lambda text: text.replace('"steps": 5', '"steps": 1e400'), "finite"),
    "deep nesting": (lambda text: "[" * 100_000 + "]" * 100_000, "nested"),
    "nesting inside": (lambda text: text.replace('"seed": 0', f'"seed": 0, "x": {"[" * 90}{"]" * 90}'), "nested"),
    "a key twice": (lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 1'), "twice"),
    "not a number": (lambda text: text.replace('"seed": 0', '"seed": NaN'), "NaN"),
    "a long integer": (lambda text: text.replace('"seed": 0', f'"seed": {"9" * 4000}'), "seed"),
    "no text": (lambda text: "\udcff", "UTF-8"),
    "another document": (lambda text: '{"a": 1}', "not a run file"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_hostile_run(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = RUNS[case]
    write(pictured_run(), tmp_path / "good")
    write(replace(pictured_run()), tmp_path / "bad")
    text = (tmp_path / "bad" / "run.json").read_text()
    assert change(text) != text
    (tmp_path / "bad" / "run.json").write_bytes(change(text).encode("utf-8", "surrogateescape"))
    for arguments in (["compare", "good", "bad"], ["report", "bad"], ["inspect", "bad"]):
        shown = refusal(capsys, arguments[0], *(tmp_path / name for name in arguments[1:]))
        assert str(tmp_path / "bad" / "run.json") in shown
        assert message in shown


def test_a_run_of_two_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(pictured_run(), tmp_path / "bad")
    with (tmp_path / "bad" / "run.json").open("r+b") as file:
        file.truncate(2 << 30)  # a sparse file
    assert "is too large" in refusal(capsys, "report", tmp_path / "bad")
