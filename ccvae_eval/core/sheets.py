"""Sheets of pictures as WebP images: many pictures of one size side by side, which is smaller than one file each."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = 8
"""Pictures side by side, for an array without rows and columns of its own."""
LONGEST_SIDE = 16_383
"""Pixels along a side of a WebP image."""


def layout(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the sheet of pictures of shape (n, H, W, C) or (..., columns, H, W, C).

    >>> layout((6, 11, 64, 64, 3)), layout((48, 64, 64, 3)), layout((3, 64, 64, 3))
    ((6, 11), (6, 8), (1, 3))
    """
    count = math.prod(shape[:-3])
    columns = shape[-4] if len(shape) > 4 else min(count, COLUMNS)
    return -(-count // max(columns, 1)), columns


def fits(pictures: NDArray[np.generic]) -> bool:
    """True for pictures that a sheet can hold: uint8, grey or colour, and not too many."""
    shape = pictures.shape
    if pictures.dtype.name != "uint8" or len(shape) < 4 or shape[-1] not in (1, 3) or not pictures.size:
        return False
    rows, columns = layout(shape)
    return bool(max(rows * shape[-3], columns * shape[-2]) <= LONGEST_SIDE)


def encoded(pictures: NDArray[np.generic], quality: int) -> bytes:
    """The sheet of pictures of shape (..., H, W, C) as a WebP image, with loss; the order is that of the array."""
    import numpy as np
    from PIL import Image

    height, width, channels = pictures.shape[-3:]
    rows, columns = layout(pictures.shape)
    tiles = np.full((rows * columns, height, width, channels), 255, np.uint8)
    flat = pictures.reshape(-1, height, width, channels)
    tiles[: len(flat)] = flat
    sheet = tiles.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    content = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(content, "webp", quality=quality, method=3)
    return content.getvalue()


def decoded(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pictures of a sheet, in the shape that :func:`encoded` was given.

    Raises:
        ValueError: the content is no sheet of pictures of this shape.
    """
    import numpy as np
    from PIL import Image

    height, width, channels = shape[-3:]
    rows, columns = layout(shape)
    try:
        sheet = Image.open(io.BytesIO(content), formats=["webp"])
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    with sheet as image:
        if image.size != (columns * width, rows * height):
            raise ValueError(f"a sheet of {image.size} pixels is not one of pictures {shape}")
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    tiles = pixels.reshape(rows, height, columns, width, channels).transpose(0, 2, 1, 3, 4)
    pictures: NDArray[np.uint8] = tiles.reshape(-1, height, width, channels)[: math.prod(shape[:-3])].reshape(shape)
    return pictures
