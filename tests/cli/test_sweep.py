"""``sweep`` and ``runs``: real evaluations, stopping and resuming, tables from files alone, and errors."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet

import ccvae_eval
from ccvae_eval.cli.options import Common
from ccvae_eval.cli.sweep import CellOptions, cell_arguments, expanded
from ccvae_eval.core.errors import InputError
from ccvae_eval.evaluation.storage import write
from ccvae_eval.sweep.cells import Attempt, Sweep, write_attempt
from tests.support.commands import run_command
from tests.support.runs import measurement, run_of, value

SHIPPED = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
SMALL = ["-m", "density", "--sample", "16", "--no-page"]
LONGEST = 300.0


pytestmark = pytest.mark.usefixtures("own_folder")


def made(*names: str) -> Sweep:
    """A sweep whose first cells are done, failed and waiting."""
    for name in names:
        Path(f"{name}.pt").write_text(name)
    found = Sweep.of(Path("out"), [f"{name}.pt" for name in names], [0])
    found.write()
    write(run_of(measurement("locality", "focus", [value("focus", 0.5), value("focus", 0.4, "=cmd()")])),
          found.folder / found.cells[0].name)  # fmt: skip
    write_attempt(found.folder, found.cells[0], Attempt(1, 90.0))
    write_attempt(found.folder, found.cells[1], Attempt(2, 3.0, "the checkpoint is cut off"))
    return found


def test_runs_shows_values_states_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    cells = made("a", "b", "c").cells
    assert run_command("runs", "out") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("3 cells: 1 done, 1 failed, 1 waiting\n")
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.startswith(("a-", "b-", "c-"))}
    assert rows[cells[0].name] == ["done", "2", "min", "0.500", "[0.400,", "0.600]"]
    assert rows[cells[1].name] == ["failed", "3", "s"]
    assert rows[cells[2].name] == ["waiting"]
    assert f"{cells[1].name}: the checkpoint is cut off" in shown


def test_runs_on_different_data_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = made("a", "b")
    for cell, digest in zip(found.cells, ("d" * 32, "e" * 32), strict=True):
        run = run_of(measurement("locality", "focus", [value("focus", 0.5)]))
        shutil.rmtree(found.folder / cell.name, ignore_errors=True)
        data = {**run.header.data, "digest": digest}
        write(replace(run, header=replace(run.header, data=data)), found.folder / cell.name)
    assert run_command("runs", "out") == 0
    assert "! The runs are on 2 different data sets" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(found.folder / found.cells[1].name)
    assert run_command("runs", "out") == 0
    assert "different data sets" not in " ".join(capsys.readouterr().out.split())


def test_changed_data_give_new_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccvae_eval.cli.sweep.work", lambda *_, **__: 0)
    Path("a.pt").write_text("a")
    Path("images").mkdir()
    names = []
    for pixels, data in (("one", ["--data", "folder:images"]), ("other", ["--data", "folder:images"]), ("one", [])):
        Path("images/a.png").write_text(pixels)
        monkeypatch.setenv("CCVAE_EVAL_DATA", "folder:images")
        assert run_command("sweep", "a.pt", "--out", "out", *data) == 0
        (cell,) = Sweep.open(Path("out")).cells
        assert cell.arguments[2:4] == ("--data", "folder:images")
        names.append(cell.name)
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(200, []), (80, ["time", "95% interval", "diversity spread_of_the_decoded_images_of_a_code"])],
)
def test_runs_leaves_out_the_last_values_and_cuts_no_word(
    width: int, left_out: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    found, metrics = (
        made("a", "b"),
        {"locality": "focus_in_the_region", "diversity": "spread_of_the_decoded_images_of_a_code"},
    )
    measurements = [measurement(metric, name, [value(name, 0.5)]) for metric, name in metrics.items()]
    write(run_of(*measurements), found.folder / found.cells[0].name)
    assert run_command("runs", "out") == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    for word in ("run", "state", "done", "failed", "locality", "focus_in_the_region", found.cells[0].name):
        assert word in shown.split()
    note = f"left out at this width: {', '.join(left_out)}; --json has them, or widen the terminal"
    assert (note in " ".join(shown.split())) == bool(left_out)


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x", "y"):
        write(run_of(measurement("locality", "focus", [value("focus", 0.5)])), Path("runs") / name)
    (Path("runs") / "x" / "run.json").write_text('{"schema_version": "one"}')
    assert run_command("runs", "runs") == 0
    shown = capsys.readouterr().out
    assert shown.count("[0.400, 0.600]") == 1
    assert "x: runs/x/run.json: " in shown


@pytest.mark.parametrize(("width", "intervals"), [("140", True), ("60", False)])
def test_a_narrow_terminal_shows_no_intervals(
    width: str, intervals: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    metrics = [measurement(name, "focus", [value("focus", 0.5)]) for name in ("locality", "drift", "density")]
    write(run_of(*metrics), Path("runs") / "a-run")
    assert run_command("runs", "runs") == 0
    shown = capsys.readouterr().out
    assert shown.count("0.500") == 3
    assert ("[0.400, 0.600]" in shown) is intervals


def test_runs_writes_csv_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    cells = made("a", "b").cells
    assert run_command("runs", "out", "--csv", "all.csv", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [(c["name"], c["state"], c["values"]) for c in document["cells"]] == [
        (cells[0].name, "done", {"locality.focus": 0.5}),
        (cells[1].name, "failed", {}),
    ]
    rows = list(csv.DictReader(Path("all.csv").read_text().splitlines()))
    assert {row["run"] for row in rows} == {cells[0].name}
    assert {row["characteristic"] for row in rows} == {"", "'=cmd()"}, "text that a spreadsheet would run is quoted"


def test_runs_writes_parquet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made("a", "b")
    assert run_command("runs", "out", "--parquet", "all.parquet") == 0
    assert parquet.read_table("all.parquet").num_rows == 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run_command("runs", "out", "--parquet", "other.parquet") == 2
    assert "--parquet: needs the package pyarrow, which is not installed" in capsys.readouterr().err
    assert not Path("other.parquet").exists()


def test_runs_shows_a_folder_of_runs_without_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x", "y"):
        write(run_of(measurement("locality", "focus", [value("focus", 0.5)])), Path("runs") / name)
    assert run_command("runs", "runs") == 0
    assert "2 cells: 2 done" in capsys.readouterr().out
    Path("empty").mkdir()
    assert run_command("runs", "empty") == 3
    assert "empty: has neither a sweep nor runs" in capsys.readouterr().err


def test_watching_ends_when_nothing_is_left_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    made("a", "b")
    assert run_command("runs", "out", "--watch") == 0
    assert "1 done, 1 failed" in capsys.readouterr().out


def test_options_of_the_cells_are_those_that_were_given() -> None:
    common = CellOptions(
        data="faces", characteristic=["Smiling", "Hat"], page=False, plugin=[Path("own.py")], seed=3, out=Path("out")
    )
    assert cell_arguments(common, ["density"]) == [
        "--metric", "density", "--data", "faces", "--characteristic", "Smiling", "--characteristic", "Hat",
        "--no-figures", "--no-page", "--plugin", str(Path("own.py").absolute()), "--quiet",
    ]  # fmt: skip
    assert cell_arguments(CellOptions(figures=Common().figures), None) == ["--quiet"]
    assert cell_arguments(CellOptions(figures=Common().figures, label=["A=B"]), None) == ["--rename", "A=B", "--quiet"]


def test_patterns_are_expanded_and_must_match() -> None:
    for name in ("b.pt", "a.pt"):
        Path(name).write_text("")
    assert expanded(["*.pt", "a.pt"]) == ["a.pt", "b.pt"]
    with pytest.raises(InputError, match=r"c\*: no checkpoint has this name or matches this pattern"):
        expanded(["c*"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.pt"], 2, "a sweep needs a folder\nName it with --out"),
        (["b.pt", "-o", "out"], 3, "b.pt: no checkpoint has this name"),
        (["a.pt", "-o", "out", "--shard", "3/2"], 2, "must be I/N"),
        (["a.pt", "-o", "out", "--on", "cluster"], 2, "must be FILE.toml, dask or an address"),
        (["a.pt", "-o", "out", "--sample", "many"], 2, "--sample must be a positive number"),
        (["a.pt", "-o", "a.pt"], 3, "this is a file, but --out needs a folder"),
        (["a.pt", "-o", "out", "--device", "cuda:0,x"], 2, "device 'cuda:x' is unknown"),
        (["a.pt", "-o", "out", "--device", "cuda:0,1", "--on", "dask"], 2, "several devices can be dealt out only to"),
        (["a.pt", "-o", "."], 2, "the folder contains files that are not a run"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.pt").write_text("weights")
    assert run_command("sweep", *arguments) == code
    assert message in capsys.readouterr().err


def sweep(*arguments: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "ccvae_eval.cli.main", "sweep", *SMALL, "--out", "out", *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(Path("cache").absolute())}
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_stopped_sweep_is_resumed_and_a_bad_checkpoint_is_named() -> None:
    shutil.copy(SHIPPED, "a.pt")
    shutil.copy(SHIPPED, "b.pt")
    Path("cut.pt").write_bytes(SHIPPED.read_bytes()[:10_000])
    first = sweep("a.pt", "b.pt", "cut.pt")
    end = time.monotonic() + LONGEST
    while not list(Path("out").glob("a-*/run.json")) and time.monotonic() < end:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=LONGEST)
    assert first.returncode == 143, said
    assert "stopped; repeat the command to resume" in said
    second = sweep("a.pt", "b.pt", "cut.pt", "--processes", "2")
    shown, said = second.communicate(timeout=LONGEST)
    assert second.returncode == 4, said
    assert "3 cells, 1 of them done" in said
    assert "3 cells: 2 done, 1 failed" in shown
    assert len(list(Path("out").glob("*/run.json"))) == 2
    runs = [json.loads(file.read_text()) for file in Path("out").glob("*/run.json")]
    values = [[(v["name"], v["characteristic"], v["value"]) for v in run["measurements"][0]["values"]] for run in runs]
    assert values[0] == values[1], "two workers give the bits of one"
    assert ".sweep" not in json.dumps(runs[0]), "a run names no folder that is gone"
