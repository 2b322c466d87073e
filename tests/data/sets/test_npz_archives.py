from __future__ import annotations

import os
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.sets import npz as archives
from ccvae_eval.data.sets.npz import read_arrays
from tests.support.result_attacks import archive, npy


class Canary:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_plain_arrays_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.arange(3), b=np.array(["x", "y"]))
    found = read_arrays(tmp_path / "x.npz", ("a",))
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"].tolist() == ["x", "y"]


def test_pickled_objects_are_rejected_without_loading(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    np.savez(tmp_path / "x.npz", images=np.array([Canary(canary)], object))
    with pytest.raises(DataError, match="images: contains an unreadable array .it holds Python objects"):
        read_arrays(tmp_path / "x.npz", ())
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 and no more", bytes(1000)])
def test_other_files_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: is not a readable \.npz"):
        read_arrays(tmp_path / "x.npz", ())


def test_truncated_and_damaged_archives_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).integers(0, 256, 4000))
    whole = path.read_bytes()
    for part in range(0, 64, 7):
        path.write_bytes(whole[: len(whole) * part // 64])
        with pytest.raises(DataError):
            read_arrays(path, ("a",))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(DataError):
        read_arrays(path, ("a",))


def test_text_outside_of_unicode_is_rejected(tmp_path: Path) -> None:
    """NumPy reads it, and fails when it is used."""
    (tmp_path / "x.npz").write_bytes(archive({"names.npy": npy("(1,)", b"\xff" * 4, "'<U1'")}))
    with pytest.raises(DataError, match="not Unicode"):
        read_arrays(tmp_path / "x.npz", ())


def test_missing_arrays_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_arrays(tmp_path / "x.npz", ())
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_arrays(tmp_path, ())
    np.savez(tmp_path / "x.npz", pictures=np.zeros(2))
    with pytest.raises(DataError, match=r"the array 'images' is missing \(the file contains pictures\)"):
        read_arrays(tmp_path / "x.npz", ("images",))


def test_large_archives_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ARRAYS_BYTES", 10**6)
    with ZipFile(tmp_path / "x.npz", "w", ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy("(1000001,)", bytes(10**6 + 1), "'|u1'"))
        archive.writestr("b.npy", npy("(1,)", bytes(1), "'|u1'"))
    with pytest.raises(DataError, match=r"arrays that are too large .a, b: 1,000,\d+ bytes unpacked, the limit"):
        read_arrays(tmp_path / "x.npz", ())
    assert read_arrays(tmp_path / "x.npz", ("b",), ())["b"].tolist() == [0], "others are not read"
