"""Output of the commands at 60, 80 and 200 columns, without colour and without a terminal.

The files in tests/cli/golden hold what is printed. Renew them with ``GOLDEN=write pytest tests/cli/test_golden.py``,
then read the difference. The numbers come from golden/run.json, a run of the shipped checkpoint on 64 images, and from
the runs of ``tests.support.comparisons``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ccvae_eval
from ccvae_eval.cli.main import main
from ccvae_eval.evaluation.storage import read, write
from tests.support.comparisons import model

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (60, 80, 200)
SOURCES = "runs/2026-11-30-a-rather-long-name-of-an-experiment/seed-{}/checkpoints/epoch-0100.pt"
COMMANDS = {
    "help": ["--help"],
    "help-gate": ["gate", "--help"],
    "demo": ["demo"],
    "run": ["run", "model.pt", "-o", "runs/new"],
    "locality": ["locality", "model.pt", "-o", "runs/new"],
    "density": ["density", "model.pt", "-o", "runs/new"],
    "compare": ["compare", "a", "b"],
    "compare-three": ["compare", "a", "b", "c"],
    "gate": ["gate", "a", "--min", "locality.focus=.5", "--max", "drift.spill=.5", "--min", "locality.focus@Hat=2"],
    "table": ["table", "a", "b"],
    "table-latex": ["table", "a", "b", "--latex"],
    "inspect": ["inspect", "model.pt"],
    "inspect-run": ["inspect", "stored"],
    "list": ["list", "metrics"],
    "explain": ["explain", "locality"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _stored_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs in the working directory; an evaluation returns the stored run, with the metrics that are asked for."""
    for name in ("FORCE_COLOR", "GITHUB_STEP_SUMMARY", "TERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt", "model.pt")
    Path("stored").mkdir()
    shutil.copy(GOLDEN / "run.json", "stored")
    for k, name in enumerate("abc"):
        write(model(k, 1.0 - k / 2, path=SOURCES.format(k)), Path(name))

    def evaluate(*args: Any, **given: Any) -> ccvae_eval.Run:
        run = read("stored")
        wanted = given.get("metrics") or args[2]
        return replace(run, measurements=tuple(m for m in run if m.metric in wanted))

    monkeypatch.setattr("ccvae_eval.api.evaluate", evaluate)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_output_at_three_widths(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            main(list(COMMANDS[name]))
        shown = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
        parts.append(f"--- {width} columns ---\n{shown}\n")
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text("".join(parts), encoding="utf-8")
    assert "".join(parts) == file.read_text(encoding="utf-8")
