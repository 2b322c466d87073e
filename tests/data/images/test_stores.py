from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.images import stores
from ccvae_eval.data.images.stores import FolderStore, ZipStore, files_by_name


def test_a_folder_and_its_zip_have_the_same_contents(photos: Callable[..., Path], tmp_path: Path) -> None:
    folder = FolderStore(photos("", 3))
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    packed = tmp_path / "x.zip"
    with ZipFile(packed, "w") as archive:
        for name in (*folder.names, "notes.txt"):
            archive.write(tmp_path / "photos" / name, name)
    archived = ZipStore(packed)
    assert folder.names == archived.names == ("0.png", "1.png", "2.png")
    assert [folder.read(name) for name in folder.names] == [archived.read(name) for name in archived.names]
    assert "notes.txt" in archived


def test_the_digest_depends_on_names_and_contents(photos: Callable[..., Path]) -> None:
    place = photos("", 3)
    before = FolderStore(place).digest()
    assert FolderStore(place).digest() == before
    (place / "0.png").rename(place / "3.png")
    renamed = FolderStore(place).digest()
    (place / "3.png").write_bytes((place / "3.png").read_bytes() + b"\0")
    assert len({before, renamed, FolderStore(place).digest()}) == 3


def test_links_pipes_and_folders_are_ignored(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (inside / "deep").mkdir(parents=True)
    (outside / "a.png").write_bytes(b"x")
    (inside / "deep" / "b.PNG").write_bytes(b"y")
    (inside / "way_out").symlink_to(outside, target_is_directory=True)
    (inside / "dead.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(inside / "pipe.png")
    (inside / "folder.png").mkdir()
    assert FolderStore(inside).names == ("deep/b.PNG",)


def test_short_names_are_mapped_if_they_are_unique(photos: Callable[..., Path]) -> None:
    place = photos("", 2, inside="a")
    photos("", 1, inside="b")
    photos("", 1)
    found = files_by_name(FolderStore(place))
    assert found["1.png"] == "a/1.png"
    assert found["0.png"] == "0.png"
    assert found["b/0.png"] == "b/0.png"
    (place / "0.png").unlink()
    assert "0.png" not in files_by_name(FolderStore(place))


def test_missing_and_large_files_are_rejected(photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    place = photos("", 2)
    store = FolderStore(place)
    (place / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png: cannot be opened"):
        store.read("0.png")
    monkeypatch.setattr(stores, "MAX_IMAGE_BYTES", 3)
    with pytest.raises(DataError, match="too large"):
        store.read("1.png")


def test_files_other_than_zips_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    for content in (b"", b"<html>", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.zip: the file is not a readable zip"):
            ZipStore(path)


def test_large_damaged_and_repeated_members_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    with pytest.raises(DataError, match=r"x\.zip: a\.png: the file is too large"):
        ZipStore(path).read("a.png", 10**5)
    flipped = bytearray(path.read_bytes())
    flipped[60] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=r"a\.png: the file cannot be read"):
        ZipStore(path).read("a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the repeated name
        with ZipFile(path, "w") as archive:
            archive.writestr("a.png", b"1")
            archive.writestr("a.png", b"2")
    with pytest.raises(DataError, match="the same name"):
        ZipStore(path)
