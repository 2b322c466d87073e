"""The child process that reads an untrusted file: limited in memory, time, files and processes."""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress

from .source import Source
from .summary import answer

MEMORY = 640 << 20
SECONDS = 20
BYTES_PER_SECOND = 100_000_000


def seconds_for(size: int) -> int:
    """Processor time that reading a file of this size may take."""
    return SECONDS + size // BYTES_PER_SECOND


def limit(size: int) -> None:
    """Takes from this process what it does not need. What a hole in the reader could do, ends here."""
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_CPU: seconds_for(size),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        # macOS does not let a process limit its address space
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def main(descriptor: int) -> None:
    """Reads the file that is open under this number and writes one JSON document to standard output."""
    source = Source(descriptor)
    limit(source.size)
    document = json.dumps(answer(source), separators=(",", ":")).encode()
    while document:
        document = document[os.write(sys.stdout.fileno(), document) :]
