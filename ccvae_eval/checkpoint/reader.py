"""Reading a checkpoint: a child process describes the file, then this process copies the tensors from the open file.

Neither process executes code from the file, see :mod:`ccvae_eval.checkpoint.safe_reader`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ccvae_eval.checkpoint import safe_reader
from ccvae_eval.checkpoint.safe_reader.child import seconds_for
from ccvae_eval.checkpoint.safe_reader.records import ITEM_SIZES
from ccvae_eval.checkpoint.safe_reader.tree import MAX_RATIO, SLACK
from ccvae_eval.core.errors import CheckpointError
from ccvae_eval.core.files import open_regular_file

WALL_TIME_FACTOR = 3
"""Limit of the child's wall time as a multiple of its CPU time, since the machine may be busy."""
CHUNK = 1 << 20
_START = "import sys; sys.path.append(sys.argv[1]); from safe_reader.child import main; main(int(sys.argv[2]))"


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Args:
        description: the reader's description, see :func:`safe_reader.summary.describe`.
        tensors: dense and contiguous, on the CPU, in the order of ``description["tensors"]``; no two share memory.
    """

    description: dict[str, Any]
    tensors: list[Tensor]


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
    return Content(description, _tensors(description, storages, path))


def describe(descriptor: int, path: Path) -> dict[str, Any]:
    """Returns the child process's description of an open file; a refusal becomes a ``CheckpointError``."""
    home = Path(safe_reader.__file__).parent.parent
    seconds = WALL_TIME_FACTOR * seconds_for(os.fstat(descriptor).st_size)
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _START, str(home), str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env={},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError("takes too long to read", where=str(path), why=f"stopped after {seconds} s") from None
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


def _storages(descriptor: int, description: dict[str, Any], path: Path) -> list[Tensor]:
    """The bytes of each storage, copied in one pass over the file that also computes and checks its digest."""
    size, digest, position = description["size"], sha256(), 0
    found: list[Tensor] = [torch.empty(0, dtype=torch.uint8) for _ in description["storages"]]
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
                found[number] = torch.empty(length, dtype=torch.uint8)
                view = found[number].numpy().data
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


def _tensors(description: dict[str, Any], storages: list[Tensor], path: Path) -> list[Tensor]:
    rows = description["tensors"]
    users = [0] * len(storages)
    for number, *_ in rows:
        users[number] += 1
    budget = MAX_RATIO * description["size"] + SLACK
    tensors = []
    for number, name, offset, shape, strides in rows:
        budget -= math.prod(shape) * ITEM_SIZES[name]
        if budget < 0:
            raise CheckpointError("contains tensors that are far larger than the file", where=str(path))
        tensor = _view(storages[number], name, offset, shape, strides, path)
        alone = users[number] == 1 and tensor.is_contiguous() and tensor.nbytes == storages[number].nbytes > 0
        own = storages[number].view(tensor.dtype).view(shape) if alone else None
        tensors.append(tensor.clone(memory_format=torch.contiguous_format) if own is None else own)
    return tensors


def _view(storage: Tensor, name: str, offset: int, shape: list[int], strides: list[int], path: Path) -> Tensor:
    """The tensor at this place of a storage; torch checks the bounds."""
    dtype: torch.dtype = getattr(torch, name)
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    if name == "bool" and bool((storage > 1).any()):
        raise CheckpointError("contains a Boolean that is neither 0 nor 1", where=str(path))
    whole = storage[: storage.nbytes // ITEM_SIZES[name] * ITEM_SIZES[name]]
    return whole.view(dtype).as_strided(shape, strides, offset)
