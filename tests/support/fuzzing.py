"""Mutated files for the readers of untrusted files: valid seeds, mutations, and what each reader must do with them.

A reader reads a file or raises a ``CcvaeEvalError``. Anything else is a finding: another exception, a tensor that
differs from torch's own reading, too much time or memory, or an action outside of reading (see :func:`watch`).
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tarfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch

from ccvae_eval.checkpoint import Bundle, read_bundle, reader, write_bundle
from ccvae_eval.checkpoint.metadata import CheckpointRecord
from ccvae_eval.checkpoint.safe_reader.source import Source
from ccvae_eval.checkpoint.safe_reader.summary import describe_or_refuse
from ccvae_eval.core.array_files import UNLIMITED, ArrayFile
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, DataError
from ccvae_eval.core.typed import load_json, load_toml
from ccvae_eval.data.sets.npz import read_arrays
from ccvae_eval.evaluation.run import Run
from tests.support import attacks, honest_files
from tests.support.imitated_libraries import imitated_libraries
from tests.support.runs import pictured_run

MAX_BYTES = 1 << 20
SECONDS = 10
MEMORY = 1 << 30
TARGETS = ("checkpoint", "npz", "typed")


class Seed(NamedTuple):
    """A valid file.

    Args:
        target: the reader that it is for.
        form: how it is taken apart: "zip", "tar", "safetensors", "npz", or "" for a file that is mutated as it is.
        suffix: ending of its name.
    """

    target: str
    form: str
    suffix: str
    raw: bytes


class Mutation(NamedTuple):
    """A change: ``at`` is its place as a share of the file; which of the others matter depends on the operation."""

    operation: str
    at: float
    length: int
    content: bytes
    other: int


STYLES = (
    "state dict", "state dict in the legacy format", "state dict of float8", "state dict of views of one storage",
    "state dict in pickle protocol 4", "weights and optimiser", "random states", "lightning 1", "omegaconf",
    "numpy generators", "numpy arrays in protocol 5", "keys that are not text", "enumerations in protocol 5",
    "dataclass settings", "sets ranges slices and bytes", "sizes devices types and layouts", "whole module",
    "whole module in the legacy format", "whole optimiser and schedule", "safetensors with metadata",
)  # fmt: skip
TOML = b"""title = "x"\ndata = "faces"\nseeds = [0, 1]\n[axes]\nmodel = ["ccvae", "m2"]\n[[view]]\nmetric = "locality"
[view.options]\nsteps = 5\nrate = 1e-3\nat = 0x1F\nname = 'a\\b'\n"""


@cache
def seeds() -> tuple[Seed, ...]:
    """Valid files of every kind that the readers accept."""
    found = []
    with _folder() as folder:
        with imitated_libraries():
            for name in STYLES:
                path = folder / "x.pt"
                honest_files.STYLES[name](path)
                safe, legacy = name.startswith("safetensors"), "legacy" in name
                form = "safetensors" if safe else "" if legacy else "zip"
                found.append(Seed("checkpoint", form, ".safetensors" if safe else ".pt", path.read_bytes()))
        attacks.write_tar(folder / "x.pt", attacks.tar_parts())
        found.append(Seed("checkpoint", "tar", ".pt", (folder / "x.pt").read_bytes()))
        tensors = {"a.weight": torch.arange(60.0).reshape(3, 20), "n": torch.tensor(7)}
        for suffix, form in ((".pt", "zip"), (".safetensors", "safetensors")):
            write_bundle(folder / f"x{suffix}", tensors, {"epoch": 3, "names": ["a"]}, half=True)
            found.append(Seed("checkpoint", form, suffix, (folder / f"x{suffix}").read_bytes()))
        arrays: Mapping[str, Any] = {
            "codes": np.ones((6, 3), np.float32), "labels": np.zeros((6, 2)), "names": np.array(["a", "b"]),
            "scale": np.ones((6, 3), ">f8"), "turned": np.asfortranarray(np.ones((2, 3))),
        }  # fmt: skip
        for write in (np.savez, np.savez_compressed):
            write(folder / "x.npz", **arrays)
            found.append(Seed("npz", "npz", ".npz", (folder / "x.npz").read_bytes()))
    document = json.dumps(pictured_run().as_plain()).encode()
    return (*found, Seed("typed", "", ".json", document), Seed("typed", "", ".toml", TOML))


@contextmanager
def _folder() -> Iterator[Path]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        yield Path(folder)


# mutations

INTEGERS = (0, 1, 255, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)
TOKENS = (
    *(struct.pack("<Q", number) for number in INTEGERS), *(struct.pack("<I", n & 0xFFFFFFFF) for n in INTEGERS),
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\x93NUMPY\x01\x00", b"ustar",
    b"\x80\x02", b"\x80\x05", b"(", b"t", b"]", b"}", b")", b"R", b"\x81", b"b", b"s", b"u", b"a", b"e", b"Q", b"0",
    b"2", b".", b"h\x00", b"q\x00", b"\x8a\x10" + b"\xff" * 16,
    b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\ngetattr\n",
    b"[" * 200, b"{" * 50, b'{"a":' * 50, b"null", b"true", b"[]", b"{}", b'""', b"1e400", b"-1", b"NaN", b"9" * 50,
    b'"\\ud800"', b"\n[a]\n", b"a.b.c=1\n", b"=", b"'", b"O", b"|O", b">f8", b"(1099511627776,)", b"True",
)  # fmt: skip


def _cut(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place]


def _flip(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    flipped = raw[place : place + 1]
    return raw[:place] + bytes(byte ^ (1 << mutation.length % 8) for byte in flipped) + raw[place + 1 :]


def _overwrite(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place] + mutation.content + raw[place + len(mutation.content) :]


def _insert(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place] + mutation.content + raw[place:]


def _drop(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place] + raw[place + mutation.length :]


def _repeat(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place] + raw[place : place + 1 + mutation.length % 40] * (2 + mutation.other % 500) + raw[place:]


def _splice(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place] + other[int(mutation.at * len(other)) :]


def _nest(raw: bytes, place: int, mutation: Mutation, other: bytes) -> bytes:
    return raw[:place] + other + raw[place:]


OPERATIONS: dict[str, Callable[[bytes, int, Mutation, bytes], bytes]] = {
    "cut": _cut, "flip": _flip, "overwrite": _overwrite, "insert": _insert, "drop": _drop, "repeat": _repeat,
    "splice": _splice, "nest": _nest,
}  # fmt: skip


def mutated(seed: Seed, mutations: tuple[Mutation, ...], inside: int) -> bytes:
    """The seed after the mutations: of the whole file, or with ``inside`` > 0 of one of its parts, repacked."""
    parts = _parts(seed) if inside else {}
    name = [*parts][inside % len(parts)] if parts else ""
    raw = parts.get(name, seed.raw)
    others = [s.raw for s in seeds() if s.target == seed.target]
    for mutation in mutations:
        other = others[mutation.other % len(others)]
        change = OPERATIONS[mutation.operation]
        raw = change(raw, int(mutation.at * len(raw)), mutation, other)[:MAX_BYTES]
    return _joined(seed.form, {**parts, name: raw}) if parts else raw


def _parts(seed: Seed) -> dict[str, bytes]:
    if seed.form in ("zip", "npz"):
        with zipfile.ZipFile(io.BytesIO(seed.raw)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if seed.form == "tar":
        return attacks.tar_parts()
    if seed.form == "safetensors":
        (length,) = struct.unpack("<Q", seed.raw[:8])
        return {"header": seed.raw[8 : 8 + length], "data": seed.raw[8 + length :]}
    return {}


def _joined(form: str, parts: Mapping[str, bytes]) -> bytes:
    if form == "safetensors":
        return struct.pack("<Q", len(parts["header"])) + parts["header"] + parts["data"]
    out = io.BytesIO()
    if form == "tar":
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in parts.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if form == "npz" else zipfile.ZIP_STORED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    return out.getvalue()


def drawn(chance: random.Random, target: str = "") -> tuple[Seed, bytes]:
    """A mutated file of one target, or of any."""
    seed = chance.choice([s for s in seeds() if target in ("", s.target)])
    mutations = tuple(
        Mutation(
            chance.choice([*OPERATIONS, "flip", "overwrite", "insert"]),
            chance.random(),
            chance.randrange(1, 64),
            chance.choice(TOKENS) if chance.random() < 0.7 else chance.randbytes(chance.randrange(1, 9)),
            chance.randrange(1000),
        )
        for _ in range(chance.choice((1, 1, 1, 2, 3, 5)))
    )
    return seed, mutated(seed, mutations, chance.randrange(40) if chance.random() < 0.7 else 0)


# readers


def describe_here(descriptor: int, path: Path) -> dict[str, Any]:
    """The description of an open file by the code of the child process, in this process."""
    description = json.loads(json.dumps(describe_or_refuse(Source(descriptor))))
    if "refused" in description:
        refused = description["refused"]
        assert "in the reader" not in refused["why"], refused
        raise CheckpointError(refused["what"], where=str(path), why=refused["why"])
    assert isinstance(description, dict)
    return description


@contextmanager
def reading_here() -> Iterator[None]:
    """Reads checkpoints in this process, without a child for each."""
    original = reader.describe
    reader.describe = describe_here
    try:
        yield
    finally:
        reader.describe = original


def examine(target: str, path: Path) -> bool:
    """Reads a file by one of the readers; True if it was read, False if it was refused."""
    try:
        if target == "npz":
            from ccvae_plugins.codes import NpzCodes

            for name, array in read_arrays(path, ()).items():
                if array.size and array.ndim and array.dtype.kind in "biuf":
                    with allowed():  # a compressed array is unpacked into a temporary file
                        rows = ArrayFile(path, limit=UNLIMITED, error=DataError).on_disk(name)
                    assert b"".join(block.tobytes() for block in rows.blocks()) == array.tobytes()
            NpzCodes().read(path)
        elif target == "typed":
            if path.suffix == ".toml":
                load_toml(path)
            else:
                Run.from_plain(load_json(path), str(path)).as_plain()
        else:
            bundle = read_bundle(path)
            assert all(tensor.numel() >= 0 for tensor in bundle.tensors.values())
            require_agreement(path, bundle)
            CheckpointRecord.from_bundle(bundle)
    except CcvaeEvalError as error:
        return _refused(error)
    return True


def _refused(error: CcvaeEvalError) -> bool:
    assert error.exit_code in (2, 3), error
    assert error.what.isprintable(), error.what
    return False


def require_agreement(path: Path, bundle: Bundle) -> None:
    """Requires that the tensors equal those of ``torch.load(weights_only=True)``, if torch reads the file too."""
    if bundle.format not in ("pt-zip", "pt-legacy") or bundle.envelope is not None:
        return
    try:
        with warnings.catch_warnings(), allowed():
            warnings.simplefilter("ignore")
            read_by_torch = torch.load(path, weights_only=True, map_location="cpu")
            expected = [tensor for _, tensor in honest_files.tensors_of(read_by_torch)]
    except Exception:  # torch refuses more, and fails in many ways
        return
    found = [*bundle.tensors.values()]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
        assert torch.equal(*raw)


# a process that reads many files under limits

_ALLOWED = [True]
FORBIDDEN = (
    "os.", "subprocess.", "shutil.", "socket.", "exec", "import", "pickle.", "ctypes.", "signal.pthread_kill", "pty.",
    "webbrowser.", "urllib.", "tempfile.", "marshal.",
)  # fmt: skip
HARMLESS = ("os.listdir", "os.scandir", "os.fwalk", "os.walk", "ctypes.")


@contextmanager
def allowed() -> Iterator[None]:
    """Suspends :func:`watch`, for torch's own reading."""
    before, _ALLOWED[0] = _ALLOWED[0], True
    try:
        yield
    finally:
        _ALLOWED[0] = before


def watch(folder: Path) -> list[str]:
    """Records, from now on, whatever this process does besides reading: the list receives each action."""
    found: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _ALLOWED[0]:
            return
        if event == "open":
            name, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            outside = not isinstance(name, int) and not str(name).startswith(str(folder))
            if writes or outside:
                found.append(f"open {name!r} {mode!r}")
        elif event.startswith(FORBIDDEN) and not event.startswith(HARMLESS):
            found.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    return found


class Late(BaseException):
    """A file takes longer than ``SECONDS``."""


def run_batch(seed: int, count: int, folder: Path, target: str = "") -> dict[str, Any]:
    """Reads ``count`` mutated files in this process under limits; returns the figures and the findings.

    A file lies in ``folder`` until it has been read, so that findings and a crash leave it behind.
    """

    def late(number: int, frame: FrameType | None) -> None:
        raise Late

    chance = random.Random(seed)
    with reading_here(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        "\a".encode("unicode_escape")
        for valid in seeds():
            path = folder / f"valid{valid.suffix}"
            path.write_bytes(valid.raw)
            assert examine(valid.target, path), valid[:3]
        for _ in range(200):  # whatever is imported when first needed
            kind, raw = drawn(random.Random(0), target)
            (folder / "first").with_suffix(kind.suffix).write_bytes(raw)
            _outcome(kind.target, (folder / "first").with_suffix(kind.suffix))
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
        actions = watch(folder)
        signal.signal(signal.SIGALRM, late)
        found: dict[str, Any] = {"files": 0, "read": 0, "refused": 0, "slowest": 0.0, "findings": []}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            kind, raw = drawn(chance, target)
            path = folder / f"{seed}-{number}{kind.suffix}"
            path.write_bytes(raw)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            begun = time.process_time()
            _ALLOWED[0] = False
            outcome = _outcome(kind.target, path)
            _ALLOWED[0] = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            found["slowest"] = max(found["slowest"], time.process_time() - begun)
            found["files"] += 1
            if actions:
                outcome, actions[:] = f"action: {actions[0]}", []
            if outcome in ("read", "refused"):
                found[outcome] += 1
                path.unlink()
            else:
                found["findings"].append([path.name, outcome])
        found["growth"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return found


def _outcome(target: str, path: Path) -> str:
    try:
        return "read" if examine(target, path) else "refused"
    except Late:
        return "late"
    except BaseException:
        with allowed():
            return traceback.format_exc(limit=-3)
