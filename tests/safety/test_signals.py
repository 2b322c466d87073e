"""Commands that are asked to stop: 130 or 143, what was written is whole, and no process is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval import load, read
from ccvae_eval.cli.console import stop_requests
from ccvae_eval.core.errors import STOP_SIGNALS, StopRequest
from ccvae_eval.sweep import engines
from ccvae_eval.sweep.cells import Sweep
from ccvae_eval.sweep.engines import Processes
from ccvae_eval.training.loop import _Loop
from tests.support import sweep_commands
from tests.support.commands import run_command
from tests.support.runs import pictured_run

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 143}
SHIPPED = files("ccvae_eval") / "assets" / "ccvae-faces64.pt"
pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture
def handlers() -> Any:
    """The handlers of the signals are as before after each test."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def sends(number: int) -> Callable[..., None]:
    """A function that sends a signal to this process."""
    return lambda *_, **__: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", CODES)
def test_a_command_that_is_asked_to_stop_says_so_and_ends_with_a_documented_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ccvae_eval.cli.list._summary", sends(number))
    assert run_command("list", "models") == CODES[number]
    assert f"The command was stopped by {number.name}." in capsys.readouterr().err
    assert run_command("list", "models", "--json") == CODES[number]
    assert json.loads(capsys.readouterr().out)["error"]["what"] == f"stopped by {number.name}"


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("ccvae_eval.cli.list._position", lambda entry: (sends(signal.SIGHUP)(), 0, "")[1:])
        assert run_command("list", "models") == 0
        with stop_requests() as received:
            sends(signal.SIGHUP)()
        assert not received
    finally:
        signal.signal(signal.SIGHUP, before)


AT_END = """
import atexit, os, signal
from ccvae_eval.cli.main import main
atexit.register(lambda: [os.kill(os.getpid(), n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)])
main()
"""


def test_a_signal_at_the_end_of_the_interpreter_changes_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", AT_END, "--version"], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stdout.startswith("ccvae-eval ")


def test_an_evaluation_that_is_stopped_says_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", SHIPPED, "--judge", "none", "--out", tmp_path / "out", "--force"]
    monkeypatch.setattr("ccvae_eval.api.evaluate", sends(signal.SIGTERM))
    assert run_command(*arguments) == 143
    assert "Stopped: no results were written." in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr("ccvae_eval.api.evaluate", lambda **given: given["early"](pictured_run()) or pictured_run())
    monkeypatch.setattr("ccvae_eval.cli.measuring.draw", sends(signal.SIGINT))
    assert run_command(*arguments) == 130
    text = " ".join(capsys.readouterr().err.split())
    assert f"Stopped: the run in {tmp_path / 'out'} is complete." in text.replace("out is", "out is")
    assert read(tmp_path / "out").measurement("locality").status == "ok"

    def early(**given: Any) -> None:
        given["early"](pictured_run())
        sends(signal.SIGINT)()

    monkeypatch.setattr("ccvae_eval.api.evaluate", early)
    assert run_command(*arguments) == 130
    assert "the built-in metrics are in" in " ".join(capsys.readouterr().err.split())
    assert read(tmp_path / "out").measurement("locality").status == "ok"


@pytest.mark.parametrize("number", CODES)
def test_a_training_that_is_asked_to_stop_saves_its_state(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vae.pt"
    arguments = ["train", "vae", "--data", "faces,size=32,n=300", "--out", out, "--steps", "4", "--batch-size", "8"]
    step = _Loop._train_step
    steps: list[int] = []

    def interrupted(self: Any, *given: Any) -> Any:
        steps.append(self.progress.step)
        if len(steps) == 2:
            sends(number)()
        return step(self, *given)

    monkeypatch.setattr(_Loop, "_train_step", interrupted)
    assert run_command(*arguments) == CODES[number]
    assert "stopped; continue with --resume" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert {path.name for path in (tmp_path / "vae.pt.training").iterdir()} == {
        "history.csv",
        "history.png",
        "training.pt",
    }
    assert run_command(*arguments, "--resume") == 0
    assert steps == [0, 1, 2, 3], "no step is done twice"
    assert load(out).record is not None


def test_a_second_interrupt_ends_at_once() -> None:
    with stop_requests() as received:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            sends(number)()
        assert received == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT], "the first of each lets the work be saved"
        with pytest.raises(StopRequest, match="SIGINT"):
            sends(signal.SIGINT)()


def test_a_second_interrupt_leaves_no_process_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hang.pt").write_bytes(b"")
    sweep = Sweep.of(tmp_path / "sweep", [str(tmp_path / "hang.pt")], [0])
    sweep.write()
    engine = Processes(sweep.folder, sweep_commands.command, count=1)
    (job,) = engine.submit(sweep.cells)
    process = job.handle[0]
    join = process.join
    waits: list[float] = []

    def interrupted(seconds: float | None = None) -> None:
        waits.append(seconds or 0)
        if len(waits) == 1:
            raise StopRequest(signal.SIGINT)
        join(seconds)

    monkeypatch.setattr(process, "join", interrupted)
    monkeypatch.setattr(process, "terminate", lambda: None)  # a worker that does not listen
    began = time.monotonic()
    with pytest.raises(StopRequest):
        engine.close()
    assert not process.is_alive()
    assert time.monotonic() - began < engines.STOP_SECONDS
