"""Progress of a computation: one bar in a terminal or notebook, else a plain line every half minute.

The time that is left is also printed once, as soon as the first batches have been measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from types import MappingProxyType
from typing import Any

from rich.console import Console

from ccvae_eval.rendering.text import duration

STAGES: Mapping[str, str] = MappingProxyType(
    {
        "encode": "encoding images",
        "measure": "decoding images",
        "judge": "training the judge (steps)",
        "reference": "decoding for the reference model",
        "train": "training (steps)",
        "calibrate": "measuring perturbed models",
    }
)
LINE_SECONDS = 30.0
"""Seconds between two lines where there is no terminal."""
ESTIMATED = ("measure", "reference")
"""Stages whose time is printed after the second batch: the first one may be slow, and only starts the clock."""
WORTH_SECONDS = 5.0
"""A shorter time that is left is not printed after the second batch."""


class ProgressDisplay:
    """The bar of the stage at work, on a console of its own; call :meth:`close` at the end.

    Args:
        console: where to show it; by default stderr.
        quiet: shows nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, emoji=False) if console is None else console
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._name, self._detail = "", ""
        self._begun = self._said = monotonic()
        self._reports = self._first = 0

    @property
    def live(self) -> bool:
        """True if a bar can be drawn: in a terminal or notebook."""
        return self.console.is_terminal or self.console.is_jupyter

    def stage(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Shows that ``done`` of ``total`` units of a stage are done; the bar disappears with the last one."""
        if self.quiet:
            return
        if name != self._name:
            self.close()
            self._name, self._begun, self._said = name, monotonic(), monotonic()
            self._reports, self._first = 0, done
        self._reports += 1
        self._detail = detail or self._detail
        what = STAGES.get(name, name) + (f": {self._detail}" if self._detail else "")
        now = monotonic()
        left = (now - self._begun) * (total - done) / max(done - self._first, 1)
        estimate = self._reports == 2 and name in ESTIMATED and left >= WORTH_SECONDS
        due = not self.live and now - self._said >= LINE_SECONDS
        if done < total and (estimate or due):
            self._said = now if due else self._said
            self.console.print(f"{what}: {done:,} of {total:,}, about {duration(left)} left", markup=False)
        if self.live:
            self._draw(what, done, total)

    def working(self, detail: str) -> None:
        """Names what is at work in the current stage."""
        self._detail = detail
        if self._bar is not None:
            self._bar.update(self._task, description=f"{STAGES.get(self._name, self._name)}: {detail}")

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._bar is None and done < total:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, TextColumn("left"), console=self.console, transient=True)
            self._task = self._bar.add_task(what, total=total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=what)
            if done >= total:
                self.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the bar away inside the block, so that a text is not torn by it."""
        if self._bar is not None:
            self._bar.stop()
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.start()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._name, self._detail = None, None, "", ""
