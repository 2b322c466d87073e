"""Progress: one bar in a terminal that names the metric at work, a plain line without one, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ccvae_eval import api
from ccvae_eval.rendering import progress
from ccvae_eval.rendering.progress import ProgressDisplay


def _console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False, _environ={})


def _text(display: ProgressDisplay) -> str:
    return str(display.console.file.getvalue())  # type: ignore[attr-defined]


def test_a_terminal_gets_a_bar_of_images_with_the_metric_at_work_and_the_time_left() -> None:
    display = ProgressDisplay(_console(terminal=True))
    display.stage("measure", 0, 1200)
    display.working("locality")
    display.stage("measure", 300, 1200)
    display._bar.refresh()
    shown = _text(display)
    for part in ("decoding images: locality", "300/1200", "left"):
        assert part in shown
    display.stage("measure", 1200, 1200)
    assert display._bar is None, "the bar disappears with the last image"


def test_text_is_printed_between_two_bars() -> None:
    display = ProgressDisplay(_console(terminal=True))
    display.stage("train", 1, 10, "loss 3.2")
    bar = display._bar
    with display.paused():
        assert not bar.live.is_started
    assert bar.live.is_started
    display.close()
    assert not bar.live.is_started


def test_without_a_terminal_a_line_is_printed_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    display = ProgressDisplay(_console(terminal=False))
    display.stage("train", 0, 100)
    for step in range(1, 91):
        now = float(step)
        display.stage("train", step, 100, "drift")
    lines = _text(display).splitlines()
    assert lines == [
        "training (steps): drift: 30 of 100, about 1 min left",
        "training (steps): drift: 60 of 100, about 40 s left",
        "training (steps): drift: 90 of 100, about 10 s left",
    ]


@pytest.mark.parametrize(("terminal", "seconds", "lines"), [(True, 2.0, 1), (False, 2.0, 1), (False, 0.5, 0)])
def test_the_time_is_printed_once_after_the_second_batch_if_it_is_worth_it(
    *, terminal: bool, seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch, which may be slow, does not count."""
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    display = ProgressDisplay(_console(terminal=terminal))
    for done in range(32, 321, 32):
        display.stage("measure", done, 320)
        now += seconds
    assert _text(display).count("decoding images: 64 of 320, about 16 s left") == lines
    assert _text(display).count("about") == lines


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_display_shows_nothing(*, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    display = ProgressDisplay(_console(terminal=terminal), quiet=True)
    for done in range(10):
        display.stage("measure", done, 10)
    display.close()
    assert _text(display) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_python_shows_a_bar_by_default_in_a_terminal_only(*, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", terminal)
    assert (api._display(required=False) is not None) is terminal
    assert api._display(required=True) is not None
