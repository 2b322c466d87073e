"""Modules with the class and attribute names of the public CCVAE implementations, to write checkpoints like theirs.

:func:`saved` pickles them under their public names (``models.networks.CELEBAEncoder``) without leaving such a module in
``sys.modules``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import nn
from torch.nn import functional


class View(nn.Module):
    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(self.size)


class CELEBAEncoder(nn.Module):
    """``joined``: one layer for mean and scale, as in the Pyro code."""

    def __init__(self, latent: int, joined: bool = False) -> None:
        super().__init__()
        self.z_dim, self.joined = latent, joined
        sizes = ((3, 32), (32, 32), (32, 64), (64, 128))
        layers: list[nn.Module] = []
        for inside, outside in sizes:
            layers += [nn.Conv2d(inside, outside, 4, 2, 1), nn.ReLU(True)]
        layers += [nn.Conv2d(128, 256, 4, 1), nn.ReLU(True), View((-1, 256))]
        self.encoder = nn.Sequential(*layers, *([nn.Linear(256, 2 * latent)] if joined else []))
        self.locs, self.scales = nn.Linear(256, latent), nn.Linear(256, latent)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        loc, raw = (h[:, : self.z_dim], h[:, self.z_dim :]) if self.joined else (self.locs(h), self.scales(h))
        return loc, torch.clamp(functional.softplus(raw), min=1e-3)


class CELEBADecoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        sizes = ((128, 64), (64, 32), (32, 32), (32, 3))
        layers: list[nn.Module] = [nn.Linear(latent, 256), View((-1, 256, 1, 1)), nn.ReLU(True)]
        layers.append(nn.ConvTranspose2d(256, 128, 4))
        for inside, outside in sizes:
            layers += [nn.ReLU(True), nn.ConvTranspose2d(inside, outside, 4, 2, 1)]
        self.decoder = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(z)
        return out


class Diagonal(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight, self.bias = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))


class Classifier(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.diag = Diagonal(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.diag.weight + self.diag.bias


class CondPrior(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("loc_true", "loc_false", "scale_true", "scale_false"):
            setattr(self, f"diag_{name}", nn.Parameter(torch.randn(dim)))

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc = y * self.diag_loc_true + (1 - y) * self.diag_loc_false
        raw = y * self.diag_scale_true + (1 - y) * self.diag_scale_false
        return loc, torch.clamp(functional.softplus(raw), min=1e-3)


class Classifier_mc(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.categorical_params = nn.Linear(1, classes)


class CondPrior_mc(nn.Module):
    """``listed``: parameters in a Python list, as in the first version of the fork."""

    def __init__(self, classes: int, listed: bool) -> None:
        super().__init__()
        loc = [nn.Parameter(torch.randn(1)) for _ in range(classes)]
        scale = [nn.Parameter(torch.randn(1)) for _ in range(classes)]
        self.diag_loc = loc if listed else nn.ParameterList(loc)
        self.diag_scale = scale if listed else nn.ParameterList(scale)


MODULE = "models.networks"
"""Module of these classes in both public implementations."""


def saved(folder: Path, legacy: bool = False, **modules: nn.Module) -> Path:
    """A folder as written by ``save_models`` of the public code: one pickled module per file."""
    folder.mkdir()
    public = ModuleType(MODULE)
    public.__file__ = __file__
    kinds = (View, CELEBAEncoder, CELEBADecoder, Diagonal, Classifier, CondPrior, Classifier_mc, CondPrior_mc)
    for kind in kinds:
        kind.__module__ = MODULE
        setattr(public, kind.__name__, kind)
    with mock.patch.dict(sys.modules, {"models": ModuleType("models"), MODULE: public}):
        for name, module in modules.items():
            torch.save(module, folder / f"{name}.pt", _use_new_zipfile_serialization=not legacy)
    return folder
