"""Reading a checkpoint: a child process describes the file, then this process copies the tensors from the open file.

Neither process executes code from the file, see :mod:`ccvae_eval.checkpoint.safe_reader`. Reading and refusing need no
torch; it is imported when the first tensor is used.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ccvae_eval.checkpoint import safe_reader
from ccvae_eval.checkpoint.safe_reader.child import seconds_for
from ccvae_eval.checkpoint.safe_reader.records import ITEM_SIZES
from ccvae_eval.checkpoint.safe_reader.tree import MAX_RATIO, SLACK
from ccvae_eval.core.errors import CheckpointError
from ccvae_eval.core.files import open_regular_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WALL_TIME_FACTOR = 3
"""Limit of the child's wall time as a multiple of its CPU time, since the machine may be busy."""
CHUNK = 1 << 20
_START = "import sys; sys.path.append(sys.argv[1]); from safe_reader.child import main; main(int(sys.argv[2]))"


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Args:
        description: the reader's description, see :func:`safe_reader.summary.describe`.
        storages: the bytes of each storage; emptied when the tensors are built.
    """

    description: dict[str, Any]
    storages: list[bytearray]

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Dense and contiguous, on the CPU, in the order of ``description["tensors"]``; no two share memory."""
        tensors = _built(self.description["tensors"], self.storages)
        self.storages.clear()
        return tensors


@dataclass(eq=False)
class StoredTensor:
    """A tensor of a file, built when :attr:`tensor` is used.

    Args:
        content: the content of its file.
        number: its place in ``content.tensors``.
        restored: the type that it had before it was stored as float16; "" if it was not.
    """

    content: Content
    number: int
    restored: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.content.description["tensors"][self.number][3])

    @property
    def dtype(self) -> str:
        """Torch's name of the type, such as "float32"."""
        return self.restored or str(self.content.description["tensors"][self.number][1])

    @property
    def stored_bytes(self) -> bytearray:
        """The bytes of its storage, before any tensor of the file is built."""
        storage: int = self.content.description["tensors"][self.number][0]
        return self.content.storages[storage]

    @cached_property
    def tensor(self) -> Tensor:
        stored = self.content.tensors[self.number]
        return stored.to(_dtype(self.restored)) if self.restored else stored


def read_content(path: Path) -> Content:
    """Reads a file of any supported format.

    Raises:
        CheckpointError: the file is missing, not a regular file, not a checkpoint, damaged, or unsafe to read.
    """
    with open_regular_file(path, CheckpointError, "Give the checkpoint file itself.") as descriptor:
        before = _file_state(descriptor)
        description = describe(descriptor, path)
        storages = _storages(descriptor, description, path)
        if _file_state(descriptor) != before:
            _raise_changed(path)
    _require_valid(description, storages, path)
    return Content(description, storages)


def describe(descriptor: int, path: Path) -> dict[str, Any]:
    """Returns the child process's description of an open file; a refusal becomes a ``CheckpointError``."""
    home = Path(safe_reader.__file__).parent.parent
    seconds = seconds_for(os.fstat(descriptor).st_size)
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _START, str(home), str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env={},
            timeout=WALL_TIME_FACTOR * seconds,
            check=False,
        )
        expired = child.returncode == -signal.SIGXCPU
    except subprocess.TimeoutExpired:
        expired = True
    if expired:
        why = f"stopped after {seconds} s of computing"
        raise CheckpointError("takes too long to read", where=str(path), why=why)
    if child.returncode != 0:
        why = f"exit code {child.returncode}"
        raise CheckpointError("cannot be read within the reader's limits", where=str(path), why=why)
    description: dict[str, Any] = json.loads(child.stdout)
    if "refused" in description:
        refused = description["refused"]
        where = f"{path}: {refused['member']}" if refused["member"] else str(path)
        raise CheckpointError(refused["what"], where=where, why=refused["why"], hint=refused["hint"])
    return description


def _file_state(descriptor: int) -> tuple[int, ...]:
    now = os.fstat(descriptor)
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _raise_changed(path: Path) -> NoReturn:
    raise CheckpointError("changed while it was read", where=str(path), hint="Is it still being written? Try again.")


def _storages(descriptor: int, description: dict[str, Any], path: Path) -> list[bytearray]:
    """The bytes of each storage, copied in one pass over the file that also computes and checks its digest."""
    size, digest, position = description["size"], sha256(), 0
    found = [bytearray() for _ in description["storages"]]
    places = sorted((offset, length, number) for number, (offset, length) in enumerate(description["storages"]))
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
        file.seek(0)
        for offset, length, number in [*places, (size, 0, -1)]:
            if not position <= offset <= offset + length <= size:
                _raise_changed(path)
            while position < offset:
                gap = file.read(min(CHUNK, offset - position))
                if not gap:
                    _raise_changed(path)
                digest.update(gap)
                position += len(gap)
            if length:
                found[number] = bytearray(length)
                view = memoryview(found[number])
                while position < offset + length:
                    count = file.readinto(view[position - offset :])
                    if not count:
                        _raise_changed(path)
                    position += count
                digest.update(view)
        if file.read(1):
            _raise_changed(path)
    if digest.hexdigest() != description["sha256"]:
        _raise_changed(path)
    return found


def _require_valid(description: dict[str, Any], storages: list[bytearray], path: Path) -> None:
    """Refuses tensors that are far larger than the file, and Booleans other than 0 and 1."""
    budget = MAX_RATIO * description["size"] + SLACK
    for number, name, _, shape, _ in description["tensors"]:
        budget -= math.prod(shape) * ITEM_SIZES[name]
        if budget < 0:
            raise CheckpointError("contains tensors that are far larger than the file", where=str(path))
        if name == "bool" and math.prod(shape) and storages[number].translate(None, b"\0\1"):
            raise CheckpointError("contains a Boolean that is neither 0 nor 1", where=str(path))


def _built(rows: list[Any], storages: list[bytearray]) -> list[Tensor]:
    import torch

    users = [0] * len(storages)
    for number, *_ in rows:
        users[number] += 1
    whole = [torch.frombuffer(s, dtype=torch.uint8) if s else torch.empty(0, dtype=torch.uint8) for s in storages]
    tensors = []
    for number, name, offset, shape, strides in rows:
        tensor = _view(whole[number], _dtype(name), offset, shape, strides)
        alone = users[number] == 1 and tensor.is_contiguous() and tensor.nbytes == whole[number].nbytes > 0
        own = whole[number].view(tensor.dtype).view(shape) if alone else None
        tensors.append(tensor.clone(memory_format=torch.contiguous_format) if own is None else own)
    return tensors


def _dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def _view(storage: Tensor, dtype: torch.dtype, offset: int, shape: list[int], strides: list[int]) -> Tensor:
    """The tensor at this place of a storage; torch checks the bounds."""
    if math.prod(shape) == 0:
        return storage.new_empty(shape, dtype=dtype)
    whole = storage[: storage.nbytes // dtype.itemsize * dtype.itemsize]
    return whole.view(dtype).as_strided(shape, strides, offset)
