"""Output of a screen; ``stop_requests`` collects signals inside its block and restores the handlers afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from ccvae_eval.cli.console import STOP_SIGNALS, Screen, stop_requests


def test_nothing_to_show_prints_no_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.show(*[])
        screen.show("one", "", "two")
    assert capsys.readouterr().out == "one\n\ntwo\n"


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
