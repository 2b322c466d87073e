"""Devices by their names on the command line, and the arithmetic they are asked for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.backends import cuda, cudnn

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Plain

FULL = "ieee"


def device_named(name: str) -> torch.device:
    """The device of ``--device``: "auto" is CUDA if there is one, else the CPU; one that is not there is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is unknown", hint="auto, cpu, cuda, cuda:1 or mps") from None
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(device.type, False) or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise UsageError(f"device {name!r} is not there", hint="--device auto takes what is there.")
    return device


def described(device: torch.device) -> str:
    """The device as a run records it, a card with its name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and repeatable kernels inside, on a card too; the switches as they were on return.

    Without it cuDNN rounds what convolutions take to TF32, ten bits, and picks kernels that add in any order: by
    default, or as a caller's own program has set it.
    """
    precise: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, cuda.matmul)  # type: ignore[attr-defined] # missing in stubs
    before = [part.fp32_precision for part in precise]
    repeatable = cudnn.deterministic, cudnn.benchmark
    for part in precise:
        part.fp32_precision = FULL
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        for part, precision in zip(precise, before, strict=True):
            part.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = repeatable


def environment(device: torch.device) -> dict[str, Plain]:
    """Versions, device and threads, as a run records them."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "opencv-python", "kornia")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "device": described(device),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV is installed under several names, and a package may be copied into place
        return "unknown"
