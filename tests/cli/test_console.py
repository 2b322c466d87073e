"""Inside, a signal is a request; afterwards it is what it was before."""

from __future__ import annotations

import os
import signal

import pytest

from ccvae_eval.cli.console import STOP_SIGNALS, stop_requests


def test_a_signal_inside_is_a_request_and_ends_nothing() -> None:
    with stop_requests() as came:
        assert came == []
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert sorted(came) == sorted([signal.SIGTERM, signal.SIGINT])


def test_afterwards_signals_are_what_they_were_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]

    def fails() -> None:
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), stop_requests():
        fails()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
