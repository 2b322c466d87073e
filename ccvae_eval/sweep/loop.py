"""Gives cells to an engine until each has a result, or failed too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.sweep.cells import Attempt, Cell, attempt_of, disk_state, is_done, write_attempt
from ccvae_eval.sweep.engines import Engine, Job

WAIT_SECONDS = 1.0
"""A stop request is seen after at most this time."""


class TooManyFailures(CcvaeEvalError):
    """More cells failed than ``--max-failures`` allows."""

    code, exit_code = "failures", 4


@dataclass(frozen=True, slots=True)
class Ended:
    """A cell that needs nothing more.

    Args:
        cell: the cell.
        done: True if it has a run.
        attempt: its last attempt.
    """

    cell: Cell
    done: bool
    attempt: Attempt


def run_cells(
    folder: Path,
    cells: Sequence[Cell],
    engine: Engine,
    *,
    lead: bool = True,
    retries: int = 1,
    max_failures: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Ended]:
    """Runs cells, and yields each as it ends.

    A cell whose worker is lost is tried again; one that ends with an error is not, since it would end so again. A cell
    that comes after another one is submitted when that one has ended.

    Args:
        folder: the folder of the sweep.
        cells: cells without a run.
        engine: runs them; the caller closes it.
        lead: run the first cell alone: it trains the judge and measures the references, which all others then find in
            the cache.
        retries: further attempts of a cell whose worker was lost.
        max_failures: stop when more cells than this failed; None = never.
        stop: asked about once a second; True ends the loop.

    Raises:
        TooManyFailures: more than ``max_failures`` cells failed.
    """
    waiting, running = list(cells), list[Job]()
    lost, failed = Counter[str](), 0
    while (waiting or running) and not stop():
        if waiting and not (lead and running):
            count = 1 if lead else max(0, engine.slots - sum(len(job.cells) for job in running))
            ready = _ready(waiting, running)[:count]
            chosen = set(ready)
            waiting = [cell for cell in waiting if cell not in chosen]
            running += engine.submit(ready) if ready else ()
        for job, crash in engine.wait(running, WAIT_SECONDS):
            running.remove(job)
            for cell in job.cells:
                done = is_done(folder, cell)
                attempt = attempt_of(folder, cell)
                if not done and not attempt.error:
                    lost[cell.name] += 1
                    if lost[cell.name] <= retries:
                        waiting.insert(0, cell)
                        continue
                    reason = crash or f"left no result{disk_state(folder)}"
                    attempt = replace(attempt, error=f"{reason}, {lost[cell.name]} times")
                    write_attempt(folder, cell, attempt)
                lead = lead and not done
                failed += not done
                yield Ended(cell, done, attempt)
        if max_failures is not None and failed > max_failures:
            raise TooManyFailures(f"too many cells failed: {failed}", why=f"--max-failures {max_failures}")


def _ready(waiting: Sequence[Cell], running: Sequence[Job]) -> list[Cell]:
    """The waiting cells that come after none that is waiting or running."""
    unfinished = {cell.name for cells in (waiting, *(job.cells for job in running)) for cell in cells}
    return [cell for cell in waiting if cell.after not in unfinished]
