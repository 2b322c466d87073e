"""Every failing, killed or interrupted step of writing leaves the earlier result whole, or the new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval import load
from ccvae_eval.core.errors import InputError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import RUN_FILE, as_csv, read, write
from ccvae_eval.sweep.cells import Sweep, perform
from tests.support import sweep_commands
from tests.support.commands import run_command
from tests.support.faults import faulty
from tests.support.runs import pictured_run

FILES = {"run.json", "values.csv", "evidence.npz", "pictures.npz"}


def run_named(command: str) -> Run:
    """A run with pictures and evidence of its own."""
    run = pictured_run()
    first, *others = run.measurements
    evidence = {key: array + len(command) for key, array in first.evidence.items()}
    return replace(
        run,
        header=replace(run.header, command=command),
        measurements=(replace(first, evidence=evidence), *others),
        gallery={**run.gallery, "ids": run.gallery["ids"] + len(command)},
    )


OLD, NEW = run_named("old"), run_named("the new one")


def whole(folder: Path) -> str:
    """The command of the run in a folder, whose files must all belong together."""
    found = read(folder)
    for run in (OLD, NEW):
        if run.header.command == found.header.command:
            for before, after in zip(run, found, strict=True):
                assert after.evidence.keys() == before.evidence.keys()
                assert all(np.array_equal(after.evidence[key], array) for key, array in before.evidence.items())
            assert np.array_equal(found.gallery["ids"], run.gallery["ids"])
            assert (folder / "values.csv").read_text() == as_csv(run)
            return run.header.command
    raise AssertionError(f"an unknown run: {found.header.command}")


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
def test_a_run_replaces_another_completely_or_not_at_all(tmp_path: Path, fault: BaseException) -> None:
    def fails() -> None:
        raise fault

    outcomes, reasons = [], set[str]()
    for k in range(2, 200):  # the first call makes the folder, which is there
        folder = tmp_path / str(k)
        write(OLD, folder)
        try:
            with faulty(k, fails) as disk:
                write(NEW, folder)
        except (InputError, KeyboardInterrupt) as error:
            reasons.add(str(error).partition(": ")[2])
        outcomes.append(whole(folder))
        assert {path.name for path in folder.iterdir()} == FILES
        if disk.calls < k:
            break
    assert outcomes[0] == "old"
    assert outcomes[-1] == "the new one"
    assert len(outcomes) > 15, "opens, writes, syncs and renames of four files"
    expected = "" if isinstance(fault, KeyboardInterrupt) else "cannot be written (No space left on device)"
    assert reasons == {expected}
    if isinstance(fault, KeyboardInterrupt):  # a folder whose entry is not synced does no harm
        assert outcomes == sorted(outcomes), "there is one moment from which the new run counts"


def test_the_first_run_of_a_folder_appears_completely_or_not_at_all(tmp_path: Path) -> None:
    for k in range(1, 200):
        folder = tmp_path / str(k)
        try:
            with faulty(k) as disk:
                write(NEW, folder)
        except InputError:
            if folder.is_dir() and (folder / RUN_FILE).exists():
                assert whole(folder) == "the new one"
            else:
                assert not folder.exists() or not list(folder.iterdir())
        if disk.calls < k:
            break
    assert k > 15
    assert whole(folder) == "the new one"


KILLED = """
import os, signal, sys
from pathlib import Path
from ccvae_eval.evaluation.storage import write
from tests.safety.test_writing import NEW, OLD
from tests.support.faults import faulty

for k in range(2, 200):
    folder = Path(sys.argv[1]) / str(k)
    write(OLD, folder)
    child = os.fork()
    if not child:
        with faulty(k, lambda: os.kill(os.getpid(), int(sys.argv[2]))):
            write(NEW, folder)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_survives_a_kill_at_every_step(tmp_path: Path, number: signal.Signals) -> None:
    # the child forks: it has no threads, and this process may have some
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(int(number))]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=environment)
    folders = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    outcomes = [whole(folder) for folder in folders]
    assert len(outcomes) > 15
    assert outcomes[0] == "old"
    assert outcomes[-1] == "the new one"
    assert outcomes == sorted(outcomes)
    write(NEW, folders[0])
    assert whole(folders[0]) == "the new one"


def litter(folder: Path) -> list[str]:
    """Temporary files in a folder and those below it."""
    return [path.name for path in folder.rglob(".*") if path.name.endswith((".partial", ".new"))]


@pytest.mark.slow
def test_a_training_writes_everything_completely_or_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "faces,size=32,n=120", "--steps", "1", "--batch-size", "4", "--quiet", "--json"]
    assert run_command("train", "vae", "--out", tmp_path / "first.pt", *options) == 0  # libraries make their caches
    capsys.readouterr()
    seen = set()
    for k in range(1, 100):
        out = tmp_path / str(k) / "vae.pt"
        out.parent.mkdir()
        with faulty(k) as disk:
            code = run_command("train", "vae", "--out", out, *options)
        document = json.loads(capsys.readouterr().out)
        assert not litter(tmp_path)
        if code:
            assert (code, document["error"]["code"]) == (3, "input"), document
            seen.add(Path(document["error"]["where"]).name)
            assert not out.exists()
            if k % 5 == 0:
                assert run_command("train", "vae", "--out", out, *options, "--resume") == 0, "nothing is in the way"
                capsys.readouterr()
        assert load(out).record is not None if out.exists() else code
        if disk.calls < k:
            break
    assert seen == {"vae.pt.training", "training.pt", "history.csv", "history.png", "vae.pt"}


def test_a_report_replaces_the_old_one_or_leaves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(OLD, tmp_path)
    for target, arguments in (
        ("report.html", []),
        ("figure.svg", ["--figure", "profile", "--out", "figure.svg", "--force"]),
    ):
        file = tmp_path / target
        arguments = [str(file) if argument == target else argument for argument in arguments]
        assert run_command("report", tmp_path, *arguments, "--quiet") == 0  # libraries make their caches
        codes = []
        for k in range(1, 30):
            file.write_text("old")
            with faulty(k) as disk:
                codes.append(run_command("report", tmp_path, *arguments, "--quiet"))
            assert not litter(tmp_path)
            assert (file.read_text() == "old") == (codes[-1] == 3)
            error = capsys.readouterr().err
            assert "cannot be written" in error if codes[-1] else not error
            if disk.calls < k:
                break
        assert codes[-1] == 0
        assert codes.count(3) >= 4, "open, write, sync and rename"


def test_a_sweep_records_what_fails_and_a_repeated_command_completes_it(tmp_path: Path) -> None:
    failures = 0
    for k in range(1, 60):
        place = tmp_path / str(k)
        place.mkdir()
        (place / "fine.pt").write_bytes(b"")
        sweep = Sweep.of(place / "sweep", [str(place / "fine.pt")], [0])
        with faulty(k) as disk, suppress(InputError):
            sweep.write()
            perform(sweep.folder, sweep.cells[0], sweep_commands.command)
        failures += bool(sweep.missing())
        assert not litter(place)
        sweep.write()
        perform(sweep.folder, sweep.cells[0], sweep_commands.command)
        assert [state.status for state in Sweep.open(sweep.folder).states()] == ["done"]
        if disk.calls < k:
            break
    assert 0 < failures < k
