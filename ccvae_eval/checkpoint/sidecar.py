"""A folder of checkpoint files that together are one model, as several training tools leave it.

The TOML file beside a checkpoint: what a user writes down once instead of giving ``--model`` and ``--set``.

For ``weights.pt`` it is ``weights.toml``, for a folder ``model.toml`` in it::

    model = "mine"        # a registered model; it is named, never imported

    [settings]            # arguments of its class
    latent = 16

    [images]              # of the model's pixels, see ccvae_eval.model.pixel_range
    range = [-1, 1]
    logits = true
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ccvae_eval.checkpoint.bundle import Bundle, read_bundle
from ccvae_eval.checkpoint.reader import opened
from ccvae_eval.core.errors import CheckpointError, InputError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import PREFIX, PixelRange

WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
PICKLES = (".pkl", ".pickle", ".joblib", ".dill")
MOST_FILES = 12
MOST_ENTRIES = 10_000
LARGEST_PLAIN = 1 << 20
FORMAT = "folder"


def read_folder(path: Path) -> Bundle:
    """The files of a folder as one bundle: tensors and metadata under the name of their file (``encoder.weight``).

    JSON files are metadata too. Files that are pickles of code are named in a note and not read.

    Raises:
        CheckpointError: no checkpoint file is in it, too many are, or one of them is refused.
    """
    names = _entries(path)
    weights = [name for name in names if name.lower().endswith(WEIGHTS)]
    if not weights:
        raise CheckpointError(
            "is a folder and no checkpoint",
            where=str(path),
            why=f"no file in it ends in {', '.join(WEIGHTS)}",
            hint="Name the checkpoint file itself, or the folder that holds the parts of one model.",
        )
    if len(weights) > MOST_FILES:
        raise CheckpointError(
            f"is a folder of {len(weights)} checkpoints", where=str(path), hint=f"Name one: {weights[-1]}, for example."
        )
    parts = {Path(name).stem: read_bundle(path / name) for name in weights}
    if len(parts) < len(weights):
        raise CheckpointError("holds two checkpoint files of one name", where=str(path), why=", ".join(weights))
    described = [name for name in names if name.lower().endswith(".json")][:MOST_FILES]
    plain = {Path(name).stem: json_beside(path / name) for name in described}
    unread = [name for name in names if name.lower().endswith(PICKLES)]
    notes = [f"{name}: {note}" for name, part in parts.items() for note in part.notes]
    notes += [f"{name} was not read: a pickle of code" for name in unread[:4]]
    return Bundle(
        MappingProxyType({f"{stem}.{name}": t for stem, part in parts.items() for name, t in part.tensors.items()}),
        MappingProxyType({**plain, **{stem: dict(part.metadata) for stem, part in parts.items() if part.metadata}}),
        {stem: part.records for stem, part in parts.items()},
        path,
        sum(part.size for part in parts.values()),
        _digest(parts),
        FORMAT,
        tuple(dict.fromkeys(name for part in parts.values() for name in part.globals)),
        tuple(notes),
    )


def _entries(path: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry, _ in zip(os.scandir(path), range(MOST_ENTRIES), strict=False))
    except OSError as error:
        raise CheckpointError("cannot be opened", where=str(path), why=error.strerror or str(error)) from None
    return [name for name in names if not name.startswith(".")]


def _digest(parts: dict[str, Bundle]) -> str:
    """One digest for all files: of their names and digests."""
    return sha256("\n".join(f"{stem} {part.sha256}" for stem, part in sorted(parts.items())).encode()).hexdigest()


def text_beside(path: Path) -> str | None:
    """The text of a small regular file; None if there is none.

    Raises:
        CheckpointError: it is too large, or no UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
    except (OSError, ValueError):
        return None
    with opened(path) as descriptor:
        content = os.read(descriptor, LARGEST_PLAIN + 1)
    if len(content) > LARGEST_PLAIN:
        raise CheckpointError("is too large for settings", where=str(path), why=f"over {LARGEST_PLAIN:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CheckpointError("is no text", where=str(path)) from None


def json_beside(path: Path) -> Plain:
    """The content of a small JSON file; None where there is none, or one that is large or no JSON: a log, say."""
    try:
        text = text_beside(path)
        found: Any = None if text is None else json.loads(text)
    except (ValueError, RecursionError, CheckpointError):
        return None
    return found


KEYS = ("model", "settings", "images")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the file says; empty where there is none. The table [images] stands in the settings as ``images.KEY``."""

    path: Path
    model: str | None = None
    settings: Mapping[str, Plain] = field(default_factory=dict)


def sidecar_of(path: Path) -> Sidecar:
    """Reads the TOML file beside a checkpoint.

    Raises:
        InputError: it is no TOML, or says something unknown.
    """
    file = path / "model.toml" if path.is_dir() else path.with_suffix(".toml")
    text = text_beside(file)
    if text is None:
        return Sidecar(file)
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("is no TOML", where=str(file), why=str(error)) from None
    for key in found:
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}", where=str(file), hint=suggestion(key, KEYS))
    model, settings, images = found.get("model"), found.get("settings", {}), found.get("images", {})
    if not isinstance(settings, dict) or not isinstance(images, dict) or not isinstance(model, str | None):
        raise InputError(
            "is not as it should be",
            where=str(file),
            hint='Expected model = "NAME", a table [settings] and a table [images].',
        )
    pixels = {PREFIX + key: value for key, value in images.items()}
    PixelRange.of(pixels, str(file))
    return Sidecar(file, model, {**settings, **pixels})
