"""Stands in for ``ccvae-eval run`` in tests of sweeps; the name of the checkpoint says what it does."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def command(arguments: list[str]) -> int:
    """Writes a run, or fails in the way that the checkpoint's name asks for."""
    what, out = Path(arguments[1]).stem, Path(arguments[arguments.index("--out") + 1])
    device = arguments[arguments.index("--device") + 1] if "--device" in arguments else ""
    log = Path(arguments[1]).parent / "log.txt"
    with log.open("a") as file:
        file.write(f"{what}\n")
    time.sleep(0.02)
    if what.startswith("tenth"):
        time.sleep(0.08)
    if what.startswith("slow"):
        time.sleep(0.4)
    if what.startswith("hang"):
        time.sleep(60)
    if what.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("exit"):
        os._exit(7)
    if what.startswith("flaky") and log.read_text().split().count(what) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("wrong"):
        os.write(2, b"a notice\nError: the checkpoint is cut off\nCopy it again.\n")
        return 3
    if what.startswith("stopped"):
        return 143
    (out / "run.json").write_text(" ".join(filter(None, [what, device, str(Path.cwd()) * what.startswith("where")])))
    return 4 if what.startswith("some") else 0


if __name__ == "__main__":
    raise SystemExit(command(sys.argv[1:]))
