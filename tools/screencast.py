"""Records commands in a terminal as an animated SVG in which each line appears when it was printed.

python tools/screencast.py FILE.svg COMMAND [COMMAND ...]

A command is one argument with its options. Waiting times are cut to ``LONGEST_WAIT`` seconds. The picture in the
documentation was made from an empty folder by

    python tools/screencast.py session.svg "ccvae-eval demo" "ccvae-eval gate runs/demo --min locality.focus=.6"
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.text import Text

WIDTH = 92
"""Columns of the terminal."""
LEAST_WAIT, LONGEST_WAIT = 0.06, 1.5
"""Seconds between two lines of the picture."""
AFTER_COMMAND = 0.8
"""Seconds between a command and its first line."""
DOCUMENT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
@keyframes appear {{ to {{ visibility: visible; }} }}
text[style] {{ visibility: hidden; animation: appear 0s forwards; }}
@media (prefers-reduced-motion: reduce) {{ text[style] {{ visibility: visible; animation: none; }} }}
</style>
<defs>{lines}</defs>
<rect fill="#1b1f24" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def printed(command: str) -> Iterator[tuple[float, str]]:
    """The lines of a command with the seconds since the line before; its prompt comes first.

    Raises:
        OSError: there is no such command.
    """
    yield LONGEST_WAIT, f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m"
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    before = perf_counter()
    with subprocess.Popen(
        shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            now = perf_counter()
            yield now - before + AFTER_COMMAND * (number == 0), line.rstrip("\n")
            before = now
    yield LEAST_WAIT, ""


def animated(lines: list[tuple[float, str]]) -> str:
    """The SVG of lines, each with the seconds to wait before it appears."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    times, now = [], 0.0
    for wait, line in lines:
        now += min(max(wait, LEAST_WAIT), LONGEST_WAIT)
        wrapped = Text.from_ansi(line).wrap(console, WIDTH) or [Text()]
        for part in wrapped:
            console.print(part, overflow="ignore", crop=False)
            times.append(now)
    picture = console.export_svg(title="", code_format=DOCUMENT)

    def delayed(match: re.Match[str]) -> str:
        return f'{match[0][:-1]} style="animation-delay:{times[int(match[1])]:.2f}s">'

    return re.sub(r'<text [^>]*-line-(\d+)\)">', delayed, picture)


def main(file: str, *commands: str) -> None:
    """Runs the commands one after the other and writes their picture."""
    lines = [line for command in commands for line in printed(command)]
    Path(file).write_text(animated(lines), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
