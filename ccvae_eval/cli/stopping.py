"""Signals that ask a training to save its state and end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The signals that have come: inside none of them ends the process, which looks here when it can stop."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
