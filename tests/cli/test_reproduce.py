"""``reproduce`` on the engines of ``sweep``: the results, places and bits of one process, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ccvae_eval.checkpoint import read_bundle
from ccvae_eval.core.typed import plain
from ccvae_eval.evaluation.storage import read
from ccvae_eval.sweep.cells import Cell
from ccvae_eval.sweep.engines import Job, Processes
from tests.support.commands import run_command
from tests.support.recipes import SMALL

RECIPE = f"""{SMALL.replace("steps = 2", "steps = 12")}
[[contenders]]
name = "diverges"
model = "ccvae"
training = {{ learning_rate = 1e30 }}
[[tables]]
value = "accuracy.balanced_accuracy"
"""
WITHOUT_FAILURE = ["--contender", "ccvae", "--contender", "goes on"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder")]


def contents(folder: Path) -> dict[str, Any]:
    """Weights and values by the path below the folder."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("cells/*/checkpoint.pt")):
        tensors = read_bundle(file).tensors
        found[str(file.relative_to(folder))] = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    for file in sorted(folder.glob("cells/*/run-*/run.json")):
        values = [plain(value) for m in read(file.parent) for value in m.values]
        found[str(file.relative_to(folder))] = json.dumps(values)
    return found


def test_processes_give_the_bits_of_one_also_if_a_worker_is_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("small.toml").write_text(RECIPE)
    assert run_command("reproduce", "small.toml", *WITHOUT_FAILURE, "--out", "alone") == 0
    submit, submitted = Processes.submit, list[str]()

    def submit_and_kill(self: Processes, cells: Sequence[Cell]) -> Iterable[Job]:
        jobs = list(submit(self, cells))
        submitted.extend(cell.name for cell in cells)
        if len(submitted) == len(cells):
            threading.Thread(target=kill, args=(jobs[0],)).start()
        return jobs

    def kill(job: Job) -> None:
        log = Path("shared") / ".sweep" / f"{job.cells[0].name}.log"
        while not log.exists():
            time.sleep(0.01)
        os.kill(job.handle[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Processes, "submit", submit_and_kill)
    shared = ["reproduce", "small.toml", *WITHOUT_FAILURE, "--out", "shared", "--processes", "2"]
    assert run_command(*shared) == 0
    assert contents(Path("shared")) == contents(Path("alone"))
    assert len(contents(Path("alone"))) == 8
    assert (Path("shared") / "table.csv").read_text() == (Path("alone") / "table.csv").read_text()
    assert [name.startswith("ccvae") for name in submitted] == [True, True, True, False, False], "one is tried again"
    # a repeated command reuses what is there, and makes again what is damaged, also what one process has made
    run = next(Path("alone").glob("cells/ccvae-seed-0-*/run-*/run.json"))
    run.write_text("{")
    capsys.readouterr()
    assert run_command(*shared[:-3], "alone", "--processes", "2") == 0
    said = capsys.readouterr().err
    assert "ccvae, seed 0: computed again, because" in said
    assert "4 trainings, 3 of them done" in said
    assert contents(Path("shared")) == contents(Path("alone"))
    assert run_command("runs", "alone") == 0
    assert capsys.readouterr().out.startswith("4 cells: 4 done\n")


def test_a_training_that_fails_is_named_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit", reason="needs submitit")
    Path("small.toml").write_text(RECIPE)
    Path("here.toml").write_text('cluster = "local"\ntimeout_min = 5\ncells_per_job = 2\n')
    arguments = ["reproduce", "small.toml", "--seeds", "1", "--out", "out"]
    assert run_command(*arguments, "--on", "here.toml", "--no-tables") == 4
    said = capsys.readouterr().err
    assert said.count("done in") == 2
    (line,) = (line for line in said.splitlines() if "failed: diverges" in line)
    assert "the loss is nan" in line
    assert not Path("out/table.csv").exists()
    assert run_command("reproduce", "small.toml", "--seeds", "1", "--out", "out", "--tables") == 0
    assert Path("out/table.csv").exists()
