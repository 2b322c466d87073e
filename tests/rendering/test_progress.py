"""Progress: a bar in a terminal that no other text tears, else a plain line every half minute."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ccvae_eval.rendering import progress
from ccvae_eval.rendering.progress import ProgressDisplay


def _console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def _written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_a_line_appears_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    display = ProgressDisplay(_console(terminal=False))
    for done in range(7):
        display.stage("measure", 1000 * done, 12000)
        display.working("locality")
        now[0] += 11
    assert _written(display.console).splitlines() == [
        "decoding images: locality: 3,000 of 12,000, about 2 min left",
        "decoding images: locality: 6,000 of 12,000, about 1 min left",
    ]


def test_a_terminal_shows_one_bar_with_the_metric_at_work() -> None:
    display = ProgressDisplay(_console(terminal=True))
    display.stage("measure", 10, 100)
    display.working("drift")
    with display.paused():
        display.console.print("a text")
    display.stage("measure", 50, 100)
    display.close()
    text = _written(display.console)
    assert "decoding images" in text
    assert "drift" in text
    assert "50/100" in text


def test_quiet_shows_nothing() -> None:
    display = ProgressDisplay(_console(terminal=True), quiet=True)
    display.stage("measure", 10, 100)
    display.close()
    assert not _written(display.console)
