"""Functions that write hostile and broken files of a run, and hostile .npz archives."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ccvae_eval.evaluation.storage import EVIDENCE_FILE, RUN_FILE


def npy(shape: str, body: bytes = b"", kind: str = "'<f8'") -> bytes:
    """A .npy member whose header states any shape and type."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def archive(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file.getvalue()


def deflate_bomb(mebibytes: int) -> bytes:
    """An archive whose one array of zeros has a size of its own choice and is a thousandth of it when packed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target, target.open("locality/focus.npy", "w") as member:
        member.write(npy(f"({mebibytes << 17},)"))
        for _ in range(mebibytes):
            member.write(bytes(1 << 20))
    return file.getvalue()


def with_flipped_byte() -> bytes:
    """An archive of incompressible numbers with one wrong byte."""
    numbers = np.random.default_rng(0).bytes(8000)
    raw = bytearray(archive({"locality/ids.npy": npy("(1000,)", numbers, "'<i8'")}))
    raw[4000] ^= 0xFF
    return bytes(raw)


def with_directory_of(size: int) -> bytes:
    """An archive whose end record states a directory of this size."""
    raw = bytearray(archive({"a.npy": npy("(0,)")}))
    struct.pack_into("<I", raw, len(raw) - 10, size)
    return bytes(raw)


def with_encryption() -> bytes:
    raw = bytearray(archive({"a.npy": npy("(0,)")}))
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    raw[6] |= 1
    return bytes(raw)


def with_two_of_a_name() -> bytes:
    raw = archive({"a.npy": npy("(0,)"), "b.npy": npy("(0,)")})
    return raw.replace(b"b.npy", b"a.npy")


def objects() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{"locality/focus": np.array([{}], dtype=object)})
    return file.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "objects": (objects, "locality/focus: contains an unreadable array (it holds Python objects"),
    "text": (lambda: b"hello" * 100, "is not a readable .npz archive"),
    "empty": (lambda: b"", "is not a readable .npz archive"),
    "bare_array": (lambda: npy("(3,)", bytes(24)), "is not a readable .npz archive"),
    "huge_shape": (lambda: archive({"a/b.npy": npy("(1000000000000,)")}), "a/b: contains an unreadable array (shape"),
    "shape_of_8_gb": (lambda: archive({"a/b.npy": npy("(1000000000,)")}), "does not fit its"),
    "shape_too_small": (lambda: archive({"a/b.npy": npy("(1,)", bytes(16))}), "does not fit its"),
    "negative_shape": (lambda: archive({"a/b.npy": npy("(-1, -2)", bytes(16))}), "does not fit its"),
    "no_bytes_each": (lambda: archive({"a/b.npy": npy("(1000000000000,)", kind="'<U0'")}), "does not fit its"),
    "unknown_type": (lambda: archive({"a/b.npy": npy("(1,)", bytes(8), "'<q9'")}), "a/b: contains an unreadable array"),
    "nested_header": (lambda: archive({"a/b.npy": npy("(" * 5000 + ")" * 5000)}), "a/b: contains an unreadable array"),
    "minus_signs": (lambda: archive({"a/b.npy": npy("-" * 9000 + "1")}), "a/b: contains an unreadable array"),
    "call_in_header": (lambda: archive({"a/b.npy": npy("__import__('os')")}), "a/b: contains an unreadable array"),
    "open_bracket": (lambda: archive({"a/b.npy": npy("(2,")}), "a/b: contains an unreadable array"),
    "cut_header": (lambda: archive({"a/b.npy": npy("(1,)")[:40]}), "a/b: contains an unreadable array"),
    "not_an_array": (lambda: archive({"a/b.npy": b"hello"}), "a/b: contains an unreadable array"),
    "flipped_byte": (with_flipped_byte, "locality/ids: contains an unreadable array"),
    "bomb": (lambda: deflate_bomb(20), "contains arrays that are too large"),
    "long_directory": (lambda: with_directory_of(1 << 30), "is not a readable .npz archive (its directory has more"),
    "encrypted": (with_encryption, "a: contains an unreadable array"),
    "two_of_a_name": (with_two_of_a_name, "two arrays of the same name"),
}
"""Archives that must be refused, each with a part of the message. Those of the bomb must exceed the limit."""


def put_evidence(folder: Path, content: bytes) -> None:
    """Replaces the evidence of a run, which then has the digest that run.json states."""
    (folder / EVIDENCE_FILE).write_bytes(content)
    change_run(folder, ("evidence", "sha256"), sha256(content).hexdigest())


def change_run(folder: Path, place: tuple[str | int, ...], value: Any) -> None:
    """Replaces a value in run.json."""
    document = json.loads((folder / RUN_FILE).read_text())
    owner = document
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    (folder / RUN_FILE).write_text(json.dumps(document))


WRONG: tuple[tuple[tuple[str | int, ...], Any, str], ...] = (
    (("tool",), 1, "tool must be an object, got 1"),
    (("tool", "name"), [], "tool.name must be a string, got a list"),
    (("checkpoint",), [], "checkpoint must be an object, got a list"),
    (("checkpoint", "sha256"), 1, "checkpoint.sha256 must be a string, got 1"),
    (("checkpoint", "path"), {}, "checkpoint.path must be a string, got an object"),
    (("checkpoint", "settings"), "x", "checkpoint.settings must be an object, got 'x'"),
    (("environment",), "", "environment must be an object, got ''"),
    (("training",), "", "training must be an object, got ''"),
    (("data",), [], "data must be an object, got a list"),
    (("data", "n"), -1, "data.n must be at least 0, got -1"),
    (("data", "labels"), {"a": 1}, "data.labels must be a list, got an object"),
    (("data", "labels", 0, "name"), 3, "data.labels[0].name must be a string, got 3"),
    (("regions",), None, "regions must be an object, got null"),
    (("judge",), "", "judge must be an object, got ''"),
    (("seed",), "x", "seed must be an integer, got 'x'"),
    (("warnings",), "x", "warnings must be a list, got 'x'"),
    (("evidence",), "", "evidence must be an object, got ''"),
    (("evidence", "sha256"), 1, "evidence.sha256 must be a string, got 1"),
    (("measurements", 0, "status"), "foo", "measurements[0].status must be 'ok'"),
    (("measurements", 0, "status"), [], "measurements[0].status must be 'ok'"),
    (("measurements", 0, "values", 0, "value"), "x", "measurements[0].values[0].value must be a number, got 'x'"),
    (("measurements", 0, "values", 0, "range"), [], "measurements[0].values[0].range must have 2 elements, got 0"),
    (("measurements", 0, "values", 0, "higher_is_better"), "x", "higher_is_better must be true or false, got 'x'"),
)  # fmt: skip
"""Places of run.json, a value of the wrong type or range for each, and a part of the message."""
