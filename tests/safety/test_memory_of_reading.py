"""Reading data takes little memory, however large the file is; what must be held as a whole has a limit.

To save time, limits and files are a sixteenth of the real ones: reading stays within 1 GiB if these stay within 64 MiB.
"""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.result_attacks import npy

MIB = 1 << 20
SCALE = 16
MEASURED = """
import resource, sys
import numpy as np
from pathlib import Path
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.data.labels import columns
from ccvae_eval.data.sets import codes, npz
from ccvae_eval.data.spec import open_data

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)

columns.MAX_CELLS //= {scale}
columns.MAX_TEXT_BYTES //= {scale}
npz.MAX_HELD_BYTES //= {scale}
begun, said = peak(), "read"
try:
    {code}
except CcvaeEvalError as error:
    said = str(error)
print(peak() - begun, said)
"""
OPENED = "data = open_data(sys.argv[1]); data.digest; data.batch(np.arange(0, len(data), 50))"
TABLE = "codes._columns(Path(sys.argv[1]))"


def measured(code: str, argument: str) -> tuple[int, str]:
    """Bytes that the memory of a child process grows at most while it reads, and what it says."""
    command = [sys.executable, "-c", MEASURED.format(code=code, scale=SCALE), argument]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    growth, _, said = ended.stdout.partition(" ")
    return int(growth), said


def sparse_archive(path: Path, rows: int, edge: int) -> None:
    """An .npz without compression whose images are a hole in the file: all zeros, which take no space on the disk."""
    size = rows * edge * edge
    header = npy(f"({rows}, {edge}, {edge})", b"", "'|u1'")
    crc, zeros = zlib.crc32(header), bytes(1 << 24)
    for _ in range(size // len(zeros)):
        crc = zlib.crc32(zeros, crc)
    assert size % len(zeros) == 0
    labels = io.BytesIO()
    np.save(labels, np.arange(rows) % 2)
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("labels.npy", labels.getvalue())
        place = archive.start_dir
        name, length = b"images.npy", len(header) + size
        common = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, crc, length, length, len(name), 0)
        file.seek(place)
        first = archive.infolist()[0]
        file.write(b"PK\3\4" + common + name + header)
        file.seek(size, io.SEEK_CUR)
        start = file.tell()
        other = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, first.CRC, first.file_size, first.file_size, 10, 0)
        for fields, member, offset in ((other, b"labels.npy", 0), (common, name, place)):
            file.write(b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<3H2L", 0, 0, 0, 0, offset) + member)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, file.tell() - start, start, 0))


def test_large_images_are_read_with_little_memory(tmp_path: Path) -> None:
    sparse_archive(tmp_path / "x.npz", 4096, 256)
    growth, said = measured(OPENED, f"npz:{tmp_path / 'x.npz'}")
    assert said == "read\n"
    assert growth < 128 * MIB, "the images have 256 MiB, and 16 MiB are read at a time"


def numbers(rows: int) -> str:
    draw = random.Random(0)
    return "a,b,c,d,e,f,g,h\n" + "".join(",".join(f"{draw.random():.6f}" for _ in range(8)) + "\n" for _ in range(rows))


TABLE_FILES: dict[str, tuple[Callable[[], str], str]] = {
    "different numbers": (lambda: numbers(100_000), "read"),
    "cells of one character": (lambda: "a,b\n" + "1,2\n" * 800_000, "read"),
    "a row of many cells": (lambda: "a" + ",b" * 4_000_000, "a row is too long"),
    "a row over many lines": (lambda: "a,b\n" + '"1\n",' * 1_000_000, "a row is too long"),
    "too many cells": (lambda: "a,b\n" + "1,2\n" * 1_100_000, "more than 2,097,152 cells"),
    "long words": (
        lambda: "a,b\n" + "".join(f"{i}{'é' * 50_000}\U0001f600,1\n" for i in range(200)),
        "more than 32 MiB of memory",
    ),
    "different words": (lambda: "a\n" + "".join(f"x{i}\n" for i in range(800_000)), "more than 32 MiB of memory"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLE_FILES)
def test_tables_are_read_row_by_row(kind: str, tmp_path: Path) -> None:
    make, expected = TABLE_FILES[kind]
    (tmp_path / "x.csv").write_text(make())
    growth, said = measured(TABLE, str(tmp_path / "x.csv"))
    assert expected in said
    # a row of 4 million characters takes 100 MiB, at any scale
    assert growth < (64 if "row" not in kind else 512) * MIB


def test_codes_that_do_not_fit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    sparse_archive(tmp_path / "x.npz", 4096, 256)
    growth, said = measured(
        "npz.MAX_ARRAYS_BYTES //= 16; npz.read_arrays(Path(sys.argv[1]), ('images',))", str(tmp_path / "x.npz")
    )
    assert "contains arrays that are too large" in said
    assert growth < 32 * MIB
