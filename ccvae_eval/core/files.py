"""Safe file names, opening and atomic writing, and the cache folder that keeps judges and references between runs."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ccvae_eval.core.errors import InputError, closest

MAX_SLUG_LENGTH = 60
CACHE = "ccvae-eval"
"""Name of the toolkit's folder among the user's caches."""
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def slug(name: str) -> str:
    """Returns a file name that is safe on every operating system.

    >>> slug("../a b")
    'a-b'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:MAX_SLUG_LENGTH] or "unnamed"


def require_folder(path: str | Path) -> None:
    """Refuses a folder for results that cannot be made or written.

    Raises:
        InputError: a file is in its place, or the folder is not writable.
    """
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError("cannot be written", where=str(path), why=f"{place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError("cannot be written", where=str(path), why=f"no permission to write to {place}")


def require_place(place: Path, *, folder: bool = False) -> None:
    """Refuses a place where something else than a file, or than a folder, is in the way.

    A link to a file is no obstacle, since :func:`atomic_write` replaces it. A link to a folder is, since what is
    written there goes elsewhere.

    Raises:
        InputError: a pipe, a device, a folder or a link is there.
    """
    wanted = stat.S_IFDIR if folder else stat.S_IFREG
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT(place.lstat().st_mode)
        if kind not in (wanted, stat.S_IFLNK) or (kind == stat.S_IFLNK and folder):
            what = "is a link" if kind == stat.S_IFLNK else f"is {_KINDS.get(kind, 'a file')}"
            raise InputError("cannot be written", where=str(place), why=what, hint="Remove it, or name another folder.")


def make_folder(path: Path) -> None:
    """Creates a folder and those above it, unless it exists.

    Raises:
        InputError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("folder cannot be created", where=str(path), why=error.strerror or str(error)) from error


def similar_path(path: Path) -> str:
    """The question whether a path that exists was meant, if a name beside the missing one is similar; else "".

    The missing name is that of the file, or of the first folder on its way that does not exist.
    """
    missing, rest = Path(path), Path()
    while not missing.parent.is_dir() and missing != missing.parent:
        missing, rest = missing.parent, missing.name / rest
    with suppress(OSError):
        names = [place.name for place in missing.parent.iterdir() if not place.name.startswith(".")]
        if (close := closest(missing.name, names)) and (found := missing.with_name(close) / rest).exists():
            return f"Did you mean '{found}'?"
    return ""


@contextmanager
def open_regular_file(path: Path, error: type[InputError] = InputError, hint: str = "") -> Iterator[int]:
    """Yields the descriptor of a regular file; never blocks on a pipe or a device.

    Raises:
        InputError: of class ``error``: the path cannot be opened or is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as failure:
        why = (failure.strerror if isinstance(failure, OSError) else None) or str(failure)
        missing = isinstance(failure, FileNotFoundError)
        raise error("cannot be opened", where=str(path), why=why, hint=similar_path(path) if missing else "") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
            raise error(f"is {kind}, not a file", where=str(path), hint=hint)
        yield descriptor
    finally:
        os.close(descriptor)


def read_regular_file(path: Path, limit: int, error: type[InputError] = InputError) -> bytes:
    """The bytes of a regular file.

    Raises:
        InputError: of class ``error``: the path cannot be opened, is not a regular file, or has more than ``limit``
            bytes.
    """
    with open_regular_file(path, error) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        size = os.fstat(descriptor).st_size
        content = file.read(size + 1) if size <= limit else b""  # takes memory for all bytes that it is asked for
    if max(size, len(content)) > limit:
        raise error("is too large", where=str(path), why=f"more than {limit:,} bytes")
    return content


def atomic_write(path: str | Path, content: bytes) -> None:
    """Writes a file completely or not at all, even across a crash.

    The bytes go to a temporary file in the same folder and reach the disk before it is renamed. A symbolic link at
    ``path`` is replaced, never written through.

    Raises:
        InputError: the folder is missing, read-only or full. An earlier file stays as it was, and no temporary file is
            left behind.
    """
    path = Path(path)
    # independent of the target's name, which may have the full 255 bytes
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)  # noqa: PTH105 - tests replace this call
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        raise InputError("cannot be written", where=str(path), why=error.strerror or str(error)) from error
    with suppress(OSError):  # the file is whole by now, and some file systems refuse this
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the new directory entry survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder(given: str | Path | None = None) -> Path | None:
    """Returns ``given``, else ``XDG_CACHE_HOME/ccvae-eval``, else ``~/.cache/ccvae-eval``; None without a home folder.

    The folder is not created here; :func:`write_cached` does that.
    """
    if given is not None:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification ignores relative paths
        return Path(base) / CACHE
    try:
        return Path.home() / ".cache" / CACHE
    except RuntimeError:
        return None


def write_cached(folder: Path | None, name: str, write: Callable[[Path], object]) -> str:
    """Writes one file of the cache. A cache that cannot be written never stops a run.

    Args:
        folder: the result of :func:`cache_folder`; created if missing.
        name: file name.
        write: writes the file at the given path, completely or not at all.

    Returns:
        "" on success, else a sentence that says why nothing was cached.
    """
    if folder is None:
        return "Nothing is cached: there is no home folder. Choose a folder with --cache-dir."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    except (OSError, InputError) as error:
        why = error.why if isinstance(error, InputError) else error.strerror
        return f"Nothing is cached: {folder} cannot be written ({why}). Choose another folder with --cache-dir."
    return ""
