"""Names for files, and writing a file whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from ccvae_eval.core.errors import InputError

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_SLUG = 60


def slug(name: str) -> str:
    """A name that is safe as a file's on every system.

    >>> slug("../a b")
    'a-b'
    """
    return _UNSAFE.sub("-", name).strip("-.")[:LONGEST_SLUG] or "unnamed"


def atomic_write(path: str | Path, content: bytes) -> None:
    """Writes a file that is, at every moment and after any crash, absent, the old one or complete.

    The bytes go to a temporary name in the same folder and reach the disk before the name is changed. A symbolic
    link at ``path`` is replaced, never written through.

    Raises:
        InputError: the folder is missing, read-only or full. What was there before is untouched and no temporary
            file is left.
    """
    path = Path(path)
    # short whatever the target's name is, so that a name of 255 bytes still has a temporary one
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)  # noqa: PTH105 - the call that fault injection replaces
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError("cannot be written", where=str(path), why=error.strerror or str(error)) from error


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
