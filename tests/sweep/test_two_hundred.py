"""Two hundred cells on each engine while their workers are killed: nothing is lost, and nothing is there twice.

``pytest -m soak tests/sweep/test_two_hundred.py -s`` prints the figures of docs/scale.md. The cells stand in for small
evaluations: each takes a tenth of a second and writes its run.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.sweep.cells import Sweep
from ccvae_eval.sweep.engines import Dask, Engine, Processes, Slurm, Work
from ccvae_eval.sweep.loop import run_cells
from tests.support.sweep_commands import command
from tests.sweep.test_cells import sweep
from tests.sweep.test_engines import PROGRAM, quiet

CELLS, KILLS, SECONDS = 200, 20, 0.1
LONGEST = 900.0
"""Seconds after which a sweep is stopped, and the test fails."""

pytestmark = pytest.mark.soak


def of_processes(made: Sweep) -> tuple[Engine, Callable[[], Collection[int | None]]]:
    engine = Processes(made.folder, command, count=2)
    return engine, lambda: [process.pid for process in list(engine._alive)]


def of_jobs(made: Sweep) -> tuple[Engine, Callable[[], Collection[int | None]]]:
    """Jobs of submitit's local executor, ten cells each."""
    pytest.importorskip("submitit", reason="needs submitit")
    settings = {"cluster": "local", "timeout_min": 30, "cells_per_job": 10, "max_jobs": 2}
    engine = Slurm(Work(made.folder, program=PROGRAM), settings)
    return engine, lambda: [job._process.pid for job in list(engine._running) if job._process.poll() is None]


def of_tasks(made: Sweep) -> tuple[Engine, Callable[[], Collection[int | None]]]:
    """Tasks of a Dask cluster with two workers, which are started again when they die."""
    pytest.importorskip("distributed", reason="needs distributed")
    engine = Dask(Work(made.folder, program=PROGRAM), count=2)
    cluster: Any = engine._cluster
    return engine, lambda: [worker.pid for worker in list(cluster.workers.values()) if worker.pid]


@contextmanager
def killer(alive: Callable[[], Collection[int | None]], every: float) -> Iterator[list[int]]:
    """Kills a random worker now and then, at most ``KILLS`` times; yields the processes that were killed."""
    chance, killed, over = random.Random(0), list[int](), threading.Event()

    def kill() -> None:
        while len(killed) < KILLS and not over.wait(chance.uniform(0.5, 1.5) * every):
            workers = [pid for pid in alive() if pid]
            if workers:
                pid = chance.choice(workers)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(("start", "every"), [(of_processes, 0.7), (of_jobs, 2.0), (of_tasks, 3.0)])
def test_two_hundred_cells_survive_twenty_kills(start: Any, every: float, tmp_path: Path) -> None:
    names = [f"tenth{number:03}" for number in range(CELLS)]
    made = sweep(tmp_path, *names)
    end, begun = time.monotonic() + LONGEST, time.monotonic()
    with quiet():
        engine, alive = start(made)
        try:
            with killer(alive, every) as killed:
                ended = list(
                    run_cells(made.folder, made.cells, engine, retries=KILLS, stop=lambda: time.monotonic() > end)
                )
        finally:
            engine.close()
    took = time.monotonic() - begun
    assert len(ended) == CELLS, "each cell ends once"
    assert all(one.done for one in ended), [one for one in ended if not one.done]
    assert made.missing() == []
    texts = [(made.folder / cell.name / "run.json").read_text().split()[0] for cell in made.cells]
    assert texts == names, "every cell has the run of its own checkpoint"
    runs = sorted(folder.parent.name for folder in made.folder.glob("*/run.json"))
    assert runs == sorted(cell.name for cell in made.cells), "nothing is there twice"
    starts = Counter((tmp_path / "log.txt").read_text().split())
    again = sum(starts.values()) - CELLS
    assert len(killed) >= KILLS // 2
    # a killed job or task may lose the cell at work; its process may go on beside the one that repeats it
    assert again <= 2 * len(killed)
    halved = CELLS * SECONDS / 2
    print(
        f"\n{start.__name__}: {took:.0f} s ({halved:.0f} s of cells on two workers), {len(killed)} kills, {again} again"
    )
