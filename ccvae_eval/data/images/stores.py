"""Sources of image files: a folder or a zip. Files outside of it are never opened."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b, file_digest
from pathlib import Path, PurePosixPath
from typing import Protocol

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.files import read_regular_file
from ccvae_eval.data.images.decode import MAX_IMAGE_BYTES

RESULTS = ({"run.json", "values.csv"}, {"calibration.json", "calibration.md"}, {"training.pt", "history.csv"})
"""Files by which a folder of results is known: of a run, a calibration or a training."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def _require_size(size: int, limit: int, where: str) -> None:
    if size > limit:
        raise DataError("the file is too large", where=where, why=f"the limit is {limit / 2**20:.0f} MiB")


class Store(Protocol):
    """Image files by name."""

    where: str
    names: tuple[str, ...]
    """Names of the image files, sorted."""

    def read(self, name: str) -> bytes: ...

    def size(self, name: str) -> int:
        """Size of a file in bytes, unpacked."""
        ...

    def digest(self) -> bytes:
        """Digest of the names and contents of all image files."""
        ...


class FolderStore:
    """The image files in a folder and its subfolders; links to other folders are not followed.

    Subfolders with results of this toolkit are left out: the default of ``--out`` is inside the working directory,
    which may be the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.where, self.names = folder, str(folder), tuple(sorted(_files(folder)))

    def read(self, name: str) -> bytes:
        return read_regular_file(self._folder / name, MAX_IMAGE_BYTES, DataError)

    def size(self, name: str) -> int:
        return (self._folder / name).stat().st_size

    def digest(self) -> bytes:
        content = blake2b(digest_size=16)
        for name in self.names:
            content.update(name.encode("utf-8", "surrogateescape") + b"\0" + blake2b(self.read(name)).digest())
        return content.digest()


def _files(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        if Path(place) != folder and any(files <= set(names) for files in RESULTS):
            folders.clear()
            continue
        folders.sort()
        for name in names:
            path = Path(place) / name
            if name.lower().endswith(IMAGE_SUFFIXES) and path.is_file():
                yield path.relative_to(folder).as_posix()


class ZipStore:
    """The image files in a zip."""

    def __init__(self, path: Path) -> None:
        self._path, self.where = path, str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(
                "the file is not a readable zip",
                where=str(path),
                why=str(error),
                hint="Give a folder of images or a zip. Download or copy a damaged zip again.",
            ) from None
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise DataError("two files in the zip have the same name", where=str(path))
        self.names = tuple(sorted(name for name in self._infos if name.lower().endswith(IMAGE_SUFFIXES)))

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str, most: int = MAX_IMAGE_BYTES) -> bytes:
        """The bytes of a file; one of more than ``most`` bytes raises a ``DataError`` before it is unpacked."""
        where = f"{self._path}: {name}"
        _require_size(self._infos[name].file_size, most, where)
        try:
            return self._zip.read(name)
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, EOFError) as error:
            raise DataError("the file cannot be read", where=where, why=str(error)) from None

    def size(self, name: str) -> int:
        return self._infos[name].file_size

    def digest(self) -> bytes:
        with self._path.open("rb") as file:
            return file_digest(file, lambda: blake2b(digest_size=16)).digest()


def files_by_name(store: Store) -> dict[str, str]:
    """Map each name that a table may use to its file: the full name, and the last part where it is unique."""
    last = [PurePosixPath(name).name for name in store.names]
    counts = Counter(last)
    unique = {short: name for short, name in zip(last, store.names, strict=True) if counts[short] == 1}
    return unique | {name: name for name in store.names}
