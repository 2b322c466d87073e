"""Handwritten digits: ``mnist`` from the original idx files or an ``.npz``, and ``digits`` of scikit-learn."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.core.files import open_regular_file, read_regular_file
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.data.images.decode import bilinear
from ccvae_eval.data.labels.columns import MAX_TABLE_BYTES, csv_rows, labels_from_array
from ccvae_eval.data.memory import InMemory, checked_arrays
from ccvae_eval.data.sets.npz import open_arrays, read_arrays
from ccvae_eval.data.spec import Options, refuse_path, require_path
from ccvae_eval.data.splits import split_by_name, split_official
from ccvae_eval.model.interface import Label, LabelSchema

DIGITS, FASHION, KUZUSHIJI = "digits", "fashion", "kmnist"
LABELS = MappingProxyType(
    {
        DIGITS: Label("digit", "categorical", tuple("0123456789")),
        FASHION: Label(
            "class",
            "categorical",
            (
                "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                "Ankle boot",
            ),
        ),
        KUZUSHIJI: Label("class", "categorical", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    }
)  # fmt: skip
"""The label of the data sets that are released under the same file names."""
FOLDER_NAMES = (("fashion", FASHION), ("kmnist", KUZUSHIJI), ("kuzushiji", KUZUSHIJI))
SCHEMA = LabelSchema((LABELS[DIGITS],))
RAW = "raw"
"""Folder into which torchvision unpacks the files."""
INDEX = "index"
PERTURBATION = Label("perturbation", "categorical", ("plain", "thinned", "thickened", "swollen", "fractured"))
EDGE = 28
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
MAX_IMAGES, MAX_EDGE = 1_000_000, 512
MAX_BYTES = 1 << 29
"""Limit of a file; npz:PATH reads more images."""
TRAIN, TEST = "train", "t10k"

Bytes = NDArray[np.uint8]


class Mnist(InMemory):
    """``mnist:PATH[,size=28] [,rotations=0|15|30] [,morpho=true] [,classes=fashion]``: handwritten digits.

    The label is ``digit``, with the classes "0" to "9". FashionMNIST and KMNIST have the same file names: in a folder
    with "fashion", "kmnist" or "kuzushiji" in its name the label is ``class``, with the names of their classes;
    ``classes=digits``, ``classes=fashion`` and ``classes=kmnist`` choose.

    PATH is a folder with the idx files (``train-images-idx3-ubyte`` and so on, with or without ``.gz``, also in its
    folder ``raw``), or an ``.npz`` (or a folder with a single one) with ``images`` (N, 28, 28) and ``labels``, or with
    Keras's ``x_train, y_train, x_test, y_test``. If the files have official splits, these are kept and a quarter of
    train becomes the judge's; otherwise splits follow from a hash of the position. Another ``size`` is resized
    bilinearly, exactly as by Pillow.

    ``rotations`` rotates each image counter-clockwise, before resizing, by one of the given angles in degrees, drawn
    at random from ``seed``. The angle becomes the categorical label ``angle``, the domain of DIVA (Ilse, Tomczak,
    Louizos and Welling 2020: 0|15|30|45|60|75).

    ``morpho=true`` adds the continuous labels in ``train-morpho.csv`` and ``t10k-morpho.csv``, such as area, thickness
    and slant (Morpho-MNIST, Castro et al. 2019), and the categorical label ``perturbation`` if there are files
    ``train-pert-idx1-ubyte``. ``labels=digit|slant`` chooses labels.
    """

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options("mnist", options)
        size = read.integer("size", EDGE, low=1, high=MAX_EDGE)
        angles = _angles(read.names("rotations"))
        seed, morpho = read.integer("seed", 0), read.text("morpho", "false", ("true", "false")) == "true"
        kind, chosen = read.text("classes", "", ("", *LABELS)), read.names("labels")
        read.finish()
        place = Path(require_path("mnist", path, "a folder with the idx files, or an .npz"))
        if (place / RAW).is_dir() and not any(place.glob("*-ubyte*")):
            place /= RAW
        images, digits, is_test = _from_folder(place) if place.is_dir() else _from_archive(place)
        where = str(place)
        if images.dtype != np.uint8 or images.shape != (len(digits), EDGE, EDGE) or not len(digits):
            raise DataError(
                f"images have the shape {images.shape} and type {images.dtype}, with {len(digits)} labels",
                where=where,
                hint="Expected uint8 images of shape (N, 28, 28) and N labels.",
            )
        label = LABELS[kind or _kind_of(place)]
        schema, labels = labels_from_array(digits, LabelSchema((label,)), where)
        spec = f"mnist:{path}" + (f",size={size}" if size != EDGE else "") + (f",classes={kind}" if kind else "")
        if morpho:
            schema, labels = _with_morphometrics(schema, labels, place)
            spec += ",morpho=true"
        if angles:
            schema, labels, images = _rotated(schema, labels, images, angles, seed)
            spec += f",rotations={'|'.join(angles)}" + (f",seed={seed}" if seed else "")
        if chosen:
            labels, schema = labels[:, [schema.index(name) for name in chosen]], schema.select(chosen)
            spec += f",labels={'|'.join(chosen)}"
        resized = images if size == EDGE else bilinear(images, size)
        names = [str(i) for i in range(len(digits))]
        splits = split_official(is_test, names) if is_test.any() else split_by_name(names)
        return cls(resized[:, None], schema, labels, splits, spec)


def _angles(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Parse the option ``rotations`` to the names of the angle classes.

    Raises:
        UsageError: fewer than two angles, a repeated angle, or text that is not a number.
    """
    try:
        angles = tuple(f"{float(text):g}" for text in texts)
    except ValueError:
        angles = ("nan",)
    if texts and (len(set(angles)) != len(angles) or len(angles) < 2 or not np.isfinite([*map(float, angles)]).all()):
        raise UsageError(
            f"rotations must be two or more different angles, got {'|'.join(texts)!r}",
            where="mnist",
            hint="Write rotations=0|15|30.",
        )
    return angles


def _rotated(
    schema: LabelSchema, labels: NDArray[np.float32], images: Bytes, angles: tuple[str, ...], seed: int
) -> tuple[LabelSchema, NDArray[np.float32], Bytes]:
    """Rotate each image by an angle of its own, and add the angle as a label."""
    domain = numpy_stream(seed, "mnist/angle").integers(0, len(angles), len(images))
    rotated = np.empty_like(images)
    center = ((EDGE - 1) / 2, (EDGE - 1) / 2)
    for index, angle in enumerate(angles):
        matrix = cv2.getRotationMatrix2D(center, float(angle), 1.0)
        for row in np.flatnonzero(domain == index):
            rotated[row] = cv2.warpAffine(images[row], matrix, (EDGE, EDGE), flags=cv2.INTER_LINEAR)
    extended = LabelSchema((*schema, Label("angle", "categorical", angles)))
    return extended, np.column_stack([labels, domain]).astype(np.float32), rotated


def _kind_of(place: Path) -> str:
    """The data set in a folder or file, by its name."""
    place = place.absolute()
    name = (place.parent.name if place.name == RAW else place.stem).lower()
    return next((kind for part, kind in FOLDER_NAMES if part in name), DIGITS)


def _with_morphometrics(
    schema: LabelSchema, labels: NDArray[np.float32], folder: Path
) -> tuple[LabelSchema, NDArray[np.float32]]:
    """Add the columns of the morphometric tables, and the perturbations if they are known for every image."""
    if not folder.is_dir():
        raise UsageError("morpho=true needs a folder with the idx files and their tables", where=str(folder))
    parts = [name for name in (TRAIN, TEST) if _idx_file(folder, f"{name}-images", 3) is not None]
    tables = [_morphometrics(folder / f"{name}-morpho.csv") for name in parts]
    names = list(tables[0]) if tables else []
    odd = next((part for part, table in zip(parts, tables, strict=True) if list(table) != names), None)
    if odd is not None:
        raise DataError(f"the columns are not those of {parts[0]}-morpho.csv", where=str(folder / f"{odd}-morpho.csv"))
    columns = [np.concatenate([table[name] for table in tables]) for name in names]
    added = [Label(name, "continuous") for name in names]
    perturbed = [path for name in parts if (path := _idx_file(folder, f"{name}-pert", 1)) is not None]
    if perturbed and len(perturbed) == len(parts):
        columns.append(np.concatenate([read_idx(path, LABELS_MAGIC) for path in perturbed]).astype(np.float32))
        added.append(PERTURBATION)
    rows = next((len(column) for column in columns if len(column) != len(labels)), len(labels))
    if rows != len(labels) or not columns:
        raise DataError(f"the tables have {rows} rows, the images are {len(labels)}", where=str(folder))
    extended, values = LabelSchema((*schema, *added)), np.column_stack([labels, *columns]).astype(np.float32)
    extended.validate(torch.from_numpy(values), str(folder))
    return extended, values


def _morphometrics(path: Path) -> dict[str, NDArray[np.float32]]:
    """The columns of a table with one row of numbers for each image, in the order of ``index``."""
    content = io.BytesIO(read_regular_file(path, MAX_TABLE_BYTES, DataError))
    head, *rows = [*csv_rows(content, str(path))] or [[]]
    odd = next((number for number, row in enumerate(rows, start=2) if len(row) != len(head)), None)
    if odd is not None or INDEX not in head or len(head) < 2 or len(set(head)) < len(head):
        what = "the file is not a table of morphometrics"
        raise DataError(what, where=f"{path}: line {odd or 1}", hint="Expected index,area,length,thickness,...")
    try:
        table = np.array([[float(cell or "nan") for cell in row] for row in rows]).reshape(len(rows), len(head))
    except ValueError as error:
        raise DataError("a cell is not a number", where=str(path), why=str(error)) from None
    place = head.index(INDEX)
    order = np.argsort(table[:, place])
    if not np.array_equal(table[order, place], np.arange(len(table))):
        raise DataError("index must number the images from 0", where=str(path))
    return {name: table[order, i].astype(np.float32) for i, name in enumerate(head) if i != place}


def _from_archive(path: Path) -> tuple[Bytes, NDArray[np.int64], NDArray[np.bool_]]:
    if "x_train" in open_arrays(path, ()):
        arrays = read_arrays(path, ("x_train", "y_train", "x_test", "y_test"), (), MAX_BYTES)
        parts = [(arrays["x_train"], arrays["y_train"], False), (arrays["x_test"], arrays["y_test"], True)]
        return _concatenated(parts, str(path))
    arrays = read_arrays(path, ("images", "labels"), (), MAX_BYTES)
    return _concatenated([(arrays["images"], arrays["labels"], False)], str(path))


def _from_folder(folder: Path) -> tuple[Bytes, NDArray[np.int64], NDArray[np.bool_]]:
    parts = []
    for name, official in ((TRAIN, False), (TEST, True)):
        images, labels = _idx_file(folder, f"{name}-images", 3), _idx_file(folder, f"{name}-labels", 1)
        if images and labels:
            parts.append((read_idx(images, IMAGES_MAGIC), read_idx(labels, LABELS_MAGIC), official))
    archives = sorted(folder.glob("*.npz"))
    if not parts and len(archives) == 1:
        return _from_archive(archives[0])
    if not parts:
        raise DataError(
            "the folder contains no MNIST files",
            where=str(folder),
            hint="Expected train-images-idx3-ubyte[.gz] with train-labels-idx1-ubyte[.gz], or a single .npz.",
        )
    return _concatenated(parts, str(folder))


def _concatenated(
    parts: list[tuple[NDArray[np.uint8], NDArray[np.uint8], bool]], where: str
) -> tuple[Bytes, NDArray[np.int64], NDArray[np.bool_]]:
    for images, labels, _ in parts:
        if images.ndim != 3 or labels.shape != (len(images),) or images.shape[1:] != parts[0][0].shape[1:]:
            raise DataError(f"images of shape {images.shape} do not match labels of shape {labels.shape}", where=where)
    images, labels, is_test = zip(*((*part[:2], np.full(len(part[1]), part[2])) for part in parts), strict=True)
    return np.concatenate(images), np.concatenate(labels), np.concatenate(is_test)


def _idx_file(folder: Path, start: str, dimensions: int) -> Path | None:
    """The idx file under any of its usual names, or None."""
    paths = (folder / f"{start}{mark}idx{dimensions}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz"))
    return next((path for path in paths if path.exists()), None)


def read_idx(path: Path, magic: int) -> Bytes:
    """Read an idx file of bytes, compressed or not, with the shape in its header.

    Raises:
        DataError: another format, or a length that differs from the header's.
    """
    dimensions = magic & 0xFF
    head_bytes = 4 + 4 * dimensions
    try:
        with (
            open_regular_file(path, DataError) as descriptor,
            open(descriptor, "rb", closefd=False) as packed,
            gzip.open(packed) if path.suffix == ".gz" else packed as file,
        ):
            head = np.frombuffer(file.read(head_bytes), ">u4")
            shape = tuple(int(n) for n in head[1:])
            fits = len(head) == dimensions + 1 and head[0] == magic
            if not fits or shape[0] > MAX_IMAGES or max(shape[1:], default=0) > MAX_EDGE:
                kind = "images" if magic == IMAGES_MAGIC else "labels"
                raise DataError(f"the file is not an idx file of {kind}", where=str(path))
            expected = math.prod(shape)
            if expected > MAX_BYTES:
                raise DataError(
                    f"the images have {expected:,} bytes", where=str(path), why=f"the limit is {MAX_BYTES >> 20} MiB"
                )
            content = file.read(expected + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error)) from None
    if len(content) != expected:
        found = "more" if len(content) > expected else f"only {len(content)}"
        raise DataError(
            "the file is damaged", where=str(path), why=f"its header gives {expected} bytes, it contains {found}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


DIGITS_EDGE = 8
BRIGHTEST = 16


class Digits(InMemory):
    """``digits[,size=32]``: real handwriting without a download, 8 x 8 pixels of 17 greys (Alpaydin and Kaynak 1998).

    The only label is ``digit``. ``size=8`` keeps the original pixels, divided by 16; another size is resized bilinearly
    from bytes. The default of 32 suits the convolutional networks. Splits follow from a hash of the position.
    """

    needs_no_path: ClassVar[bool] = True

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("digits", path)
        read = Options("digits", options)
        size = read.integer("size", 32, low=DIGITS_EDGE, high=512)
        read.finish()
        from sklearn.datasets import load_digits  # scikit-learn takes a second to import

        found = load_digits()
        grey = np.asarray(found.images, np.float32) / BRIGHTEST
        images = grey if size == DIGITS_EDGE else bilinear(np.rint(grey * 255).astype(np.uint8), size)
        arrays = checked_arrays(images, np.asarray(found.target), SCHEMA, None, "digits")
        return cls(*arrays, f"digits,size={size}")
