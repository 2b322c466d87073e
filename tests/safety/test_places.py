"""Places of results: pipes, links and folders in the way, foreign settings, two processes, full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccvae_eval import read
from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.storage import write
from ccvae_eval.model.interface import Label
from tests.support.commands import run_command
from tests.support.runs import pictured_run

SHIPPED = Path(__file__).parents[2] / "ccvae_eval" / "assets" / "ccvae-faces64.pt"
PROGRAM = [sys.executable, "-P", "-m", "ccvae_eval.cli.main"]


@pytest.mark.parametrize("name", ["run.json", "values.csv", "evidence.npz", "pictures.npz", "report.html", "figures"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_in_the_way_is_told_before_anything_is_computed(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ccvae_eval.cli.measuring.evaluation_arguments", lambda *_: pytest.fail("too late"))
    out = tmp_path / "out"
    out.mkdir()
    if kind == "pipe":
        os.mkfifo(out / name)
    elif name == "figures":
        (tmp_path / "elsewhere").mkdir()
        (out / name).symlink_to(tmp_path / "elsewhere")
    else:
        (out / name).mkdir()
    assert run_command("run", SHIPPED, "--out", out, "--force", "--json") == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"] == "cannot be written"
    assert error["where"] == str(out / name)
    assert error["why"] == ("is a link" if (out / name).is_symlink() else f"is a {kind}")


def test_links_are_replaced_and_not_written_through(tmp_path: Path) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.mkdir()
    out.mkdir()
    for name in ("run.json", "values.csv", "evidence.npz", "pictures.npz", "report.html"):
        (precious / name).write_text("precious")
        (out / name).symlink_to(precious / name)
    write(pictured_run(), out)
    assert run_command("report", out) == 0
    assert not any(path.is_symlink() for path in out.iterdir())
    assert {path.read_text() for path in precious.iterdir()} == {"precious"}
    (out / "figures").mkdir()
    figure = out / "figures" / "density.pdf"
    (precious / "figure").write_text("precious")
    figure.symlink_to(precious / "figure")
    assert run_command("report", out, "--figure", "density", "--out", figure) == 2, "only with --force"
    assert run_command("report", out, "--figure", "density", "--out", figure, "--force") == 0
    assert (precious / "figure").read_text() == "precious"
    assert not figure.is_symlink()


def test_settings_of_matplotlib_in_the_working_folder_have_no_effect(tmp_path: Path) -> None:
    write(pictured_run(), tmp_path / "run")
    settings = ["text.usetex: true", "font.size: 40", "axes.prop_cycle: cycler('color', ['r'])", "savefig.bbox: tight"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "matplotlibrc").write_text("\n".join([*settings, "axes.facecolor: red"]))
    figures = []
    for place in (tmp_path, tmp_path / "other"):
        out = place / "figure.png"
        command = [*PROGRAM, "report", str(tmp_path / "run"), "--figure", "profile", "--out", str(out)]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
        figures.append(out.read_bytes())
    assert figures[0] == figures[1]


def test_a_module_in_the_working_folder_is_not_imported(tmp_path: Path) -> None:
    package = tmp_path / "ccvae_eval"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('taken from the working folder')")
    for name in ("torch.py", "numbers.py", "typer.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from the working folder')")
    for program in (PROGRAM, [str(Path(sys.executable).with_name("ccvae-eval"))]):
        shown = subprocess.run([*program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert shown.stdout.startswith("ccvae-eval ")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800", "n" * 1001])
def test_names_that_files_cannot_have_are_refused(name: str) -> None:
    for label in ((name,), ("Hair", "categorical", ("Black", name))):
        with pytest.raises(UsageError, match="names of labels and classes must have at most 1000 characters"):
            Label(*label)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["list", "plugins", "--json"], ["--version"], ["explain", "schema"]])
def test_a_full_disk_behind_stdout_is_told(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 3
    assert ended.stderr == "Error: cannot be written (No space left on device)\n"


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
from ccvae_eval.evaluation import storage
from tests.support.runs import pictured_run
from dataclasses import replace
from pathlib import Path
run = pictured_run()
try:
    storage.write(replace(run, header=replace(run.header, command="second")), Path(sys.argv[1]))
except Exception as error:
    sys.exit(str(error))
"""


def test_a_file_system_that_takes_no_more_leaves_the_old_run(tmp_path: Path) -> None:
    """With a limit on the size of files, as a quota; a file system of 16 kB can be mounted by root only."""
    write(pictured_run(), tmp_path)
    assert (tmp_path / "pictures.npz").stat().st_size > 10_000
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert "cannot be written (File too large)" in ended.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 16 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place  # type: ignore[misc]
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_a_refusal_and_leaves_nothing(small_disk: Path) -> None:
    run = pictured_run()
    with pytest.raises(Exception, match="No space left on device"):
        write(run, small_disk / "run")
    assert not list((small_disk / "run").iterdir())


TWO = """
import sys
from dataclasses import replace
from pathlib import Path
from ccvae_eval.evaluation.storage import write
from tests.support.runs import pictured_run

run = pictured_run()
for k in range(12):
    own = replace(run, header=replace(run.header, command=f"{sys.argv[2]} {k}"))
    write(own, Path(sys.argv[1]))
"""


def test_two_processes_that_write_one_folder_leave_one_whole_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "out")]
    children = [subprocess.Popen([*command, name], cwd=Path(__file__).parents[2]) for name in ("one", "two")]
    assert [child.wait() for child in children] == [0, 0]
    found = read(tmp_path / "out")
    assert found.header.command.split()[0] in ("one", "two")
    assert found.gallery
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "run.json", "values.csv", "evidence.npz", "pictures.npz",
    }  # fmt: skip
