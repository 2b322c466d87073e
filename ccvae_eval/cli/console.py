"""The terminal of a command: output on stdout and stderr, progress bars, and the signals that request a stop."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.style import Style
from rich.text import Text

from ccvae_eval.core.errors import StopRequest, handle_stop_signals
from ccvae_eval.rendering.progress import ProgressDisplay
from ccvae_eval.rendering.text import plain


class Screen:
    """One command's output: results on stdout; notices and progress on stderr.

    Args:
        as_json: write one JSON document to stdout and everything else to stderr.
        quiet: show no progress and no notices.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.out = Console(file=sys.stderr if as_json else sys.stdout, highlight=False, emoji=False)
        self.err = Console(stderr=True, highlight=False, emoji=False)
        self.progress = ProgressDisplay(self.err, quiet=quiet)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.close()

    @property
    def ascii_only(self) -> bool:
        """True if the terminal cannot show block characters."""
        return "utf" not in (self.out.encoding or "").lower() or os.environ.get("TERM") == "dumb"

    def show(self, *what: RenderableType) -> None:
        """Prints results, one below the other, except in JSON mode."""
        if what and not self.as_json:
            with self.progress.paused():
                self.out.print(*what, sep="\n")

    def advise(self, text: str | Text) -> None:
        """Prints what to do next, except in JSON mode or when quiet."""
        if not self.as_json and not self.quiet:
            self.out.print(text, soft_wrap=True, markup=False)

    def written(self, folder: Path, made: Iterable[str]) -> None:
        """Prints where the files are, and the path of the report (a link, in a terminal that shows links)."""
        names = list(made)
        self.advise(f"\nWritten to {folder}: {', '.join(names)}")
        page = next((folder / name for name in names if name.endswith(".html")), None)
        if page is not None and not self.as_json and not self.quiet:
            link = Style(link=page.absolute().as_uri())
            self.out.print(Text.assemble("Report: ", (plain(str(page)), link)), soft_wrap=True)

    def notice(self, text: str) -> None:
        """Prints a notice on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(plain(text), style="dim", markup=False)

    def failure(self, text: str) -> None:
        """Prints on stderr that a part of the work failed, also with --quiet."""
        self.err.print(plain(f"Error: {text}"), markup=False, soft_wrap=True)

    def document(self, content: Any) -> None:
        """Writes the command's one JSON document to stdout."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False)
        sys.stdout.write(f"{text}\n")

    def stage(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Moves the progress bar of one stage, see :class:`.ProgressDisplay`."""
        self.progress.stage(name, done, total, detail)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects the stop signals received inside the block, so that the work can be saved; restores handlers after.

    A second Ctrl-C ends the process at once. Signals that are ignored, as under ``nohup``, stay so.
    """
    received: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and number in received:
            raise StopRequest(number)
        received.append(number)

    before = handle_stop_signals(collect)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
