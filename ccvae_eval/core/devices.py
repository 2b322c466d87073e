"""Devices by their command-line names, arithmetic with reproducible bits, and the environment that a run records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ccvae_eval.core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from ccvae_eval.core.types import Floats, Plain

FULL_PRECISION = "ieee"
"""Torch's name for float32 without TF32 rounding."""

PRECISIONS = ("float32", "bf16")
"""Arithmetic of the networks of a model; the first is the default."""


def require_device_name(name: str) -> None:
    """Refuses what can be no device of any machine, without asking torch.

    Raises:
        UsageError: the name is unknown.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise UsageError(f"device {name!r} is unknown", hint="Use auto, cpu, cuda, cuda:1 or mps.")


def device_named(name: str) -> torch.device:
    """Returns the device that ``--device`` names; "auto" is CUDA if available, else the CPU.

    Raises:
        UsageError: the name is unknown, or the device is not available.
    """
    import torch

    require_device_name(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable[device.type] or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        found = torch.cuda.device_count() if device.type == "cuda" else 0
        build = f"torch {torch.__version__}" + (" is the CPU build" if torch.version.cuda is None else "")
        missing = "no CUDA GPU found" if device.type == "cuda" and not found else f"device {name!r} is not available"
        raise UsageError(
            missing,
            why=f"{build}, with {found} CUDA GPUs" if found else build,
            hint="--device auto uses CUDA if it is available, else the CPU.",
        )
    return device


def require_precision(name: str) -> None:
    """Refuses what is not one of ``PRECISIONS``.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 precision and deterministic kernels inside; restores the caller's settings on return.

    By default cuDNN may round the inputs of convolutions to TF32 (10 mantissa bits) and choose kernels that add in an
    arbitrary order.
    """
    from torch.backends import cuda, cudnn

    precise: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, cuda.matmul)  # type: ignore[attr-defined] # missing in stubs
    before = [part.fp32_precision for part in precise]
    deterministic = cudnn.deterministic, cudnn.benchmark
    for part in precise:
        part.fp32_precision = FULL_PRECISION
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        for part, precision in zip(precise, before, strict=True):
            part.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = deterministic


def environment(device: torch.device) -> dict[str, Plain]:
    """Returns versions, the device (a GPU with its model) and the number of threads, as a run records them."""
    import platform

    import torch

    packages = ("torch", "numpy", "scipy", "scikit-learn", "opencv-python", "kornia")
    model = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "device": f"{device}{model}",
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV has several distribution names, and a package may be copied into place
        return "unknown"


@cache
def _controller() -> Any:
    import scipy.linalg  # noqa: F401  (loads SciPy's own BLAS, so that the controller finds it)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs matrix products inside the block on one thread, so that sums have equal bits for any number of threads."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


def column_products(values: Floats, weights: Floats) -> Floats:
    r"""``values.T @ weights``, where the bits of a row of the result do not depend on the other columns of ``values``.

    BLAS chooses its kernels by the shape of the matrices; the columns are therefore multiplied one by one.

    Args:
        values: shape :math:`(N, C)`.
        weights: shape :math:`(N, B)`.

    Returns:
        Products, shape :math:`(C, B)`.
    """
    import numpy as np

    columns = np.ascontiguousarray(values.T)
    with one_thread():
        products = [column @ weights for column in columns]
    return np.stack(products) if products else np.empty((0, weights.shape[1]))
