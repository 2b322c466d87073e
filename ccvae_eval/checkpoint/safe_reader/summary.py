"""From an open file to a plain description of what it holds: the whole of reading, short of making tensors."""

from __future__ import annotations

from typing import Any

from . import detect as sniffing
from . import legacy, safetensors, zipped
from .source import RefusedError, Source

FORMATS = {"pt-zip": zipped.describe, "pt-legacy": legacy.describe, "safetensors": safetensors.describe}


def describe(source: Source) -> dict[str, Any]:
    """What a checkpoint holds, as plain data.

    Args:
        source: the open file.

    Returns:
        ``format``, ``size``, ``sha256``; ``storages``, each [offset in the file, bytes]; ``tensors``, each
        [number of the storage, type, offset, shape, strides], in elements; ``tree``, in which they stand, see
        :mod:`.tree`; ``globals``, the names of the classes and functions; ``notes``.

    Raises:
        RefusedError: what is no checkpoint, or one that cannot be read without trusting it.
    """
    kind = sniffing.format_of(source)
    described = FORMATS[kind](source)
    return {"format": kind, "size": source.size, "sha256": source.sha256(), **described}


def answer(source: Source) -> dict[str, Any]:
    """The description, or ``{"refused": ...}``."""
    try:
        return describe(source)
    except RefusedError as error:
        return {"refused": error.as_plain()}
    except MemoryError:
        return {"refused": RefusedError("needs too much memory to be read").as_plain()}
    except Exception as error:
        # a hole in the checks above must not become a traceback that a hostile file chose
        why = f"{type(error).__name__} in the reader"
        return {"refused": RefusedError("cannot be understood", why=why).as_plain()}
