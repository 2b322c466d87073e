"""Every built-in data set conforms, and the suite names each defect of one that does not."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import UsageError
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.interface import Batch
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, data_sets
from ccvae_eval.testing import ContractBroken, check_data_set
from tests.support import grid_files
from tests.support.fakes import GradedSquares, Squares
from tests.support.parquet_files import shards

RNG = np.random.default_rng(0)


def npz(place: Path) -> str:
    images = RNG.integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(place / "arrays.npz", images=images, labels=RNG.integers(0, 2, (40, 2)), names=np.array(["a", "b"]))
    return f"npz:{place / 'arrays.npz'}"


def mnist(place: Path) -> str:
    for name, count in (("train", 30), ("t10k", 10)):
        images, labels = RNG.integers(0, 256, (count, 28, 28), np.uint8), RNG.integers(0, 10, count, np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            head = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
            (place / f"{name}-{kind}-idx{array.ndim}-ubyte").write_bytes(head + array.tobytes())
    return f"mnist:{place}"


def folder(place: Path) -> str:
    rows = ["file,Glasses,Hair"]
    for i in range(40):
        (place / f"{i}.png").write_bytes(cv2.imencode(".png", RNG.integers(0, 256, (8, 8, 3), np.uint8))[1].tobytes())
        rows.append(f"{i}.png,{i % 2},{'black' if i % 3 else 'grey'}")
    (place / "attributes.csv").write_text("\n".join(rows))
    return f"folder:{place}"


def celeba(place: Path) -> str:
    """Images of noise under the official file names."""
    (place / "img_align_celeba").mkdir()
    names, table, parts = [f"{i:06d}.jpg" for i in range(1, 21)], ["20", "Eyeglasses Male"], []
    for i, name in enumerate(names):
        pixels = cv2.imencode(".jpg", RNG.integers(0, 256, (218, 178, 3), np.uint8))[1]
        (place / "img_align_celeba" / name).write_bytes(pixels.tobytes())
        table.append(f"{name} {1 if i % 2 else -1:2d} {1 if i % 3 else -1:2d}")
        parts.append(f"{name} {i % 3}")
    (place / "list_attr_celeba.txt").write_text("\n".join(table))
    (place / "list_eval_partition.txt").write_text("\n".join(parts))
    return f"celeba:{place}"


def grid(name: str, write: Callable[[Path], Path], options: str = "") -> Callable[[Path], str]:
    """The spec of specimens of a data set of all combinations of factors."""
    return lambda place: f"{name}:{write(place)}{options}"


SPECS: Mapping[str, Callable[[Path], str]] = {
    "cars3d": grid("cars3d", grid_files.cars3d),
    "celeba": celeba,
    "digits": lambda place: "digits",
    "dsprites": grid("dsprites", grid_files.dsprites),
    "faces": lambda place: "faces,size=32",
    "falcor3d": grid("falcor3d", partial(grid_files.numbered, count=8), ",sizes=2|1|2|1|2|1|1"),
    "folder": folder,
    "isaac3d": grid("isaac3d", partial(grid_files.numbered, count=8), ",sizes=2|1|2|1|2|1|1|1|1"),
    "mnist": mnist,
    "mpi3d": grid("mpi3d", grid_files.mpi3d, f",sizes={'|'.join(map(str, grid_files.MPI3D_SIZES))}"),
    "npz": npz,
    "parquet": grid("parquet", shards),
    "shapes3d": grid("shapes3d", grid_files.shapes3d),
    "smallnorb": grid("smallnorb", grid_files.smallnorb),
    "sprites": lambda place: "sprites",
    "svhn": grid("svhn", grid_files.svhn),
    "swissroll": lambda place: "swissroll,n=200",
}
"""A small instance of every built-in data set. A data set that is missing here fails the suite."""


def test_every_built_in_data_set_is_listed():
    builtin = {r.name for r in data_sets.registrations() if r.distribution == BUILTIN_DISTRIBUTION}
    assert builtin == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_data_set(name, tmp_path):
    check_data_set(open_data(SPECS[name](tmp_path)))


class Strict(Squares):
    """The squares; unknown options are refused."""

    @classmethod
    def from_spec(cls, path, options):
        if set(options) - {"count"}:
            raise UsageError("unknown option")
        return super().from_spec(path, options)


def changed(of: Callable[[Batch], tuple[Any, Any, Any]]) -> Callable[[Any, Any], Batch]:
    return lambda self, ids: Batch(*of(Squares.batch(self, ids)))


DEFECTS: Mapping[str, dict[str, Any]] = {
    "hexadecimal": {"digest": "today"},
    "input_shape must be": {"input_shape": (32, 32)},
    "images must have shape": {"input_shape": (3, 16, 16)},
    "float32": {"batch": changed(lambda b: (b.images.double(), b.labels, b.ids))},
    r"in \[0, 1\]": {"batch": changed(lambda b: (b.images * 255, b.labels, b.ids))},
    "must be the requested ids": {"batch": changed(lambda b: (b.images, b.labels, np.sort(b.ids) + 1))},
    "values of their kind": {"batch": changed(lambda b: (b.images, b.labels + 3, b.ids))},
    r"labels_of\(ids\) must equal": {"labels_of": lambda self, ids: 1 - Squares.labels_of(self, ids)},
    "must depend on its id alone": {
        "batch": changed(lambda b: (b.images * torch.linspace(0.5, 1, len(b))[:, None, None, None], b.labels, b.ids))
    },
    "must not depend on its batch": {
        "batch": changed(lambda b: (b.images if len(b) > 1 else b.images / 2, b.labels, b.ids))
    },
    "must be ascending": {"split": lambda self, name: Squares.split(self, name)[::-1]},
    "ids of this data set": {"split": lambda self, name: Squares.split(self, name) + 1},
    "splits must be disjoint": {"split": lambda self, name: np.arange(4)},
    "must not be empty": {"split": lambda self, name: np.arange(0)},
    "must raise a UsageError": {"from_spec": classmethod(lambda cls, path, options: cls())},
    "region of 'Glasses' must have shape": {"region": lambda self, ids, label: np.zeros((1, 32, 32), bool)},
    "region of 'Glasses' must be boolean": {"region": lambda self, ids, label: np.zeros((len(ids), 32, 32))},
    "from its own variety": {"variety": lambda self, ids, label: Squares.variety(self, ids, label) + 1},
    "variety of": {"variety": lambda self, ids, label: np.zeros((len(ids), 2))},
}


def test_the_fake_conforms():
    check_data_set(Strict())


def test_counterfactuals_of_a_continuous_label_are_checked_with_its_own_values():
    class Graded(GradedSquares):
        from_spec = Strict.from_spec

    class Grey(Graded):
        def with_attribute(self, ids, label, value):
            assert label != "Smile" or 10 <= value.min() <= value.max() <= 50
            return super().with_attribute(ids, label, value)[:, : 1 if label == "Smile" else 3]

    check_data_set(Graded())
    with pytest.raises(ContractBroken, match="with_attribute"):
        check_data_set(Grey())


class Shifted(Faces):
    """Faces that are rendered with other labels than asked for."""

    def render(self, factors, labels):
        return super().render(factors, 1 - np.minimum(labels, 1))


def test_a_wrong_renderer_is_named():
    with pytest.raises(ContractBroken, match="render must reproduce an image"):
        check_data_set(Shifted(size=32))


@pytest.mark.parametrize("what", DEFECTS)
def test_each_defect_is_named(what):
    with pytest.raises(ContractBroken, match=what):
        check_data_set(type("Broken", (Strict,), DEFECTS[what])())
