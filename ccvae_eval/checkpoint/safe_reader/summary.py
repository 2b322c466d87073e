"""Detection of a checkpoint file's format, and the description of its content as plain data, without tensor data."""

from __future__ import annotations

from typing import Any

from . import safetensors, tarred, zipped
from .source import RefusedError, Source, truncated

MAX_FILE_BYTES = 8 << 30
HEAD = 512
OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file (Keras)", b"GGUF": "a GGUF file", b"\x93NUMPY": "a NumPy array (.npy)",
    b"\x1f\x8b": "a gzip file", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"(\xb5/\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document", b"\x7fELF": "a program", b"#!": "a script", b"GIF8": "a GIF image",
    b"RIFF": "a WebP image or other media file", b"PAR1": "a Parquet table", b"SQLite format 3": "an SQLite database",
    b"\0\0\x08\x03": "an IDX file of images (MNIST)", b"\0\0\x08\x01": "an IDX file of labels (MNIST)",
}  # fmt: skip
_CONTAINERS = (b"PK\x03\x04", b"PK\x05\x06")


def format_of(source: Source) -> str:
    """Returns ``pt-zip``, ``pt-legacy``, ``pt-tar`` or ``safetensors``.

    Raises:
        RefusedError: the file is not a checkpoint; names its actual format if it is known.
    """
    if source.size == 0:
        raise RefusedError("is empty", hint="Was its download or training interrupted?")
    if source.size > MAX_FILE_BYTES:
        raise RefusedError("is too large for a checkpoint", why=f"{source.size:,} bytes")
    head = source.read(0, min(HEAD, source.size))
    if head.startswith(_CONTAINERS):
        return "pt-zip"
    length = int.from_bytes(head[:8], "little")
    pickled = head[0] == 0x80 and (len(head) < 2 or head[1] <= 5)
    # the length of a safetensors header can begin like a pickle (0x0280), but its upper half is zero
    if head[8:9] == b"{" and (not pickled or length < 1 << 32):
        return "safetensors"
    if pickled:
        return "pt-legacy"
    if head[257:262] == b"ustar":
        return "pt-tar"
    for magic, what in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise RefusedError(f"is {what}, not a checkpoint")
    if any(magic.startswith(head) for magic in _CONTAINERS) or (len(head) <= 8 and 0 < length < MAX_FILE_BYTES):
        raise truncated()
    raise _text(head) or RefusedError(
        "is not a checkpoint", why="its first bytes match no known format",
        hint="Supported are .pt and .pth files of torch.save, and .safetensors.",
    )  # fmt: skip


def _text(head: bytes) -> RefusedError | None:
    """The refusal of a text file; None for a binary file."""
    if b"\0" in head:
        return None
    try:
        text = head[: HEAD - 4].decode().lstrip("\ufeff \t\r\n").lower()
    except UnicodeDecodeError:
        return None
    if not text.isprintable() and any(not (c.isprintable() or c in "\r\n\t\f") for c in text):
        return None
    if text.startswith(("<!doctype html", "<html", "<head", "<body", "<?xml")):
        return RefusedError(
            "is a web page, not a checkpoint", why="probably an error page of a server",
            hint="Open it in a browser to read it, then download the checkpoint itself.",
        )  # fmt: skip
    if text.startswith("version https://git-lfs"):
        return RefusedError(
            "is a Git-LFS pointer, not the file itself", hint="Fetch the file: git lfs install; git lfs pull"
        )
    return RefusedError("is a text file, not a checkpoint", why="a JSON file" if text.startswith("{") else "")


FORMATS = {
    "pt-zip": zipped.describe,
    "pt-legacy": zipped.describe_legacy,
    "safetensors": safetensors.describe,
    "pt-tar": tarred.describe,
}


def describe(source: Source) -> dict[str, Any]:
    """Returns the description of an open checkpoint file as plain data.

    Returns:
        ``format``, ``size`` and ``sha256``; ``storages``, each [offset in the file, size in bytes]; ``tensors``, each
        [number of its storage, type, offset, shape, strides] in elements; ``tree``, the structure around them, see
        :mod:`.tree`; ``globals``, the names of classes and functions; ``notes``.

    Raises:
        RefusedError: the file is not a checkpoint, damaged, or unsafe to read.
    """
    kind = format_of(source)
    described = FORMATS[kind](source)
    return {"format": kind, "size": source.size, "sha256": source.sha256(), **described}


def describe_or_refuse(source: Source) -> dict[str, Any]:
    """Returns the description, or ``{"refused": ...}``."""
    try:
        return describe(source)
    except RefusedError as error:
        return {"refused": error.as_plain()}
    except MemoryError:
        return {"refused": RefusedError("needs too much memory to be read").as_plain()}
    except Exception as error:
        # a bug in the checks must not let a hostile file choose the traceback
        why = f"{type(error).__name__} in the reader"
        return {"refused": RefusedError("cannot be read", why=why).as_plain()}
