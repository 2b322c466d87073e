"""A file to be read with suspicion, and the word for what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

CHUNK = 1 << 20
LONGEST_SHOWN = 80


class RefusedError(Exception):
    """Why a file is not read.

    Args:
        what: what is wrong with it, one sentence without a full stop.
        why: the cause, if ``what`` does not say it all.
        member: the part of the file.
        hint: what its owner can do.
    """

    def __init__(self, what: str, *, why: str = "", member: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.member, self.hint = what, why, member, hint

    def as_plain(self) -> dict[str, str]:
        return {"what": self.what, "why": self.why, "member": self.member, "hint": self.hint}


def truncated(member: str = "") -> RefusedError:
    """The file ends before what it announces."""
    return RefusedError("is truncated", member=member, hint="Copy or download it again.")


def shown(text: str) -> str:
    """A name from the file, safe and short enough to print.

    >>> shown("os.system")
    'os.system'
    >>> shown("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    cut = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class Source:
    """An open regular file, read by position.

    Args:
        descriptor: an open file descriptor; it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, length: int, member: str = "") -> bytes:
        """Exactly these bytes; a file that ends before them is refused as truncated."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise truncated(member)
        content = os.pread(self.descriptor, length, offset)
        while len(content) < length:
            more = os.pread(self.descriptor, length - len(content), offset + len(content))
            if not more:
                raise truncated(member)
            content += more
        return content

    def chunks(self, offset: int, length: int, member: str = "") -> Iterator[bytes]:
        """The same in pieces of at most 1 MiB."""
        for start in range(offset, offset + length, CHUNK):
            yield self.read(start, min(CHUNK, offset + length - start), member)

    def sha256(self) -> str:
        digest = sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()
