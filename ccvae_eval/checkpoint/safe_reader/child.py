"""The child process that reads an untrusted file, with limits on memory, CPU time and file writes."""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress

from .source import Source
from .summary import describe_or_refuse

MAX_MEMORY_BYTES = 640 << 20
BASE_SECONDS = 10
BYTES_PER_SECOND = 100_000_000


def seconds_for(size: int) -> int:
    """CPU time allowed for reading a file of this size, in seconds."""
    return BASE_SECONDS + size // BYTES_PER_SECOND


def apply_limits(size: int) -> None:
    """Limits the resources of this process, so that a vulnerability in the reader does little harm."""
    seconds = seconds_for(size)
    limits = {
        resource.RLIMIT_AS: (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES),
        resource.RLIMIT_CPU: (seconds, seconds + 1),  # SIGXCPU, so that the parent can tell the cause
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, values in limits.items():
        # macOS does not allow a limit on the address space
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, values)


def main(descriptor: int) -> None:
    """Reads the file with this open descriptor and writes one JSON document to standard output."""
    source = Source(descriptor)
    apply_limits(source.size)
    document = json.dumps(describe_or_refuse(source), separators=(",", ":")).encode()
    while document:
        document = document[os.write(sys.stdout.fileno(), document) :]
