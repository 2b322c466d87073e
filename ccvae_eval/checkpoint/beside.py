"""The TOML file beside a checkpoint: what a user writes down once instead of giving ``--model`` and ``--set``.

For ``weights.pt`` it is ``weights.toml``, for a folder ``model.toml`` in it::

    model = "mine"        # a registered model; it is named, never imported

    [settings]            # arguments of its class
    latent = 16

    [images]              # of the model's pixels, see ccvae_eval.pixels
    range = [-1, 1]
    logits = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ccvae_eval.checkpoint.folder import text_beside
from ccvae_eval.errors import InputError, suggestion
from ccvae_eval.pixels import PREFIX, Pixels
from ccvae_eval.types import Plain

KEYS = ("model", "settings", "images")


@dataclass(frozen=True, slots=True)
class Beside:
    """What the file says; empty where there is none. The table [images] stands in the settings as ``images.KEY``."""

    path: Path
    model: str | None = None
    settings: Mapping[str, Plain] = field(default_factory=dict)


def beside(path: Path) -> Beside:
    """Reads the TOML file beside a checkpoint.

    Raises:
        InputError: it is no TOML, or says something unknown.
    """
    file = path / "model.toml" if path.is_dir() else path.with_suffix(".toml")
    text = text_beside(file)
    if text is None:
        return Beside(file)
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
    Pixels.of(pixels, str(file))
    return Beside(file, model, {**settings, **pixels})
