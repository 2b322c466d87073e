"""Bounded access to an untrusted file, and the error for refused content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

CHUNK = 1 << 20
MAX_NAME_LENGTH = 80


class RefusedError(Exception):
    """The file is refused: the problem, its cause, the archive member it lies in, and a remedy."""

    def __init__(self, what: str, *, why: str = "", member: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.member, self.hint = what, why, member, hint

    def as_plain(self) -> dict[str, str]:
        return {"what": self.what, "why": self.why, "member": self.member, "hint": self.hint}


def truncated(member: str = "") -> RefusedError:
    """Returns the error for a file that ends too early."""
    return RefusedError("is truncated", member=member, hint="Copy or download it again.")


def escaped(text: str) -> str:
    """Returns a name from the file, escaped and shortened for a message.

    >>> escaped("os.system")
    'os.system'
    >>> escaped("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    cut = text if len(text) <= MAX_NAME_LENGTH else text[:MAX_NAME_LENGTH] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class Source:
    """A regular file with an open descriptor, read by position; the descriptor stays open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, length: int, member: str = "") -> bytes:
        """Returns exactly these bytes; a file that ends before them is refused as truncated."""
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
        """Yields the same bytes in pieces of at most 1 MiB."""
        for start in range(offset, offset + length, CHUNK):
            yield self.read(start, min(CHUNK, offset + length - start), member)

    def sha256(self) -> str:
        """Returns the hexadecimal digest of the whole file."""
        digest = sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()
