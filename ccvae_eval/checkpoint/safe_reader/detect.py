"""Which format a file is of, by its first bytes; and what it is if it is no checkpoint."""

from __future__ import annotations

from .builders import SAVE_STATE_DICT
from .source import RefusedError, Source, truncated

LARGEST_FILE = 8 << 30
HEAD = 512
OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras)", b"GGUF": "a GGUF file", b"\x93NUMPY": "a NumPy array (.npy)",
    b"\x1f\x8b": "a gzip file", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"(\xb5/\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document", b"\x7fELF": "a program", b"#!": "a script",
}  # fmt: skip
_CONTAINERS = (b"PK\x03\x04", b"PK\x05\x06")


def format_of(source: Source) -> str:
    """``pt-zip``, ``pt-legacy`` or ``safetensors``.

    Raises:
        RefusedError: says what the file is instead.
    """
    if source.size == 0:
        raise RefusedError("is empty", hint="Was its download or training interrupted?")
    if source.size > LARGEST_FILE:
        raise RefusedError("is too large for a checkpoint", why=f"{source.size:,} bytes")
    head = source.read(0, min(HEAD, source.size))
    if head.startswith(_CONTAINERS):
        return "pt-zip"
    length = int.from_bytes(head[:8], "little")
    pickled = head[0] == 0x80 and (len(head) < 2 or head[1] <= 5)
    # the length of a safetensors header may begin like a pickle (0x0280), but its upper half is zero
    if head[8:9] == b"{" and (not pickled or length < 1 << 32):
        return "safetensors"
    if pickled:
        return "pt-legacy"
    if head[257:262] == b"ustar":
        raise RefusedError("is a tar archive", why="torch before 0.1.10 saved so", hint=SAVE_STATE_DICT)
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            raise RefusedError(f"is {what} and no checkpoint")
    if any(magic.startswith(head) for magic in _CONTAINERS) or (len(head) <= 8 and 0 < length < LARGEST_FILE):
        raise truncated()
    raise _text(head) or RefusedError(
        "is no checkpoint", why="its first bytes belong to no known format",
        hint="Known: .pt and .pth of torch.save, .safetensors.",
    )  # fmt: skip


def _text(head: bytes) -> RefusedError | None:
    """What kind of text it is, if it is one."""
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
            "is a web page and no checkpoint", why="probably an error page of a server",
            hint="Open it in a browser to see what it says, then download the file itself.",
        )  # fmt: skip
    if text.startswith("version https://git-lfs"):
        return RefusedError(
            "is a Git-LFS pointer and not the file itself", hint="Fetch the file: git lfs install; git lfs pull"
        )
    return RefusedError("is a text file and no checkpoint", why="a JSON file" if text.startswith("{") else "")
