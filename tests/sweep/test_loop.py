"""The loop: every cell ends once, lost ones are tried again, and too many failures or a stop end it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ccvae_eval.sweep.cells import Cell, Sweep, perform
from ccvae_eval.sweep.engines import Job
from ccvae_eval.sweep.loop import TooManyFailures, run_cells
from tests.support.sweep_commands import command
from tests.sweep.test_cells import sweep


class Inline:
    """Runs cells when it is asked about them; a name that begins with "kill" loses its worker."""

    slots = 3

    def __init__(self, made: Sweep) -> None:
        self.made = made
        self.batches: list[int] = []

    def submit(self, cells: Sequence[Cell]) -> Iterable[Job]:
        self.batches.append(len(cells))
        return [Job((cell,), None, 0.0) for cell in cells]

    def wait(self, jobs: Collection[Job], seconds: float) -> Iterable[tuple[Job, str]]:
        ended = []
        for job in list(jobs):
            (cell,) = job.cells
            lost = cell.name.startswith("kill")
            if not lost:
                perform(self.made.folder, cell, command)
            ended.append((job, "killed by SIGKILL" if lost else ""))
        return ended

    def close(self) -> None:
        pass


def test_the_first_cell_runs_alone_and_the_others_in_a_bounded_window(tmp_path: Path) -> None:
    made = sweep(tmp_path, *"abcdefgh")
    engine = Inline(made)
    ended = list(run_cells(made.folder, made.cells, engine))
    assert engine.batches == [1, 3, 3, 1]
    assert [e.cell for e in ended] == list(made.cells)
    assert all(e.done for e in ended)
    assert made.missing() == []


def test_a_resumed_sweep_needs_no_leading_cell(tmp_path: Path) -> None:
    made = sweep(tmp_path, *"abcd")
    engine = Inline(made)
    assert len(list(run_cells(made.folder, made.cells, engine, lead=False))) == 4
    assert engine.batches == [3, 1]


@pytest.mark.parametrize("first", ["a", "wrong", "kill"])
def test_a_cell_starts_when_the_one_before_it_has_ended_or_failed(first: str, tmp_path: Path) -> None:
    made = sweep(tmp_path, first, "b", "c", "d")
    before, second, *others = made.cells
    cells = [replace(second, after=before.name), before, *others]
    ended = [e.cell.name for e in run_cells(made.folder, cells, Inline(made), lead=False, retries=1)]
    assert len(ended) == 4
    assert ended[-1] == second.name


def test_a_lost_cell_is_tried_again_and_then_named(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a", "kill", "b")
    ended = {e.cell.name.split("-")[0]: e for e in run_cells(made.folder, made.cells, Inline(made), retries=2)}
    assert ended["a"].done
    assert ended["b"].done
    assert ended["kill"].attempt.error == "killed by SIGKILL, 3 times"
    assert [state.status for state in made.states()] == ["done", "failed", "done"]


def test_an_error_is_not_tried_again(tmp_path: Path) -> None:
    made = sweep(tmp_path, "wrong", "a")
    ended = list(run_cells(made.folder, made.cells, Inline(made), retries=5))
    assert [e.done for e in ended] == [False, True]
    assert (tmp_path / "log.txt").read_text().split() == ["wrong", "a"]


def test_too_many_failures_end_the_sweep(tmp_path: Path) -> None:
    made = sweep(tmp_path, "wrong1", "wrong2", "a")
    with pytest.raises(TooManyFailures, match="too many cells failed: 1"):
        list(run_cells(made.folder, made.cells, Inline(made), max_failures=0))
    assert (tmp_path / "log.txt").read_text().split() == ["wrong1"]
    assert len(list(run_cells(made.folder, made.cells, Inline(made), max_failures=2))) == 3


def test_a_stop_request_ends_the_loop(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a", "b")
    assert list(run_cells(made.folder, made.cells, Inline(made), stop=lambda: True)) == []
