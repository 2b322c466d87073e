"""Where cells run: processes of this machine, jobs of Slurm through submitit, or tasks of a Dask cluster.

An engine only starts cells and says when they ended. Results and errors are in the folder of the sweep
(:mod:`ccvae_eval.sweep.cells`), so that no result passes through an engine and none is lost with it.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, Protocol

from ccvae_eval.core.errors import InputError, UsageError, optional_module
from ccvae_eval.core.typed import load_toml
from ccvae_eval.sweep.cells import JOBS, WORK, Cell, Command, perform

PRELOADED = ["ccvae_eval.api", "ccvae_eval.cli.main", "sklearn.linear_model", "cv2", "scipy.optimize"]
"""Modules that the server of the processes imports once for all cells."""
STOP_SECONDS = 20
"""Time that a process gets to stop by itself."""
SLURM_POLL_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class Job:
    """Cells that an engine was given together.

    Args:
        cells: the cells.
        handle: the engine's own object.
        start: when it was submitted, by the monotonic clock.
    """

    cells: tuple[Cell, ...]
    handle: Any
    start: float


class Engine(Protocol):
    """Runs cells somewhere."""

    @property
    def slots(self) -> int:
        """Cells that may be submitted at once."""

    def submit(self, cells: Sequence[Cell]) -> Iterable[Job]:
        """Starts cells, in one job or several."""

    def wait(self, jobs: Collection[Job], seconds: float) -> Iterable[tuple[Job, str]]:
        """The jobs that ended, after at most about so many seconds, with the reason if a worker was lost, else ""."""

    def close(self) -> None:
        """Stops whatever still runs, and waits for its end for a limited time."""


class Processes:
    """Processes on this machine, one for each cell, forked from a server that has imported the libraries.

    Args:
        folder: the folder of the sweep.
        command: runs the command line; an importable function.
        count: processes at a time.
        limit: seconds after which a cell is killed; None = no limit.
        devices: devices that are dealt out to the cells.
    """

    def __init__(
        self,
        folder: Path,
        command: Command,
        *,
        count: int,
        limit: float | None = None,
        devices: Sequence[str] = ("auto",),
    ) -> None:
        self._count = count
        self._folder, self._command, self._limit = folder, command, limit
        self._free = [devices[index % len(devices)] for index in range(count)]
        self._alive = set[Any]()
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        # read when the libraries are imported, which the server does
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))

    @property
    def slots(self) -> int:
        return self._count

    def submit(self, cells: Sequence[Cell]) -> Iterable[Job]:
        jobs = []
        for cell in cells:
            device = self._free.pop(0)
            process = self._context.Process(target=_perform_on, args=(self._folder, cell, self._command, device))
            process.start()
            self._alive.add(process)
            jobs.append(Job((cell,), (process, device), time.monotonic()))
        return jobs

    def wait(self, jobs: Collection[Job], seconds: float) -> Iterable[tuple[Job, str]]:
        connection.wait([job.handle[0].sentinel for job in jobs], seconds)
        ended = []
        for job in jobs:
            process, device = job.handle
            late = self._limit is not None and time.monotonic() - job.start > self._limit and process.is_alive()
            if late:
                process.kill()
                process.join(STOP_SECONDS)
            if not process.is_alive():
                process.join()
                self._alive.discard(process)
                self._free.append(device)
                ended.append((job, f"took longer than {self._limit:g} seconds" if late else _death(process.exitcode)))
        return ended

    def close(self) -> None:
        for process in self._alive:
            process.terminate()
        end = time.monotonic() + STOP_SECONDS
        try:
            for process in self._alive:
                process.join(max(0.0, end - time.monotonic()))
        finally:  # also when a second Ctrl-C ends the wait
            for process in self._alive:
                if process.is_alive():
                    process.kill()
                    process.join(STOP_SECONDS)


def _perform_on(folder: Path, cell: Cell, command: Command, device: str) -> None:
    # the sweep itself receives Ctrl-C of the terminal, and then stops the cells
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    perform(folder, cell, lambda arguments: command([*arguments, "--device", device]))


def _death(code: int | None) -> str:
    """Why a process ended with an exit code; "" for 0."""
    if not code:
        return ""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"the process ended with exit code {code}"


@dataclass(frozen=True)
class Work:
    """What a job of Slurm or a task of Dask does: each cell in a process of its own, one after the other.

    A cell that is done is skipped, so that a job may be repeated at any time.

    Args:
        folder: the folder of the sweep, as the workers see it.
        device: the device of every cell.
        limit: seconds after which a cell is killed; None = no limit.
        program: the command line of ``ccvae-eval``, without arguments.
        place: the folder to which relative paths refer: that of the sweep's command.
    """

    folder: Path
    device: str = "auto"
    limit: float | None = None
    program: tuple[str, ...] = (sys.executable, "-P", "-m", "ccvae_eval.cli.main")
    place: Path = field(default_factory=Path.cwd)

    def __call__(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            perform(self.folder, cell, self._run)

    def checkpoint(self, cells: Sequence[Cell]) -> Any:
        """What submitit submits again when Slurm preempts the job: the same cells."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cells)

    def _run(self, arguments: list[str]) -> int:
        try:
            command = [*self.program, *arguments, "--device", self.device]
            code = subprocess.run(command, timeout=self.limit, cwd=self.place, check=False).returncode
        except subprocess.TimeoutExpired:
            code, why = 124, f"took longer than {self.limit:g} seconds"
        else:
            why = _death(code) if code < 0 else ""
        if why:
            os.write(2, f"Error: {why}\n".encode())  # into the log of the cell, where its own errors are
        return code


class Slurm:
    """Jobs of Slurm, as one array, through submitit (extra ``slurm``).

    Args:
        work: what a job does.
        settings: parameters of ``submitit.AutoExecutor``, such as ``slurm_partition``, ``timeout_min`` and
            ``slurm_array_parallelism``; ``cluster`` ("slurm", "local" or "debug"); ``cells_per_job`` (1); and
            ``max_jobs`` that may be queued at once (1,000).
    """

    def __init__(self, work: Work, settings: Mapping[str, Any]) -> None:
        submitit = optional_module("submitit", "slurm", where="--on", error=UsageError)
        rest = dict(settings)
        self._per_job = _positive(rest.pop("cells_per_job", 1), "cells_per_job")
        self._most = _positive(rest.pop("max_jobs", 1000), "max_jobs") * self._per_job
        logs = work.folder / WORK / JOBS
        self._executor = submitit.AutoExecutor(folder=logs, cluster=rest.pop("cluster", "slurm"))
        try:
            self._executor.update_parameters(**rest)
        except (TypeError, ValueError, NameError) as error:
            raise UsageError("settings of Slurm are wrong", where="--on", why=str(error)) from None
        self._work, self._running = work, set[Any]()

    @property
    def slots(self) -> int:
        return self._most

    def submit(self, cells: Sequence[Cell]) -> Iterable[Job]:
        chunks = [tuple(cells[start : start + self._per_job]) for start in range(0, len(cells), self._per_job)]
        with self._executor.batch():
            handles = [self._executor.submit(self._work, chunk) for chunk in chunks]
        self._running.update(handles)
        return [Job(chunk, handle, time.monotonic()) for chunk, handle in zip(chunks, handles, strict=True)]

    def wait(self, jobs: Collection[Job], seconds: float) -> Iterable[tuple[Job, str]]:
        end = time.monotonic() + seconds
        while True:
            ended = [job for job in jobs if job.handle.done()]
            if ended or time.monotonic() >= end:
                break
            time.sleep(min(SLURM_POLL_SECONDS, seconds))
        self._running.difference_update(job.handle for job in ended)
        return [(job, _slurm_error(job.handle)) for job in ended]

    def close(self) -> None:
        for handle in self._running:
            handle.cancel()


def _slurm_error(handle: Any) -> str:
    """The last line of what went wrong with a job; "" if nothing did."""
    try:
        error = handle.exception()
    except Exception as failure:  # submitit raises errors of many kinds when a job leaves no result
        error = failure
    return "" if error is None else f"job {handle.job_id}: {str(error).strip().splitlines()[-1]}"


class Dask:
    """Tasks of a Dask cluster (extra ``dask``).

    Args:
        work: what a task does.
        address: address of the scheduler, such as tcp://host:8786; "" starts a cluster on this machine.
        count: workers of a cluster on this machine; None = its cores.
    """

    def __init__(self, work: Work, address: str = "", count: int | None = None) -> None:
        distributed = optional_module("distributed", "dask", where="--on", error=UsageError)
        self._cluster: Any = None
        try:
            if not address:
                self._cluster = distributed.LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
            self._client = distributed.Client(self._cluster or address, timeout=30)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError("no Dask scheduler answers", where=address, why=str(error)) from None
        self._work, self._distributed = work, distributed
        self._count = 0 if self._cluster is None else len(self._cluster.worker_spec)

    @property
    def slots(self) -> int:
        """Twice the threads of the workers, so that no worker waits for the next cell."""
        return 2 * max(1, sum(self._threads()))

    def _threads(self) -> list[int]:
        """The threads of each worker that is alive."""
        try:
            return list(self._client.nthreads().values())
        except OSError as error:  # the connection is lost
            raise self._gone() from error

    def submit(self, cells: Sequence[Cell]) -> Iterable[Job]:
        jobs = []
        for cell in cells:
            key = f"{cell.name}-{secrets.token_hex(4)}"
            future = self._client.submit(self._work, (cell,), key=key, pure=False)
            jobs.append(Job((cell,), future, time.monotonic()))
        return jobs

    def wait(self, jobs: Collection[Job], seconds: float) -> Iterable[tuple[Job, str]]:
        futures = [job.handle for job in jobs]
        # afterwards the status of each future says what became of it
        with suppress(TimeoutError, self._distributed.CancelledError):
            self._distributed.wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
        if self._client.status != "running":
            raise self._gone()
        if len(self._threads()) < self._count:  # a worker that dies while it starts is not started again by itself
            self._cluster.scale(self._count)
        return [(job, _dask_error(job.handle)) for job in jobs if job.handle.status != "pending"]

    def _gone(self) -> InputError:
        place = self._client.scheduler.address if self._client.scheduler else ""
        return InputError("the Dask scheduler is gone", where=place, hint="Repeat the command to resume.")

    def close(self) -> None:
        self._client.close(timeout=STOP_SECONDS)
        if self._cluster is not None:
            self._cluster.close(timeout=STOP_SECONDS)


def _dask_error(future: Any) -> str:
    if future.status == "finished":
        return ""
    if future.status == "error":
        error = future.exception(timeout=STOP_SECONDS)
        return f"{type(error).__name__}: {error}"
    return f"the task is {future.status}"


def engine_on(place: str, work: Work, count: int | None = None) -> Engine:
    """The engine of ``--on``: a TOML file of Slurm settings, "dask", or the address of a Dask scheduler.

    Raises:
        UsageError: the text is none of these, or an optional dependency is missing.
        InputError: the file is malformed, or no scheduler answers.
    """
    if place == "dask":
        return Dask(work, count=count)
    if "://" in place:
        return Dask(work, place)
    if place.endswith(".toml"):
        return Slurm(work, load_toml(Path(place)))
    raise UsageError(f"must be FILE.toml, dask or an address such as tcp://host:8786, got {place!r}", where="--on")


def _positive(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be a positive integer, got {value!r}", where="--on")
    return value
