"""Where judges and references are kept between runs, on machines where they can be kept at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ccvae_eval.core.errors import InputError

NAME = "ccvae-eval"


def cache_folder(given: str | Path | None = None) -> Path | None:
    """The folder asked for; else ``XDG_CACHE_HOME/ccvae-eval``; else ``~/.cache/ccvae-eval``; None without a home.

    Nothing is made: :func:`keep` does that.
    """
    if given is not None:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification: a relative one is to be ignored
        return Path(base) / NAME
    try:
        return Path.home() / ".cache" / NAME
    except RuntimeError:
        return None


def keep(folder: Path | None, name: str, write: Callable[[Path], object]) -> str:
    """Writes one file of the cache.

    Args:
        folder: what :func:`cache_folder` gave; made if it is missing.
        name: of the file.
        write: writes it at the path given, whole or not at all.

    Returns:
        "", or a sentence that says why nothing was kept: a cache that cannot be written stops nobody.
    """
    if folder is None:
        return "Nothing is cached: there is no home folder. --cache-dir names a place."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    except (OSError, InputError) as error:
        why = error.why if isinstance(error, InputError) else error.strerror
        return f"Nothing is cached: {folder} cannot be written ({why}). --cache-dir names another place."
    return ""
