"""A sweep on disk: names by content, states from files, results that appear in one step."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.sweep import cells
from ccvae_eval.sweep.cells import (
    SILENT_SECONDS,
    WORK,
    Attempt,
    Cell,
    Sweep,
    attempt_of,
    data_digest,
    is_done,
    parse_shard,
    perform,
    write_attempt,
)
from tests.support.sweep_commands import command


def sweep(tmp_path: Path, *names: str, seeds: range = range(1)) -> Sweep:
    for name in names:
        (tmp_path / f"{name}.pt").write_text(name)
    made = Sweep.of(tmp_path / "out", [str(tmp_path / f"{name}.pt") for name in names], seeds, ["--sample", "8"])
    made.write()
    return made


def only(tmp_path: Path, name: str) -> tuple[Sweep, Cell]:
    made = sweep(tmp_path, name)
    return made, made.cells[0]


def test_a_cell_is_named_by_checkpoint_seed_and_all_that_its_run_depends_on(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_text("weights")

    def name(options: list[str], seed: int = 0) -> str:
        return Sweep.of(tmp_path, [str(file)], [seed], options).cells[0].name

    first = name(["--sample", "8"])
    assert first.startswith("a-seed0-")
    assert name(["--sample", "8"]) == first
    others = {name(["--sample", "9"]), name(["--sample", "8"], 1)}
    file.write_text("others")
    others.add(name(["--sample", "8"]))
    file.with_suffix(".toml").write_text("[settings]")
    others.add(name(["--sample", "8"]))
    assert len(others | {first}) == 5


def test_a_cell_is_named_by_the_content_of_a_judge_or_plugin(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("weights")
    judge, names = tmp_path / "judge.pt", set[str]()
    for content in ("one", "other", "one"):
        judge.write_text(content)
        names.add(Sweep.of(tmp_path, [str(tmp_path / "a.pt")], [0], ["--judge", str(judge)]).cells[0].name)
    assert len(names) == 2


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of data with a folder of masks behind a link, and a sweep and a checkpoint that are no data."""
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for place in (folder, folder / "sweep" / "a-seed0", elsewhere):
        place.mkdir(parents=True)
    (folder / "attributes.csv").write_text("file,On\na.png,1\n")
    (folder / "a.png").write_text("pixels")
    (elsewhere / "a.png").write_text("mask")
    (folder / "masks").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    return folder


def test_data_are_known_by_their_content(tmp_path: Path, images: Path) -> None:
    sweep = images / "sweep"
    spec, checkpoint = f"folder:{images},size=8", images / "model.pt"
    first = data_digest(sweep, spec, [str(checkpoint)])
    checkpoint.write_text("weights")
    (sweep / "a-seed0" / "run.json").write_text("{}")
    for other in ("runs/run.json", ".git/index"):
        (images / other).parent.mkdir()
        (images / other).write_text("{}")
    assert data_digest(sweep, spec, [str(checkpoint)]) == first, "results and checkpoints are no data"
    os.utime(images / "a.png", (0, 0))
    assert data_digest(sweep, spec, [str(checkpoint)]) == first, "a copy of the data has other times"
    moved = images.rename(tmp_path / "moved")
    assert data_digest(moved / "sweep", f"folder:{moved},size=8", [str(moved / "model.pt")]) == first
    moved.rename(images)
    digests = {first}
    for file, content in (("a.png", "others"), ("masks/a.png", "edge"), ("attributes.csv", "file,On\na.png,0\n")):
        (images / file).write_text(content)
        digests.add(data_digest(sweep, spec, [str(checkpoint)]))
    (images / "a.png").rename(images / "b.png")
    digests.add(data_digest(sweep, spec, [str(checkpoint)]))
    assert len(digests) == 5
    assert data_digest(sweep, "faces,size=64") == ""


def test_the_table_beside_an_archive_and_masks_elsewhere_are_data(tmp_path: Path) -> None:
    names = ("photos.zip", "attributes.csv", "masks.png")
    digests = set[str]()
    for changed in (None, *names):
        for name in names:
            (tmp_path / name).write_text("new" if name == changed else "old")
        digests.add(data_digest(tmp_path / "sweep", f"folder:{tmp_path}/photos.zip,regions={tmp_path}/masks.png"))
    assert len(digests) == 4


def test_unchanged_data_are_read_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data_digest(images / "sweep", f"folder:{images}")
    monkeypatch.setattr(cells, "_add_file", lambda *_: pytest.fail("read again"))
    assert data_digest(images / "sweep", f"folder:{images}") == first


def test_a_damaged_record_of_the_data_is_made_again(images: Path) -> None:
    first = data_digest(images / "sweep", f"folder:{images}")
    for content in ("", "[1]", '{"a": 1}'):
        (images / "sweep" / WORK / "data.json").write_text(content)
        assert data_digest(images / "sweep", f"folder:{images}") == first


def test_data_that_cannot_be_read_are_refused(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(images / "a.png"))

    monkeypatch.setattr(cells, "_add_file", denied)
    with pytest.raises(InputError, match=r"a\.png: data cannot be read \(Permission denied\)"):
        data_digest(images / "sweep", f"folder:{images}")


def test_a_folder_is_a_checkpoint_and_nothing_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(InputError, match="model: is not a checkpoint"):
        Sweep.of(tmp_path, [str(folder)], [0])
    folder.mkdir()
    (folder / "weights.pt").write_text("weights")
    assert Sweep.of(tmp_path, [str(folder)], [0]).cells[0].name.startswith("model-seed0-")


def test_a_written_sweep_is_read_again(tmp_path: Path) -> None:
    made = sweep(tmp_path, "a", "b", seeds=range(2))
    assert Sweep.open(made.folder) == made
    assert [cell.arguments[-2:] for cell in made.cells] == [("--seed", "0"), ("--seed", "1")] * 2
    with pytest.raises(InputError, match=r"it has no sweep\.json"):
        Sweep.open(tmp_path)
    (made.folder / "sweep.json").write_text('{"cells": [{"name": 1}]}')
    with pytest.raises(InputError, match=r"cells\[0\]\.name"):
        Sweep.open(made.folder)


def test_finished_cells_of_earlier_commands_stay_in_the_sweep(tmp_path: Path) -> None:
    earlier = sweep(tmp_path, "a", "b")
    perform(earlier.folder, earlier.cells[0], command)
    later = sweep(tmp_path, "c")
    assert Sweep.open(earlier.folder).cells == (earlier.cells[0], *later.cells)
    (earlier.folder / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match=r"sweep\.json"):
        later.write()


@pytest.mark.parametrize("name", ["good", "some_metrics_failed"])
def test_a_finished_run_has_the_name_of_its_cell(tmp_path: Path, name: str) -> None:
    made, cell = only(tmp_path, name)
    perform(made.folder, cell, command)
    assert (made.folder / cell.name / "run.json").read_text() == name
    assert [state.status for state in made.states()] == ["done"]
    attempt = attempt_of(made.folder, cell)
    assert (attempt.attempts, attempt.error) == (1, "")
    assert attempt.seconds is not None
    assert attempt.seconds > 0
    assert sorted(p.name for p in (made.folder / WORK).iterdir()) == [f"{cell.name}.json", f"{cell.name}.log"]
    perform(made.folder, cell, command)
    assert attempt_of(made.folder, cell).attempts == 1, "a cell that is done is left as it is"


def test_the_error_message_of_a_cell_is_kept(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "wrong")
    perform(made.folder, cell, command)
    (state,) = made.states()
    assert (state.status, state.attempt.error) == ("failed", "the checkpoint is cut off Copy it again.")
    assert made.missing() == [cell]


def test_a_cell_that_is_asked_to_stop_is_neither_done_nor_failed(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "stopped")
    perform(made.folder, cell, command)
    assert [state.status for state in made.states()] == ["waiting"]


def test_a_full_disk_is_the_error_of_its_cell(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "good")

    def full(arguments: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    perform(made.folder, cell, full)
    assert "No space left on device" in attempt_of(made.folder, cell).error
    assert not is_done(made.folder, cell)


def test_a_folder_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "good")
    for file in (made.folder / WORK).iterdir():
        file.unlink()
    (made.folder / WORK).rmdir()
    (made.folder / WORK).write_text("in the way")
    perform(made.folder, cell, command)
    assert not is_done(made.folder, cell)


def test_the_run_of_a_faster_worker_stays(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "good")

    def overtaken(arguments: list[str]) -> int:
        (made.folder / cell.name).mkdir()
        (made.folder / cell.name / "run.json").write_text("faster")
        return command(arguments)

    perform(made.folder, cell, overtaken)
    assert (made.folder / cell.name / "run.json").read_text() == "faster"
    assert attempt_of(made.folder, cell).error == ""


def test_a_cell_is_running_while_its_folder_is_touched(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "good")
    seen = []

    def watched(arguments: list[str]) -> int:
        seen.extend(state.status for state in made.states())
        return command(arguments)

    perform(made.folder, cell, watched)
    assert seen == ["running"]
    place = made.folder / WORK / "good-seed0-00000000.abcd"
    place = place.with_name(f"{cell.name}.abcd")
    (made.folder / cell.name / "run.json").unlink()
    place.mkdir()
    assert [state.status for state in made.states()] == ["running"]
    os.utime(place, (0, time.time() - SILENT_SECONDS - 1))
    assert [state.status for state in made.states()] == ["waiting"]
    made.write()
    assert not place.exists(), "what a killed worker left is removed"


def test_an_unreadable_attempt_counts_as_none(tmp_path: Path) -> None:
    made, cell = only(tmp_path, "good")
    write_attempt(made.folder, cell, Attempt(3, 1.5, "why"))
    assert attempt_of(made.folder, cell) == Attempt(3, 1.5, "why")
    for content in ("{", json.dumps({"attempts": -1}), "[]"):
        (made.folder / WORK / f"{cell.name}.json").write_text(content)
        assert attempt_of(made.folder, cell) == Attempt()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", ""])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be I/N"):
        parse_shard(text, {})
