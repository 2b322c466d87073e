"""Fixtures that write small image folders with OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Write = Callable[..., Path]


def encoded(pixels: NDArray[Any], suffix: str = ".png") -> bytes:
    """The bytes of an image file from RGB(A) or grey pixels."""
    swapped = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return bytes(cv2.imencode(suffix, np.ascontiguousarray(swapped))[1])


def picture(seed: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Write:
    """Writes a folder with a table and images, given by name or as a number of images."""

    def write(table: str, pictures: dict[str, NDArray[Any]] | int = 4, zipped: str = "", inside: str = "") -> Path:
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        named = {f"{i}.png": picture(i) for i in range(pictures)} if isinstance(pictures, int) else pictures
        if table:
            (folder / "attributes.csv").write_text(table)
        if zipped:
            with ZipFile(folder / zipped, "w") as archive:
                for name, pixels in named.items():
                    archive.writestr(inside + name, encoded(pixels))
            return folder
        for name, pixels in named.items():
            path = folder / inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(pixels, path.suffix))
        return folder

    return write
