from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.images import decode as decoding
from ccvae_eval.data.images.decode import PNG, decode, resized

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)
SMOOTH = np.clip(np.add.outer(np.arange(40), np.arange(56))[..., None] * [1, 2, 0.5] + 30, 0, 255).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_png_is_exact() -> None:
    assert np.array_equal(decode(png(RGB[..., ::-1]), "x"), RGB)


def test_jpeg_is_close_and_keeps_the_channel_order() -> None:
    content = bytes(cv2.imencode(".jpg", SMOOTH[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1])
    assert np.abs(decode(content, "x").astype(int) - SMOOTH).max() < 12


def test_grey_and_16_bit_images() -> None:
    grey = RGB[..., 0]
    assert np.array_equal(decode(png(grey), "x"), np.repeat(grey[..., None], 3, axis=2))
    deep = RGB[..., ::-1].astype(np.uint16) * 256 + 77
    assert np.array_equal(decode(png(deep), "x"), RGB)
    assert np.array_equal(decode(png(deep[..., 0]), "x")[..., 1], RGB[..., 2])


def test_only_an_opaque_alpha_channel_is_dropped() -> None:
    opaque = np.dstack([RGB[..., ::-1], np.full(RGB.shape[:2], 255, np.uint8)])
    assert np.array_equal(decode(png(opaque), "x"), RGB)
    opaque[2, 3, 3] = 254
    with pytest.raises(DataError, match="transparent"):
        decode(png(opaque), "x")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"GIF89a....", "a GIF"),
        (b"II*\0....", "a TIFF"),
        (b"RIFF....WEBP", "a WebP"),
        (b"BM......", "a BMP"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git-LFS pointer"),
        (b"\0\1\2\3", "an unknown format"),
    ],
)
def test_other_formats_are_named(content: bytes, why: str) -> None:
    with pytest.raises(DataError, match=f"here/x.png: the file is not a PNG or JPEG image .it is {why}"):
        decode(content, "here/x.png")


def test_decompression_bombs_are_rejected_by_their_header() -> None:
    for width, height in ((50_000, 50_000), (0, 5), (2**31, 2**31)):
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        content = PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with pytest.raises(DataError, match=f"{width} x {height} pixels"):
            decode(content, "x")


def test_large_files_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_IMAGE_BYTES", 20)
    with pytest.raises(DataError, match="MiB"):
        decode(png(RGB), "x")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_truncated_images_are_rejected_at_every_length(ending: str) -> None:
    whole = bytes(cv2.imencode(ending, SMOOTH)[1])
    for size in range(len(whole)):
        if whole[:size].endswith(b"\xff\xd9"):
            continue
        with pytest.raises(DataError):
            decode(whole[:size], "x")


def test_damaged_pngs_are_rejected_at_every_byte() -> None:
    whole = png(RGB)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        with pytest.raises(DataError):
            decode(bytes(flipped), "x")


def test_a_damaged_jpeg_gives_an_error_or_an_image() -> None:
    whole = bytes(cv2.imencode(".jpg", SMOOTH)[1])
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        try:
            assert decode(bytes(flipped), "x").shape[2] == 3
        except DataError:
            continue


def test_a_png_with_invalid_pixel_data_is_rejected() -> None:
    head = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    content = PNG + chunk(b"IHDR", head) + chunk(b"IDAT", b"not deflated") + chunk(b"IEND", b"")
    with pytest.raises(DataError):
        decode(content, "x")


def test_cmyk_is_rejected() -> None:
    frame = struct.pack(">HBHHB", 20, 8, 4, 4, 4) + bytes(12)
    with pytest.raises(DataError, match="CMYK"):
        decode(b"\xff\xd8\xff\xc0" + frame + b"\xff\xd9", "x")


def test_shrinking_averages_areas_of_the_central_square() -> None:
    wide = RANDOM.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    expected = wide[:, 2:10].reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(resized(wide, 4) - expected).max() <= 0.5
    tall = wide.swapaxes(0, 1)
    assert np.array_equal(resized(tall, 8), tall[2:10])
    assert resized(wide, 20).shape == (20, 20, 3)
    assert resized(wide[:1, :1], 2).tolist() == np.broadcast_to(wide[0, 0], (2, 2, 3)).tolist()
