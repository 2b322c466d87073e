"""Decoding of PNG and JPEG files, and resizing.

The header of a file is checked before OpenCV decodes it, so that an oversized image is never unpacked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.types import Images

PixelArray = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

MAX_IMAGE_BYTES = 64 * 2**20
MAX_PIXELS = 2**26
"""67 megapixels: more than a photograph, less than a decompression bomb."""

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"RIFF", "a WebP"),
    (b"BM", "a BMP"),
    (b"version https://git-lfs", "a Git-LFS pointer; git lfs pull fetches the image"),
    (b"<", "a web page"),
)
CMYK_COMPONENTS = 4
OPAQUE = 255
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_SCAN, _END = 0xDA, b"\xff\xd9"


def decode(content: bytes, where: str) -> PixelArray:
    """Decode a PNG or JPEG file to RGB bytes, shape (H, W, 3).

    Grey images get three equal channels, 16 bits are reduced to 8, an opaque alpha channel is dropped, and the EXIF
    orientation of a JPEG is applied.

    Raises:
        DataError: another format, transparent pixels, CMYK, more than 67 megapixels, or a damaged or truncated file.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise DataError(f"the image file has {len(content) / 2**20:.0f} MiB, the limit is 64 MiB", where=where)
    if content.startswith(PNG):
        width, height = png_size(content, where)
    elif content.startswith(JPEG):
        width, height = _jpeg_size(content, where)
    else:
        raise DataError(
            "the file is not a PNG or JPEG image",
            where=where,
            why=f"it is {other_format(content)}",
            hint="Replace it by a PNG or JPEG file, or remove its row from the table.",
        )
    require_size(width, height, where)
    return _decoded(content, cv2.IMREAD_UNCHANGED if content.startswith(PNG) else cv2.IMREAD_COLOR, where)


def other_format(content: bytes) -> str:
    """The format of a file that is neither PNG nor JPEG, in words."""
    kind = next((name for start, name in OTHER_FORMATS if content.startswith(start)), "an unknown format")
    return kind if content else "empty"


def require_size(width: int, height: int, where: str) -> None:
    """Refuses an image of no pixels or of more than 67 megapixels."""
    if not 0 < width * height <= MAX_PIXELS:
        why = f"from 1 to {MAX_PIXELS:,} pixels are supported"
        raise DataError(f"the image has {width} x {height} pixels", where=where, why=why)


def _decoded(content: bytes, mode: int, where: str) -> PixelArray:
    try:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    except cv2.error as error:
        raise DataError("the image cannot be decoded", where=where, why=str(error)) from None
    if found is None:
        raise DataError("the image cannot be decoded", where=where, why="the file is damaged")
    pixels = np.asarray(found)
    if pixels.dtype == np.uint16:
        pixels = np.right_shift(np.asarray(pixels, np.uint16), 8)
    pixels = np.asarray(pixels, np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if int(pixels[..., 3].min()) < OPAQUE:
            raise DataError("the image has transparent pixels", where=where, hint="Save it without an alpha channel.")
        pixels = pixels[..., :3]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1])


def png_size(content: bytes, where: str) -> tuple[int, int]:
    """Width and height of a PNG; raises unless every chunk is complete and has the right checksum."""
    place, size, kind = len(PNG), (0, 0), b""
    while kind != b"IEND":
        length = int.from_bytes(content[place : place + 4], "big")
        kind, end = content[place + 4 : place + 8], place + 8 + length
        checksum = content[end : end + 4]
        if len(checksum) < 4:
            raise DataError("the image is truncated", where=where)
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(checksum, "big"):
            raise DataError("the image is damaged", where=where, why="the checksum of a PNG chunk is wrong")
        if kind == b"IHDR" and length == 13:
            size = struct.unpack(">2I", content[place + 8 : place + 16])
        place = end + 4
    return size


def _jpeg_size(content: bytes, where: str) -> tuple[int, int]:
    """Width and height of a JPEG; raises unless the end marker is present."""
    for marker, start in _jpeg_segments(content):
        if marker in _FRAMES and len(content) >= start + 8:
            if content[start + 7] == CMYK_COMPONENTS:
                raise DataError("the image is CMYK", where=where, hint="Convert it to RGB.")
            if _END not in content[start:]:
                raise DataError("the image is truncated", where=where)
            height, width = struct.unpack(">2H", content[start + 3 : start + 7])
            return width, height
    raise DataError("the image is truncated", where=where, why="the JPEG has no frame header")


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """The markers before the first scan, each with the position of its length field."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _STANDALONE:
            place += 2
        elif marker == _START_OF_SCAN:
            return
        else:
            yield marker, place + 2
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")


def central_square(pixels: NDArray[Scalar], edge: int) -> NDArray[Scalar]:
    """Crop the central square of an image or mask, shape (edge, edge, ...)."""
    top, left = (pixels.shape[0] - edge) // 2, (pixels.shape[1] - edge) // 2
    return pixels[top : top + edge, left : left + edge]


def as_images(pixels: PixelArray) -> Images:
    """Convert bytes, shape (N, H, W, C), to images in [0, 1], shape (N, C, H, W)."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def resized(pixels: PixelArray, size: int) -> PixelArray:
    """Crop the central square and resize it, shape (size, size, C): area averaging to shrink, bilinear to enlarge."""
    edge = min(pixels.shape[:2])
    square = central_square(pixels, edge)
    if edge == size:
        return square
    how = cv2.INTER_AREA if size < edge else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=how), np.uint8)


def squeezed(pixels: PixelArray, size: int) -> PixelArray:
    """Resize the whole image to a square, shape (size, size, C), without keeping its proportions."""
    how = cv2.INTER_AREA if size < min(pixels.shape[:2]) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how), np.uint8)


def bilinear(images: PixelArray, size: int) -> PixelArray:
    """Resize square images bilinearly with Pillow, as published results on resized digits do.

    The filter is a triangle that widens when shrinking.

    Args:
        images: shape :math:`(N, H, W)`.
        size: edge of the result.

    Returns:
        Shape :math:`(N, size, size)`.

    >>> bilinear(np.array([[[0, 100], [0, 100]]], np.uint8), 4)[0, 0]
    array([  0,  25,  75, 100], dtype=uint8)
    """
    resized = np.empty((len(images), size, size), np.uint8)
    for row, image in zip(resized, images, strict=True):
        row[:] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return resized
