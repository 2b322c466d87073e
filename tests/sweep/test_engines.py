"""The engines at work: real processes, submitit's local executor and a real Dask cluster, with workers that die."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.sweep.cells import Sweep, attempt_of
from ccvae_eval.sweep.engines import Dask, Engine, Processes, Slurm, Work, engine_on
from ccvae_eval.sweep.loop import Ended, run_cells
from tests.support import sweep_commands
from tests.support.sweep_commands import command
from tests.sweep.test_cells import sweep

LONGEST = 120.0
"""No sweep of these tests may take longer, in seconds."""
PROGRAM = (sys.executable, str(sweep_commands.__file__))


@contextmanager
def processes(made: Sweep, count: int = 2, limit: float | None = None) -> Iterator[Processes]:
    engine = Processes(made.folder, command, count=count, limit=limit)
    try:
        yield engine
    finally:
        engine.close()


def ended_by_name(made: Sweep, engine: Engine, retries: int = 1) -> dict[str, Ended]:
    end = time.monotonic() + LONGEST
    found = run_cells(made.folder, made.cells, engine, retries=retries, stop=lambda: time.monotonic() > end)
    return {e.cell.name.split("-")[0]: e for e in found}


def started(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "log.txt").read_text().split())


def test_processes_run_every_cell_once(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(8)]
    made = sweep(tmp_path, *names)
    with processes(made) as engine:
        assert all(e.done for e in ended_by_name(made, engine).values())
    assert started(tmp_path) == names


def test_each_way_to_die_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    made = sweep(tmp_path, "good1", "kill", "exit", "hang", "wrong", "flaky", "good2")
    with processes(made, limit=3.0) as engine:
        ended = ended_by_name(made, engine)
    assert {name: e.attempt.error for name, e in ended.items() if not e.done} == {
        "kill": "killed by SIGKILL, 2 times",
        "exit": "the process ended with exit code 7, 2 times",
        "hang": "took longer than 3 seconds, 2 times",
        "wrong": "the checkpoint is cut off Copy it again.",
    }
    assert {name for name, e in ended.items() if e.done} == {"good1", "flaky", "good2"}


def test_workers_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    made = sweep(tmp_path, *[f"slow{number}" for number in range(12)])
    chance, kills, over = random.Random(0), [0], threading.Event()
    with processes(made) as engine:

        def kill() -> None:
            while kills[0] < 20 and not over.wait(chance.uniform(0.05, 0.35)):
                for process in [p for p in engine._alive if p.pid is not None][:1]:
                    os.kill(process.pid, signal.SIGKILL)
                    kills[0] += 1

        killer = threading.Thread(target=kill)
        killer.start()
        ended = ended_by_name(made, engine, retries=30)
        over.set()
        killer.join()
    assert kills[0] > 5
    assert len(ended) == 12
    assert all(e.done for e in ended.values())
    assert made.missing() == []
    assert [(made.folder / cell.name / "run.json").read_text() for cell in made.cells] == [
        f"slow{number} auto" for number in range(12)
    ]


def test_closing_stops_what_runs(tmp_path: Path) -> None:
    made = sweep(tmp_path, "hang")
    engine = Processes(made.folder, command, count=1)
    (job,) = engine.submit(made.cells)
    while not (tmp_path / "log.txt").exists():
        time.sleep(0.05)
    engine.close()
    assert not job.handle[0].is_alive()


def test_devices_are_dealt_out(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a", "b", "c")
    engine = Processes(made.folder, command, count=3, devices=["cuda:0", "cuda:1"])
    jobs = list(engine.submit(made.cells))
    assert [job.handle[1] for job in jobs] == ["cuda:0", "cuda:1", "cuda:0"]
    engine.close()


def test_a_work_runs_each_cell_in_a_process_of_its_own(tmp_path: Path) -> None:
    made = sweep(tmp_path, "good", "kill", "hang", "wrong")
    Work(made.folder, limit=2.0, program=PROGRAM)(made.cells)
    assert [attempt_of(made.folder, cell).error for cell in made.cells] == [
        "",
        "killed by SIGKILL",
        "took longer than 2 seconds",
        "the checkpoint is cut off Copy it again.",
    ]


def test_a_work_has_a_device_and_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sweep(tmp_path, "where")
    work = Work(made.folder, "cuda:1", program=PROGRAM)
    here = Path.cwd()
    monkeypatch.chdir(tmp_path)
    work(made.cells)
    assert (made.folder / made.cells[0].name / "run.json").read_text() == f"where cuda:1 {here}"


@pytest.mark.slow
def test_jobs_of_submitit_run_chunks_of_cells(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a", "b", "c", "wrong", "d")
    settings = {"cluster": "local", "cells_per_job": 2, "timeout_min": 5}
    engine = Slurm(Work(made.folder, program=PROGRAM), settings)
    ended = ended_by_name(made, engine)
    assert {name: e.done for name, e in ended.items()} == {"a": True, "b": True, "c": True, "d": True, "wrong": False}
    assert len(list((made.folder / ".sweep" / "jobs").glob("*_submitted.pkl"))) == 3
    engine.close()


@pytest.mark.slow
def test_a_job_that_is_cancelled_ends_and_its_cell_stays_to_be_done(tmp_path: Path) -> None:
    made = sweep(tmp_path, "hang", "a")
    engine = Slurm(Work(made.folder, program=PROGRAM), {"cluster": "local", "timeout_min": 5})
    (job,) = engine.submit(made.cells[:1])
    while not (tmp_path / "log.txt").exists():
        time.sleep(0.1)
    job.handle.cancel()
    end = time.monotonic() + LONGEST
    while not (gone := list(engine.wait([job], 1.0))) and time.monotonic() < end:
        pass
    assert [ended for ended, _ in gone] == [job]
    assert made.missing() == list(made.cells)
    engine.close()


def test_wrong_settings_of_slurm_are_named(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a")
    with pytest.raises(UsageError, match="cells_per_job must be a positive integer, got 0"):
        Slurm(Work(made.folder), {"cluster": "local", "cells_per_job": 0})
    with pytest.raises(UsageError, match="slurm_partitoin"):
        Slurm(Work(made.folder), {"cluster": "debug", "slurm_partitoin": "gpu"})
    with pytest.raises(UsageError, match=r"must be FILE\.toml, dask or an address"):
        engine_on("slurm", Work(made.folder))


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sweep(tmp_path, "a")
    for package, extra, engine in (("submitit", "slurm", lambda work: Slurm(work, {})), ("distributed", "dask", Dask)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=f"--on: needs the package {package}, which is not") as caught:
            engine(Work(made.folder))
        assert caught.value.hint == f"pip install 'ccvae-eval[{extra}]'"


@contextmanager
def quiet() -> Iterator[None]:
    """Dask warns about sockets that its own shutdown leaves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
def test_tasks_of_dask_outlive_their_workers(tmp_path: Path) -> None:
    made = sweep(tmp_path, *[f"slow{number}" for number in range(6)], "wrong", "kill")
    with quiet():
        engine = Dask(Work(made.folder, program=PROGRAM), count=2)
        workers = [worker.process.pid for worker in engine._cluster.workers.values()]  # type: ignore[attr-defined]
        timer = threading.Timer(1.0, lambda: os.kill(workers[0], signal.SIGKILL))
        timer.start()
        ended = ended_by_name(made, engine, retries=3)
        timer.join()
        engine.close()
    assert sorted(name for name, e in ended.items() if e.done) == [f"slow{number}" for number in range(6)]
    assert ended["wrong"].attempt.error == "the checkpoint is cut off Copy it again."
    assert ended["kill"].attempt.error == "killed by SIGKILL"


@pytest.mark.slow
def test_workers_of_an_own_cluster_that_do_not_come_back_are_replaced(tmp_path: Path) -> None:
    """As after a kill during their start: without any worker, a sweep would wait for ever."""
    made = sweep(tmp_path, "a", "b")
    with quiet():
        engine = Dask(Work(made.folder, program=PROGRAM), count=1)
        cluster: Any = engine._cluster
        (worker,) = cluster.workers.values()
        cluster.sync(worker.close)
        assert all(e.done for e in ended_by_name(made, engine).values())
        engine.close()
    assert made.missing() == []


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_told(tmp_path: Path) -> None:
    made = sweep(tmp_path, "hang")
    with quiet():
        scheduler = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard",
             "--scheduler-file", str(tmp_path / "scheduler.json")],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + LONGEST
        while not (tmp_path / "scheduler.json").exists() and time.monotonic() < end:
            time.sleep(0.1)
        address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
        engine = engine_on(address, Work(made.folder, program=PROGRAM))
        scheduler.kill()
        scheduler.wait()
        with pytest.raises(InputError, match="the Dask scheduler is gone"):
            list(run_cells(made.folder, made.cells, engine, stop=lambda: time.monotonic() > end))
        engine.close()
