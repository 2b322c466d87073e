"""Devices by their names on the command line."""

from __future__ import annotations

import torch

from ccvae_eval.errors import UsageError


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
