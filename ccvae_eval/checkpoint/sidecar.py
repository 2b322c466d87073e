"""Files that belong to a checkpoint: the parts of a model saved as a folder, and a TOML file with its settings.

A folder of checkpoint files is read as one checkpoint (:func:`read_folder`). A TOML file next to a checkpoint takes the
place of ``--model`` and ``--set`` (:func:`read_sidecar`). For ``weights.pt`` it is ``weights.toml``, for a folder
``model.toml`` inside it::

    model = "mine"        # a registered model; its name is looked up, never imported

    [settings]            # arguments of its class
    latent = 16

    [images]              # its pixel range, see ccvae_eval.model.pixel_range
    range = [-1, 1]
    logits = true
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from ccvae_eval.checkpoint.bundle import Bundle, FileTensors, read_bundle
from ccvae_eval.core.errors import CheckpointError, InputError
from ccvae_eval.core.typed import load_json, load_toml, read
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import PREFIX, PixelRange

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".dill")
MAX_FILES = 12
MAX_ENTRIES = 10_000


def read_folder(path: Path) -> Bundle:
    """Reads the checkpoint files of a folder as one bundle.

    Names of tensors and metadata begin with the name of their file (``encoder.weight``). JSON files become metadata.
    Pickle files are listed in a note and not read.

    Raises:
        CheckpointError: the folder has no checkpoint file or too many, or one of them is refused.
    """
    names = _entries(path)
    weights = [name for name in names if name.lower().endswith(WEIGHT_SUFFIXES)]
    if not weights:
        inside = [name for name in names if any(f.suffix in WEIGHT_SUFFIXES for f in (path / name).glob("*"))]
        raise CheckpointError(
            "is a folder without a checkpoint file",
            where=str(path),
            why=f"no file ends in {', '.join(WEIGHT_SUFFIXES)}",
            hint=f"For a folder of images write folder:{path}."
            if "attributes.csv" in names
            else f"Its subfolders have checkpoint files: {', '.join(inside[:MAX_FILES])}. Name one of them."
            if inside
            else f"It is a run: ccvae-eval inspect {path}, report {path} or compare {path} RUN."
            if "run.json" in names
            else "Give the checkpoint file itself, or the folder that contains the parts of one model.",
        )
    if len(weights) > MAX_FILES:
        raise CheckpointError(
            f"is a folder of {len(weights)} checkpoint files",
            where=str(path),
            why=f"the parts of one model may be at most {MAX_FILES}",
            hint=f"Give one file, such as {weights[-1]}.",
        )
    parts = {Path(name).stem: read_bundle(path / name) for name in weights}
    if len(parts) < len(weights):
        raise CheckpointError(
            "contains checkpoint files that differ only in the suffix", where=str(path), why=", ".join(weights)
        )
    json_names = [name for name in names if name.lower().endswith(".json")][:MAX_FILES]
    plain = {Path(name).stem: read_json_file(path / name) for name in json_names}
    unread = [name for name in names if name.lower().endswith(PICKLE_SUFFIXES)]
    notes = [f"{name}: {note}" for name, part in parts.items() for note in part.notes]
    if len(weights) > 1:
        notes.append(f"{len(weights)} files are read as one model: {', '.join(weights)}")
    notes += [f"{name} was not read: a pickle can contain code" for name in unread[:4]]
    tables = {stem: part.tensors.stored for stem, part in parts.items() if isinstance(part.tensors, FileTensors)}
    return Bundle(
        FileTensors({f"{stem}.{name}": tensor for stem, table in tables.items() for name, tensor in table.items()}),
        MappingProxyType({**plain, **{stem: dict(part.metadata) for stem, part in parts.items() if part.metadata}}),
        {stem: part.structure for stem, part in parts.items()},
        path,
        sum(part.size for part in parts.values()),
        sha256("\n".join(f"{stem} {part.sha256}" for stem, part in sorted(parts.items())).encode()).hexdigest(),
        "folder",
        tuple(dict.fromkeys(name for part in parts.values() for name in part.globals)),
        tuple(notes),
    )


def _entries(path: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry, _ in zip(os.scandir(path), range(MAX_ENTRIES), strict=False))
    except OSError as error:
        raise CheckpointError("cannot be opened", where=str(path), why=error.strerror or str(error)) from None
    return [name for name in names if not name.startswith(".")]


def read_json_file(path: Path) -> Plain:
    """Returns the content of a small JSON file; None if the file is missing, too large or not valid JSON."""
    try:
        return load_json(path)
    except InputError:
        return None


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The content of the TOML file, empty without one.

    Args:
        path: the file.
        model: name of a registered model.
        settings: its settings; those of ``images`` are added as ``images.KEY``.
        images: the pixel range.
    """

    path: Path
    model: str | None = None
    settings: Mapping[str, Plain] = field(default_factory=dict)
    images: Mapping[str, Plain] = field(default_factory=dict)


def read_sidecar(path: Path) -> Sidecar:
    """Reads the TOML file next to a checkpoint.

    Raises:
        InputError: the file is not valid TOML, or has an unknown key or a value of the wrong type.
    """
    file = path / "model.toml" if path.is_dir() else path.with_suffix(".toml")
    if not file.exists():
        return Sidecar(file)
    found = read(Sidecar, load_toml(file), str(file), path=file)
    pixels = {PREFIX + key: value for key, value in found.images.items()}
    PixelRange.of(pixels, str(file))
    return replace(found, settings={**found.settings, **pixels})
