"""Files of the field's data sets in their released structure, with fewer values of each factor."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy.io import savemat

from ccvae_eval.data.sets.sprites import FACTOR_SIZES, Sprites

Pixels = NDArray[np.uint8]

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
LEVELS = ((0, 1, 2), range(6), (0, 10), (0, 16, 31), (8, 24))
"""The values of each factor of dSprites that the specimens hold."""
SIZES_3D = (2, 2, 2, 2, 4, 2)
"""Number of values of each factor of the specimens of 3D Shapes."""
CARS, AZIMUTHS, ELEVATIONS = 3, 4, 2


def noise(count: int, *shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def sprite_ids(levels: Sequence[Sequence[int]] = LEVELS) -> NDArray[np.int64]:
    """The images of ``sprites`` with these values of the factors, in the order of the file."""
    return np.ravel_multi_index(np.array(list(product(*levels))).T, FACTOR_SIZES)


def dsprites_arrays(levels: Sequence[Sequence[int]] = LEVELS) -> dict[str, NDArray[Any]]:
    """The arrays of the released file; the shape is counted from 1, as there."""
    ids, data = sprite_ids(levels), Sprites()
    classes = np.array(list(product((0,), *(range(len(values)) for values in levels))), np.int64)
    values = np.column_stack([np.ones(len(ids)), data.factors(ids)])
    values[:, 1] += 1
    images = data.batch(ids).images[:, 0].numpy().astype(np.uint8)
    metadata = np.array({"title": "dSprites dataset", "latents_sizes": np.array([1, *FACTOR_SIZES])}, object)
    return {"metadata": metadata, "imgs": images, "latents_classes": classes, "latents_values": values}


def dsprites(place: Path, packed: bool = True) -> Path:
    path = place / f"{DSPRITES}.npz"
    (np.savez_compressed if packed else np.savez)(path, **dsprites_arrays())
    return path


def dsprites_hdf5(place: Path, **storage: Any) -> Path:
    path, arrays = place / f"{DSPRITES}.hdf5", dsprites_arrays()
    with h5py.File(path, "w") as file:
        file.create_dataset("imgs", data=arrays["imgs"], **storage)
        file["latents/classes"], file["latents/values"] = arrays["latents_classes"], arrays["latents_values"]
    return path


def shapes3d_arrays() -> dict[str, NDArray[Any]]:
    values = [np.linspace(0, 0.9, n) for n in SIZES_3D[:3]]
    values += [np.linspace(0.75, 1.25, SIZES_3D[3]), np.arange(4.0), np.linspace(-30, 30, SIZES_3D[5])]
    labels = np.array(list(product(*values)))
    return {"images": noise(len(labels), 64, 64, 3), "labels": labels}


def shapes3d(place: Path, **storage: Any) -> Path:
    path = place / "3dshapes.h5"
    with h5py.File(path, "w") as file:
        for name, array in shapes3d_arrays().items():
            file.create_dataset(name, data=array, **(storage if name == "images" else {}))
    return path


MPI3D_SIZES = (2, 2, 2, 3, 1, 2, 2)


def mpi3d(place: Path, packed: bool = False) -> Path:
    path = place / "mpi3d_toy.npz"
    (np.savez_compressed if packed else np.savez)(path, images=noise(int(np.prod(MPI3D_SIZES)), 64, 64, 3))
    return path


def car(number: int) -> Pixels:
    """One car, shape (H, W, 3, azimuths, elevations)."""
    return (
        np.moveaxis(noise(ELEVATIONS * AZIMUTHS, 128, 128, 3, seed=number), 0, -1)
        .reshape(128, 128, 3, ELEVATIONS, AZIMUTHS)
        .swapaxes(3, 4)
    )


def cars3d(place: Path) -> Path:
    """Cars whose list is not in alphabetical order."""
    folder = place / "data" / "cars"
    folder.mkdir(parents=True)
    order = (2, 1, 3)
    (folder / "list.txt").write_text("".join(f"car_{number:03d}_mesh\n" for number in order))
    for number in order:
        arrays = {"im": car(number), "mask": np.zeros((128, 128, AZIMUTHS, ELEVATIONS), np.uint8)}
        savemat(folder / f"car_{number:03d}_mesh.mat", arrays, do_compression=True)
    return place


def binary_matrix(array: NDArray[Any]) -> bytes:
    """A matrix in the format of small NORB."""
    magic = 0x1E3D4C55 if array.dtype == np.uint8 else 0x1E3D4C54
    sizes = [*array.shape, *[1] * (3 - array.ndim)]
    return struct.pack(f"<ii{len(sizes)}i", magic, array.ndim, *sizes) + array.tobytes()


NORB_START = {
    "training": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "testing": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
NORB_INSTANCES = {"training": (4, 6), "testing": (0, 1)}


def norb_table(part: str) -> NDArray[np.int32]:
    """Category, instance, elevation, azimuth and lighting of each image, in the random order of the release."""
    rows = np.array(list(product((0, 4), NORB_INSTANCES[part], (0, 8), (0, 2, 34), (1, 5))), np.int32)
    return np.random.default_rng(len(part)).permutation(rows)


def norb_images(part: str) -> Pixels:
    """Both cameras, shape (N, 2, 96, 96)."""
    return noise(len(norb_table(part)), 2, 96, 96, seed=len(part))


def smallnorb(place: Path, packed: bool = False, parts: Sequence[str] = ("training", "testing")) -> Path:
    for part in parts:
        table = norb_table(part)
        arrays = {"dat": norb_images(part), "cat": np.ascontiguousarray(table[:, 0]), "info": table[:, 1:].copy()}
        for kind, array in arrays.items():
            content = binary_matrix(array)
            path = place / f"{NORB_START[part]}-{kind}.mat{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content, 1) if packed else content)
    return place


def png(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1])


def numbered(place: Path, count: int, edge: int = 16) -> Path:
    (place / "images").mkdir()
    for number, pixels in enumerate(noise(count, edge, edge, 3)):
        (place / "images" / f"{number:06d}.png").write_bytes(png(pixels))
    return place


def svhn(place: Path) -> Path:
    for name, count, seed in (("train", 30, 0), ("test", 10, 1)):
        digits = np.arange(count)[:, None] % 10 + 1
        images = np.moveaxis(noise(count, 32, 32, 3, seed=seed), 0, 3)
        savemat(place / f"{name}_32x32.mat", {"X": images, "y": digits.astype(np.uint8)})
    return place


def sparse_mpi3d(path: Path) -> Path:
    """An uncompressed .npz of the size of MPI3D, 12.7 GB of zeros that take no space on the disk."""
    shape = (1_036_800, 64, 64, 3)
    head = io.BytesIO()
    npy.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    size, name = head.tell() + int(np.prod(shape)), b"images.npy"
    wide = struct.pack("<HHQQ", 1, 16, size, size)
    sizes = (0xFFFFFFFF, 0xFFFFFFFF, len(name))
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, 0, *sizes, len(wide)) + name + wide
    entry = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 0, 0, 0, 0, *sizes, len(wide), 0, 0, 0, 0, 0)
    directory = entry + name + wide
    place = len(local) + size
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1, 1, len(directory), place)
    end += struct.pack("<IIQI", 0x07064B50, 0, place + len(directory), 1)
    end += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(directory), 0xFFFFFFFF, 0)
    with path.open("wb") as file:
        file.write(local + head.getvalue())
        file.seek(place)
        file.write(directory + end)
    return path
