"""Output of a screen; ``stop_requests`` collects signals inside its block and restores the handlers afterwards."""

from __future__ import annotations

import io
import os
import re
import signal
from pathlib import Path

import pytest
from rich.console import Console

from ccvae_eval.cli.console import Screen, stop_requests
from ccvae_eval.core.errors import STOP_SIGNALS


def test_nothing_to_show_prints_no_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.show(*[])
        screen.show("one", "", "two")
    assert capsys.readouterr().out == "one\n\ntwo\n"


def test_the_report_is_a_link_in_a_terminal_and_a_path_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    made = ["run.json", "report.html"]
    screen = Screen()
    screen.written(Path("runs/new"), made)
    assert capsys.readouterr().out == "\nWritten to runs/new: run.json, report.html\nReport: runs/new/report.html\n"
    screen.out = Console(force_terminal=True, color_system="standard", file=io.StringIO(), _environ={})
    screen.written(Path("runs/new"), made)
    address = Path("runs/new/report.html").absolute().as_uri()
    assert re.search(rf"Report: \x1b\]8;[^;]*;{re.escape(address)}\x1b\\", screen.out.file.getvalue())
    screen.written(Path("runs/new"), ["run.json"])
    assert screen.out.file.getvalue().count("Report: ") == 1


def test_signals_are_collected_and_end_nothing() -> None:
    with stop_requests() as received:
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert sorted(received) == sorted([signal.SIGTERM, signal.SIGINT])


def test_handlers_are_restored_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]

    def fails() -> None:
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), stop_requests():
        fails()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
