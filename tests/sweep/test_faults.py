"""Faults of clusters and disks: jobs of a mocked Slurm that are preempted or disappear, a Dask scheduler that is
restarted, and a full disk. Nothing is lost, and a repeated command does what is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.core.errors import InputError
from ccvae_eval.sweep.cells import Sweep, perform
from ccvae_eval.sweep.engines import Dask, Job, Slurm, Work, engine_on
from ccvae_eval.sweep.loop import Ended, run_cells
from tests.support.sweep_commands import command
from tests.sweep.test_cells import sweep
from tests.sweep.test_engines import LONGEST, PROGRAM, ended_by_name, processes, quiet, started

submission = pytest.importorskip("submitit.core.submission", reason="needs submitit")


@pytest.fixture
def slurm() -> Iterator[Any]:
    """submitit's mock of Slurm; jobs run when :func:`run_job` is called."""
    from submitit.slurm.test_slurm import mocked_slurm

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)}
    with mocked_slurm() as mock:
        yield mock
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_job(slurm: Any, job: Job) -> None:
    """What a node of the cluster does with a job."""
    with slurm.job_context(job.handle.job_id), suppress(SystemExit):
        submission.process_job(job.handle.paths.folder)


SETTINGS = {"slurm_partition": "gpu", "slurm_array_parallelism": 3, "timeout_min": 60, "cells_per_job": 2}


def test_slurm_gets_one_array_of_jobs(tmp_path: Path, slurm: Any) -> None:
    made = sweep(tmp_path, "a", "b", "c", "wrong", "d")
    engine = Slurm(Work(made.folder, program=PROGRAM), SETTINGS)
    jobs = list(engine.submit(made.cells))
    assert [job.handle.job_id for job in jobs] == ["12_0", "12_1", "12_2"]
    script = next((made.folder / ".sweep" / "jobs").glob("*submission.sh"))
    asked = {line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"array=0-2%3", "partition=gpu", "time=60"} <= asked
    assert list(engine.wait(jobs, 0)) == []
    for job in jobs:
        run_job(slurm, job)
    assert sorted((job.cells[0].name[0], why) for job, why in engine.wait(jobs, 1)) == [("a", ""), ("c", ""), ("d", "")]
    assert [cell.name.split("-")[0] for cell in made.missing()] == ["wrong"]
    assert started(tmp_path) == ["a", "b", "c", "d", "wrong"]


def test_a_preempted_job_is_queued_again_and_skips_what_is_done(tmp_path: Path, slurm: Any) -> None:
    from submitit import JobEnvironment
    from submitit.slurm.test_slurm import get_signal_handler, mock_requeue

    made = sweep(tmp_path, "a", "b")
    engine = Slurm(Work(made.folder, program=PROGRAM), SETTINGS)
    (job,) = engine.submit(made.cells)
    perform(made.folder, made.cells[0], command)
    with pytest.raises(SystemExit), mock_requeue(called_with=3), slurm.job_context(job.handle.job_id):
        get_signal_handler(job.handle).checkpoint_and_try_requeue(JobEnvironment._usr_sig())
    run_job(slurm, job)
    assert [why for _, why in engine.wait([job], 1)] == [""]
    assert made.missing() == []
    assert started(tmp_path) == ["a", "b"], "the first cell is not evaluated again"


class Cluster(Slurm):
    """A Slurm whose jobs are run, or lost, while the engine waits."""

    on_wait: Callable[[Job], None]

    def wait(self, jobs: Collection[Job], seconds: float) -> Iterable[tuple[Job, str]]:
        for job in jobs:
            self.on_wait(job)
        return super().wait(jobs, 0)


def test_a_job_that_disappears_is_submitted_again(tmp_path: Path, slurm: Any) -> None:
    made = sweep(tmp_path, "a")
    engine = Cluster(Work(made.folder, program=PROGRAM), SETTINGS)
    lost: list[str] = []

    def on_wait(job: Job) -> None:
        if not lost:
            lost.append(job.handle.job_id)
            job.handle._results_timeout_s = 0  # a result may arrive late on a shared file system
            slurm.set_job_state(job.handle.job_id, "NODE_FAIL")
            job.handle.get_info(mode="force")
        elif job.handle.job_id not in lost:
            run_job(slurm, job)

    engine.on_wait = on_wait
    ended = ended_by_name(made, engine)
    assert ended["a"].done
    assert ended["a"].attempt.attempts == 1
    assert lost == ["12"]


def test_a_job_that_disappears_each_time_is_named(tmp_path: Path, slurm: Any) -> None:
    made = sweep(tmp_path, "a")
    engine = Cluster(Work(made.folder, program=PROGRAM), SETTINGS)

    def on_wait(job: Job) -> None:
        job.handle._results_timeout_s = 0
        slurm.set_job_state(job.handle.job_id, "FAILED")
        job.handle.get_info(mode="force")

    engine.on_wait = on_wait
    ended = ended_by_name(made, engine)
    assert not ended["a"].done
    assert ended["a"].attempt.error.startswith("job 13: ")
    assert ended["a"].attempt.error.endswith(", 2 times")


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@contextmanager
def dask_cluster(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler at a port, with one worker; both end with the block."""
    address = f"tcp://127.0.0.1:{port}"
    start = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*start, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    worker = subprocess.Popen(
        [*start, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny",
         "--death-timeout", "60"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield scheduler
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def lose(ended: Iterator[Ended], scheduler: subprocess.Popen[bytes]) -> None:
    """Kills the scheduler of a sweep after two cells."""
    for number, _ in enumerate(ended, 1):
        if number == 2:
            scheduler.kill()


@pytest.mark.slow
def test_a_sweep_survives_the_restart_of_the_scheduler(tmp_path: Path) -> None:
    made = sweep(tmp_path, *[f"slow{number}" for number in range(6)])
    port, end = free_port(), time.monotonic() + LONGEST
    with quiet():
        with dask_cluster(port) as scheduler:
            engine = engine_on(f"tcp://127.0.0.1:{port}", Work(made.folder, program=PROGRAM))
            with pytest.raises(InputError, match="the Dask scheduler is gone"):
                lose(run_cells(made.folder, made.cells, engine, stop=lambda: time.monotonic() > end), scheduler)
            engine.close()
        first = {folder.name: folder.stat().st_ino for folder in made.folder.glob("slow*")}
        assert 2 <= len(first) < 6
        with dask_cluster(port):
            again = Sweep.open(made.folder).write()
            engine = engine_on(f"tcp://127.0.0.1:{port}", Work(made.folder, program=PROGRAM))
            assert isinstance(engine, Dask)
            rest = list(run_cells(made.folder, again.missing(), engine, stop=lambda: time.monotonic() > end))
            engine.close()
    assert all(one.done for one in rest)
    assert made.missing() == []
    for name, inode in first.items():
        assert (made.folder / name).stat().st_ino == inode, "a run that was there is left as it is"
    assert len(started(tmp_path)) <= 6 + 1, "only the cell at work may have been evaluated twice"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 512 KiB at a folder; the test is skipped where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Writes until the disk is full."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    return filler


@pytest.mark.slow
def test_a_full_disk_fails_the_cells_and_loses_no_run(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a", "b", "c", "d")
    with small_disk(tmp_path / "disk"):
        place = Sweep(tmp_path / "disk" / "out", made.cells).write()
        perform(place.folder, place.cells[0], command)
        filler = fill(tmp_path / "disk")
        with processes(place) as engine:
            ended = ended_by_name(place, engine)
        assert {name: one.done for name, one in ended.items()} == {"b": False, "c": False, "d": False, "a": True}
        assert {ended[name].attempt.error for name in "bcd"} == {"left no result (no space left on device), 2 times"}
        assert json.loads((place.folder / "sweep.json").read_text())["cells"]
        filler.unlink()
        with processes(Sweep.open(place.folder).write()) as engine:
            rest = ended_by_name(Sweep(place.folder, tuple(place.missing())), engine)
        assert all(one.done for one in rest.values())
        assert place.missing() == []
        texts = [(place.folder / cell.name / "run.json").read_text() for cell in place.cells]
        assert [text.split()[0] for text in texts] == ["a", "b", "c", "d"]
        assert not [entry for entry in (place.folder / ".sweep").iterdir() if entry.is_dir()]


def test_a_write_that_fails_for_lack_of_space_fails_its_cell_only(tmp_path: Path, monkeypatch: Any) -> None:
    made = sweep(tmp_path, "a", "b")
    full = OSError(28, os.strerror(28))

    def fails(self: Path, *args: Any) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", fails)
        perform(made.folder, made.cells[0], command)
    perform(made.folder, made.cells[1], command)
    assert [state.status for state in made.states()] == ["failed", "done"]
    assert "No space left on device" in made.states()[0].attempt.error
