"""The files of a run are untrusted: a malformed one ends with exit 3, naming file, place and expectation."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccvae_eval import read
from ccvae_eval.comparison.compare import compare
from ccvae_eval.core.array_files import ArrayFile
from ccvae_eval.core.errors import DataError, InputError
from ccvae_eval.core.typed import Limits, load_json
from ccvae_eval.data.sets.npz import read_arrays
from ccvae_eval.evaluation import storage
from ccvae_eval.evaluation.arrays import PICTURES_FILE
from ccvae_eval.evaluation.storage import EVIDENCE_FILE, RUN_FILE, write
from tests.support.commands import run_command
from tests.support.result_attacks import ARCHIVES, WRONG, archive, change_run, npy, put_evidence
from tests.support.runs import measurement, pictured_run, run_of, value

MEBIBYTE = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(pictured_run(), tmp_path / "run")
    return tmp_path / "run"


def memory_of(action: Callable[[], object]) -> int:
    """Greatest number of bytes that Python and NumPy hold during an action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# run.json


@pytest.mark.parametrize(("place", "wrong", "message"), WRONG, ids=[".".join(map(str, w[0])) for w in WRONG])
def test_a_value_of_another_type_is_refused_by_every_command(
    folder: Path, place: tuple[str | int, ...], wrong: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_run(folder, place, wrong)
    for command in (("inspect", folder), ("inspect", folder, "--json"), ("compare", folder, folder)):
        assert run_command(*command) == 3
        shown = capsys.readouterr()
        assert message in shown.err
        assert f"{folder / RUN_FILE}: " in shown.err
    assert "internal" not in shown.err


def test_a_number_beyond_the_range_of_floats_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / RUN_FILE).read_text()
    (folder / RUN_FILE).write_text(text.replace('"seconds": 0.0', '"seconds": 1e400', 1))
    assert run_command("inspect", folder) == 3
    assert "seconds must be finite, got inf" in capsys.readouterr().err


@pytest.mark.parametrize("file", [RUN_FILE, EVIDENCE_FILE, PICTURES_FILE])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_among_the_files_is_named_at_once(
    folder: Path, file: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    else:
        (folder / file).symlink_to("/dev/zero")
    assert run_command("inspect", folder) == 3
    assert f"{folder / file}: is a {kind}, not a file" in capsys.readouterr().err


def test_a_sparse_file_of_two_gibibytes_is_refused_unread(folder: Path) -> None:
    os.truncate(folder / RUN_FILE, 2 << 30)
    limits = Limits(size=MEBIBYTE)

    def refused() -> None:
        with pytest.raises(InputError, match="is too large"):
            load_json(folder / RUN_FILE, limits=limits)

    assert memory_of(refused) < 4 * MEBIBYTE


# evidence.npz


@pytest.mark.parametrize("attack", ARCHIVES)
def test_hostile_evidence_is_refused_before_memory_is_taken(
    folder: Path, attack: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, message = ARCHIVES[attack]
    put_evidence(folder, build())
    monkeypatch.setattr(storage, "EVIDENCE_SLACK", MEBIBYTE)
    assert memory_of(lambda: run_command("inspect", folder)) < 8 * MEBIBYTE
    error = capsys.readouterr().err
    assert message in error
    assert str(folder / EVIDENCE_FILE) in error
    assert "internal" not in error


@pytest.mark.parametrize("attack", sorted(set(ARCHIVES) - {"bomb"}))
def test_hostile_archives_are_refused_as_data(tmp_path: Path, attack: str) -> None:
    build, message = ARCHIVES[attack]
    (tmp_path / "x.npz").write_bytes(build())
    with pytest.raises(DataError) as caught:
        read_arrays(tmp_path / "x.npz", ())
    assert message in str(caught.value)


def test_an_array_of_the_evidence_is_read_when_it_is_used(folder: Path) -> None:
    large = {f"locality/{name}.npy": npy("(1048576,)", bytes(8 * MEBIBYTE)) for name in "abcde"}
    put_evidence(folder, archive({**large, "locality/ids.npy": npy("(60,)", np.arange(60).tobytes(), "'<i8'")}))
    assert memory_of(lambda: read(folder, pictures=False)) < 4 * MEBIBYTE
    evidence = read(folder, pictures=False).measurement("locality").evidence
    assert list(evidence) == list("abcde")
    assert 8 * MEBIBYTE < memory_of(lambda: evidence["a"]) < 12 * MEBIBYTE


@pytest.mark.parametrize("ids", [np.zeros((2, 2), np.int64), np.array(["a"]), np.array([0.5])])
def test_ids_of_another_type_are_refused(folder: Path, ids: np.ndarray[Any, Any]) -> None:
    file = io.BytesIO()
    np.savez(file, **{"locality/ids": ids})
    put_evidence(folder, file.getvalue())
    with pytest.raises(InputError, match="must be a list of integers"):
        read(folder)


@pytest.mark.parametrize("terms", [np.ones(3), np.ones((60, 2)), np.array(["x"] * 60)])
def test_evidence_that_is_not_one_number_for_each_image_is_named(tmp_path: Path, terms: np.ndarray[Any, Any]) -> None:
    ones = np.ones(60)
    evidence = {"focus/Hat/numerator": terms, "focus/Hat/denominator": ones}
    wrong, right = (
        run_of(measurement("locality", "focus", [value("focus", 1.0, "Hat")], evidence=found))
        for found in (evidence, {**evidence, "focus/Hat/numerator": ones})
    )
    with pytest.raises(InputError, match="'focus/Hat/numerator' must be a number for each of 60 images"):
        compare(wrong, right)


def test_members_that_are_not_arrays_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(archive({"README.txt": b"hello", "a.npy": npy("(1,)", bytes(8))}))
    arrays = ArrayFile(tmp_path / "x.npz", limit=MEBIBYTE)
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [0.0]}


# pictures.npz


def test_a_sheet_of_too_many_pixels_is_refused(folder: Path) -> None:
    """The header of a WebP image of 16,383 x 16,383 pixels."""
    packed = 16_382 | 16_382 << 14
    stream = b"VP8L" + (5).to_bytes(4, "little") + b"\x2f" + packed.to_bytes(4, "little")
    sheet = b"RIFF" + (len(stream) + 4).to_bytes(4, "little") + b"WEBP" + stream
    digest = sha256((folder / EVIDENCE_FILE).read_bytes()).hexdigest()
    np.savez(
        folder / PICTURES_FILE,
        **{
            "evidence-sha256": np.array(digest),
            "sheets/gallery/image": np.frombuffer(sheet + b"\0", np.uint8),
            "shapes/gallery/image": np.array([1, 16, 16, 3]),
        },
    )
    with pytest.raises(InputError, match="pictures cannot be read"):
        read(folder)


@pytest.mark.parametrize("shape", [[], [3], [-1, 16, 16, 3], [0, 0, 0, 0], [1, 16, 16, 7]])
def test_a_sheet_of_an_impossible_shape_is_refused(folder: Path, shape: list[int]) -> None:
    entries = dict(np.load(folder / PICTURES_FILE))
    entries["shapes/gallery/image"] = np.array(shape, np.int64)
    np.savez(folder / PICTURES_FILE, **entries)
    with pytest.raises(InputError, match="pictures cannot be read"):
        read(folder)


def test_a_run_file_with_a_key_twice_is_refused_in_linear_time(tmp_path: Path) -> None:
    """Looking up each key among the others would take minutes."""
    keys = ", ".join(f'"{i}": 0' for i in range(60_000))
    (tmp_path / RUN_FILE).write_text(f'{{{keys}, "59999": 0}}')
    with pytest.raises(InputError, match="'59999' occurs twice"):
        read(tmp_path)


def test_json_of_a_run_is_strict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("inspect", folder, "--json") == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
