"""Faults of the file system, built by code: the k-th call that writes fails, or ends the process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "write")
"""Functions of ``os`` through which files are made, written, renamed and removed."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """Counts the calls that change a file system; the ``at``-th does ``fault`` instead, and only this one.

    Args:
        at: number of the call, from 1; 0 = none.
        fault: called in place of the call.
    """

    def __init__(self, at: int, fault: Callable[[], None]) -> None:
        self.at, self.fault, self.calls = at, fault, 0
        self.names: list[str] = []

    def before(self, name: str) -> None:
        self.calls += 1
        self.names.append(name)
        if self.calls == self.at:
            self.fault()


def full() -> None:
    """The fault of a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def faulty(at: int, fault: Callable[[], None] = full) -> Iterator[Disk]:
    """A file system whose ``at``-th changing call has a fault."""
    disk = Disk(at, fault)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _counted(disk, name, getattr(os, name)))
        patch.setattr("os.fdopen", _opened(disk, os.fdopen))
        yield disk


def _counted(disk: Disk, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **more: Any) -> Any:
        if name != "open" or arguments[1] & WRITING:
            disk.before(name)
        return call(*arguments, **more)

    return counted


def _opened(disk: Disk, opener: Callable[..., Any]) -> Callable[..., Any]:
    """``os.fdopen`` whose files count their calls of ``write``."""

    def opened(*arguments: Any, **more: Any) -> Any:
        file = opener(*arguments, **more)
        if not hasattr(file, "raw"):
            return file
        return _File(disk, file)

    return opened


class _File:
    """A file whose ``write`` is counted."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self._disk, self._file = disk, file

    def write(self, content: bytes) -> int:
        self._disk.before("file.write")
        return int(self._file.write(content))

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *ended: object) -> None:
        self._file.__exit__(*ended)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
