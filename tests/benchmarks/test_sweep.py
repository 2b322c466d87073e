"""Time of a sweep of small evaluations against the sum of their own times: what queues, starts and polls cost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import ccvae_eval
from ccvae_eval.sweep.cells import WORK
from tests.benchmarks.conftest import Budget

CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
CELLS, WORKERS = 200, 2
SMALL = ["-m", "accuracy", "--sample", "64", "--judge", "none", "--no-page", "--quiet"]
SETTINGS = f"""
cluster = "local"
timeout_min = 60
cells_per_job = 25
max_jobs = {WORKERS}
"""


def seconds_of(folder: Path, count: int, *on: str) -> tuple[float, float]:
    """Time of a sweep of ``count`` seeds of one checkpoint, and the sum of the times of its cells."""
    command = [sys.executable, "-m", "ccvae_eval.cli.main", "sweep", str(CHECKPOINT), "--seeds", str(count), *SMALL]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--processes", str(WORKERS), *on, "--out", str(folder)], capture_output=True, text=True, check=False
    )
    took = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(file.read_text()) for file in (folder / WORK).glob("*.json")]
    cells = [each["seconds"] for each in attempts if "attempts" in each]
    assert len(cells) == count
    return took, sum(cells)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "needs", "most"),
    [("two processes", "", 1.05), ("submitit's local executor", "submitit", 1.15), ("Dask", "distributed", 1.15)],
)
def test_a_sweep_takes_little_longer_than_its_cells(
    engine: str, needs: str, most: float, tmp_path: Path, benchmark: BenchmarkFixture, budget: Budget
) -> None:
    if needs:
        pytest.importorskip(needs, reason=f"needs {needs}")
    (tmp_path / "local.toml").write_text(SETTINGS)
    on = {"submitit": ["--on", str(tmp_path / "local.toml")], "distributed": ["--on", "dask"]}.get(needs, [])
    count = 2 if benchmark.disabled else CELLS
    found: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: found.append(seconds_of(tmp_path / "sweep", count, *on)), rounds=1)
    took, cells = found[0]
    budget(
        f"sweep of {CELLS} cells on {engine} / the time of its cells on {WORKERS} workers",
        lambda: took / (cells / WORKERS),
        most,
    )
