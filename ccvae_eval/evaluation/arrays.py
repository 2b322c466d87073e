"""Arrays in the files of a run: compressed archives, and pictures.npz with the pictures of a run."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ccvae_eval.core import sheets
from ccvae_eval.core.array_files import SUFFIX, ArrayFile
from ccvae_eval.core.errors import InputError
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import PICTURES_FILE
from ccvae_eval.rendering.text import under

LARGEST_PICTURES = 128 << 20
"""Bytes of the pictures before compression; pictures beyond it are not stored."""
QUALITY = 90
"""Quality of the WebP sheets, from 0 to 100."""
ARRAYS, SHEETS, SHAPES, GALLERY = "arrays", "sheets", "shapes", "gallery"
OF_EVIDENCE = "evidence-sha256"
"""Name of the entry of pictures.npz that ties it to its run: the digest of the run's evidence."""


def packed(arrays: Iterable[tuple[str, NDArray[np.generic]]]) -> bytes:
    """A compressed archive of named arrays with the bytes of ``np.savez_compressed``, which would need all at once."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}{SUFFIX}", "w", force_zip64=True) as member:
                npy.write_array(member, np.asanyarray(array), allow_pickle=False)
    return file.getvalue()


def packed_pictures(run: Run) -> bytes:
    """The content of pictures.npz, b"" without pictures; single images are stored with a small loss, as sheets."""
    pictures = _stored_pictures(run)
    if not pictures or run.evidence_file is None:
        return b""
    return packed({OF_EVIDENCE: np.array(run.evidence_file["sha256"]), **pictures}.items())


def _stored_pictures(run: Run) -> dict[str, NDArray[np.generic]]:
    """The run's pictures as entries of pictures.npz, up to ``LARGEST_PICTURES``."""
    sources = {GALLERY: run.gallery, **{m.metric: m.pictures for m in run.measurements}}
    entries: dict[str, NDArray[np.generic]] = {}
    size = 0
    for owner, pictures in sources.items():
        for name, picture in pictures.items():
            array, key = np.asarray(picture), f"{owner}/{name}"
            size += array.nbytes
            if size > LARGEST_PICTURES or array.dtype.hasobject:
                continue
            if sheets.fits(array):
                entries[f"{SHEETS}/{key}"] = np.frombuffer(sheets.encoded(array, QUALITY), np.uint8)
                entries[f"{SHAPES}/{key}"] = np.array(array.shape)
            else:
                entries[f"{ARRAYS}/{key}"] = array
    return entries


def with_pictures(run: Run, folder: Path) -> Run:
    """The run with its pictures; without them if there is no file, or if it belongs to another run."""
    file = folder / PICTURES_FILE
    if run.evidence_file is None or not file.exists():
        return run
    entries = dict(ArrayFile(file, limit=2 * LARGEST_PICTURES))
    try:
        shapes = {key: tuple(map(int, shape)) for key, shape in under(entries, SHAPES).items()}
        size = sum(array.nbytes for array in entries.values()) + sum(math.prod(shape) for shape in shapes.values())
        if size > 2 * LARGEST_PICTURES:
            raise InputError("pictures are too large", where=str(file), why=f"more than {LARGEST_PICTURES >> 20} MiB")
        if str(entries.get(OF_EVIDENCE)) != run.evidence_file.get("sha256"):
            return run
        single = {key: sheets.decoded(s.tobytes(), shapes[key]) for key, s in under(entries, SHEETS).items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError("pictures cannot be read", where=str(file), why=str(error)) from None
    found = {**under(entries, ARRAYS), **single}
    measurements = tuple(replace(m, pictures=under(found, m.metric)) for m in run.measurements)
    return replace(run, measurements=measurements, gallery=under(found, GALLERY))
