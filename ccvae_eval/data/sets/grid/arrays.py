"""Grids in one array: ``dsprites``, ``shapes3d`` and ``mpi3d``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from ccvae_eval.core.errors import DataError, listed
from ccvae_eval.data.sets.grid.grid import Contents, Grid, counted_factors, file_at, grid_of
from ccvae_eval.data.sets.grid.rows import Hdf5File, open_arrays
from ccvae_eval.data.sets.sprites import SHAPES

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"


class DSprites(Grid):
    """``dsprites:PATH[,labels=A|B:continuous] [,size=64]``: the released file of dSprites (Matthey et al. 2017).

    PATH is ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`` or ``.hdf5``, ``dsprite_train.npz``, or a folder with one
    of them. Factors are shape, scale, orientation, posX and posY; color has one value. The first and the last
    orientation, 0 and 2 pi, are one picture. The pickled ``metadata`` is not read. The data set ``sprites`` draws the
    same images.
    """

    name = "dsprites"
    expected = f"{DSPRITES}.npz, its .hdf5 or their folder"

    @classmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        del sizes
        path = file_at(place, (f"{DSPRITES}.npz", f"{DSPRITES}.hdf5", f"{DSPRITES}.h5", "dsprite_train.npz"))
        file = open_arrays(path, ("imgs", "latents_values"))
        values = "latents/values" if isinstance(file, Hdf5File) else "latents_values"
        rows, _ = file.rows("imgs")
        classes = {"shape": SHAPES}
        factors, order = grid_of(file.table(values, len(rows)), DSPRITES_FACTORS, f"{path}: {values}", classes)
        official = DSPRITES_MD5 if isinstance(file, Hdf5File) else ()
        return Contents(factors, rows, order, bits=True, files=(path,), official=official)


DSPRITES_MD5 = ("b331c4447a651c44bf5e8ae09022e230",)
"""Of the HDF5 file; that of the .npz is not known."""
DSPRITES_FACTORS = ("color", "shape", "scale", "orientation", "posX", "posY")


class Shapes3D(Grid):
    """``shapes3d:PATH[,labels=A|B:continuous] [,size=64]``: the released file of 3D Shapes (Burgess and Kim 2018).

    PATH is ``3dshapes.h5``, ``shapes3d.npz``, or a folder with one of them. Factors are floor_hue, wall_hue,
    object_hue, scale, shape and orientation. A file without labels must have one axis for each factor.
    """

    name = "shapes3d"
    expected = "3dshapes.h5, shapes3d.npz or their folder"

    @classmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        del sizes
        path = file_at(place, ("3dshapes.h5", "shapes3d.npz", "3dshapes.npz"))
        file = open_arrays(path, ("images", "labels"))
        rows, lead = file.rows("images", axes=0)
        if len(lead) == len(SHAPES3D_FACTORS):
            factors = counted_factors(list(zip(SHAPES3D_FACTORS, lead, strict=True)), (), cls.name, SHAPES3D_CLASSES)
            return Contents(factors, rows)
        if len(lead) != 1:
            wanted = f"one axis, or one for each of {listed(SHAPES3D_FACTORS)}"
            raise DataError(f"the images have {len(lead)} axes before their pixels", where=str(path), hint=wanted)
        table = file.table("labels", len(rows))
        factors, order = grid_of(table, SHAPES3D_FACTORS, f"{path}: labels", SHAPES3D_CLASSES)
        official = SHAPES3D_MD5 if isinstance(file, Hdf5File) else ()
        return Contents(factors, rows, order, files=(path,), official=official)


SHAPES3D_FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
SHAPES3D_CLASSES = MappingProxyType({"shape": ("cube", "cylinder", "sphere", "capsule")})
SHAPES3D_MD5 = ("099a2078d58cec4daad0702c55d06868",)


class Mpi3D(Grid):
    """``mpi3d:PATH[,labels=A|B:continuous] [,size=64] [,sizes=6|6|2|3|3|40|40]``: MPI3D (Gondal et al. 2019).

    PATH is ``mpi3d_toy.npz``, ``mpi3d_realistic.npz``, ``mpi3d_real.npz`` or
    ``real3d_complicated_shapes_ordered.npz``. The files have no labels: 1,036,800 images have 6 colors and 6 shapes,
    460,800 images have 4 of each, and ``sizes`` describes another file. Images of an uncompressed file are read in
    place; a compressed one is unpacked once into the cache.
    """

    name = "mpi3d"
    expected = "mpi3d_toy.npz or another file of MPI3D"
    has_sizes = True

    @classmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        path = file_at(place, MPI3D_FILES)
        rows, _ = open_arrays(path, ("images",)).rows("images")
        if not sizes and len(rows) not in MPI3D_COLORS:
            known = " or ".join(f"{count:,}" for count in MPI3D_COLORS)
            raise DataError(
                f"the file has {len(rows):,} images, MPI3D has {known}",
                where=str(path),
                hint=f"Give the number of values of {', '.join(MPI3D_FACTORS)} as sizes=6|6|2|3|3|40|40.",
            )
        kinds = MPI3D_COLORS.get(len(rows), 6)
        known_sizes = list(zip(MPI3D_FACTORS, (kinds, kinds, 2, 3, 3, 40, 40), strict=True))
        factors = counted_factors(known_sizes, sizes, cls.name, MPI3D_CLASSES)
        return Contents(factors, rows, files=(path,), official=MPI3D_MD5.get(path.name, ()))


MPI3D_FILES = ("mpi3d_toy.npz", "mpi3d_realistic.npz", "mpi3d_real.npz", "real3d_complicated_shapes_ordered.npz")
MPI3D_COLORS = MappingProxyType({1_036_800: 6, 460_800: 4})
"""Number of colors, which is that of shapes, by the number of images."""
MPI3D_FACTORS = (
    "object_color", "object_shape", "object_size", "camera_height", "background_color", "horizontal_axis",
    "vertical_axis",
)  # fmt: skip
MPI3D_CLASSES = MappingProxyType(
    {
        "object_color": ("white", "green", "red", "blue", "brown", "olive"),
        "object_shape": ("cone", "cube", "cylinder", "hexagonal", "pyramid", "sphere"),
        "object_size": ("small", "large"),
        "camera_height": ("top", "center", "bottom"),
        "background_color": ("purple", "sea green", "salmon"),
    }
)
"""As in the README of the data (https://github.com/rr-learning/disentanglement_dataset)."""
MPI3D_MD5 = MappingProxyType(
    {
        "mpi3d_toy.npz": ("55889cb7c7dfc655d6e0277beee88868",),
        "mpi3d_realistic.npz": ("59a6225b88b635365f70c91b3e52f70f",),
        "mpi3d_real.npz": ("0f33f609918fb5c97996692f91129802",),
    }
)
