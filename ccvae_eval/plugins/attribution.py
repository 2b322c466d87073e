"""Whose code failed: the plugin, who distributes it, which call, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ccvae_eval.core.errors import CcvaeEvalError, PluginError
from ccvae_eval.plugins.registry import owners_of

OURS = ("ccvae_eval", "ccvae_models", "ccvae_plugins")
"""Our packages."""
HINTS = {
    "encode": "Do the data have the size, channels and range that it was trained on (--data NAME:PATH,size=64, "
    "--set images.range=[-1,1])?",
    "decode": "decode takes codes as encode gives them, shape (N, layout.dim), and returns one tensor of images.",
}
"""What to look at first, by the method that failed."""


def is_ours(thing: object) -> bool:
    """Whether the code of something is this distribution's, and is tested for what others are watched for."""
    return type(thing).__module__.partition(".")[0] in OURS


def unwrapped(thing: Any) -> Any:
    """The plugin itself, where it stands behind a wrapper of ours that keeps it as the property ``__wrapped__``."""
    return thing.__wrapped__ if isinstance(getattr(type(thing), "__wrapped__", None), property) else thing


def name_and_home(thing: object) -> tuple[str, str]:
    """What a plugin is called, and its distribution with version or its file; its module, if it was never registered.

    The name is the registered one where the class itself was registered, else the class's.
    """
    kind = type(unwrapped(thing))
    exact, owners = owners_of(kind)
    name = repr(owners[0].name) if exact and len({owner.name for owner in owners}) == 1 else kind.__name__
    homes = {f"{owner.distribution} {owner.version}".strip() for owner in owners}
    return name, homes.pop() if len(homes) == 1 else kind.__module__


def failure(thing: object, kind: str, call: str, error: BaseException) -> PluginError:
    """The error of a plugin, with everything that is needed to mend it.

    Args:
        thing: the model, data set or matcher whose code failed.
        kind: which of these it is.
        call: what was called, beginning with the method's name: "decode(codes), codes of shape (32, 10)".
        error: what it raised.
    """
    name, home = name_and_home(thing)
    first = HINTS.get(call.partition("(")[0], "")
    hint = f"{first} `ccvae-eval check` tries the {kind} alone; --debug shows where it failed."
    return PluginError(
        f"{kind} {name} failed in {call}", where=home, why=f"{type(error).__name__}: {error}", hint=hint.strip()
    )


@contextmanager
def blamed(thing: object, kind: str, call: str) -> Iterator[None]:
    """Turns what a plugin's code raises into a :class:`PluginError`, see :func:`failure`.

    Our own models are named like a stranger's: what they mostly fail over are data of another shape. Our own data sets
    and matchers take their own input, so that a failure is a mistake of ours and stays what it is.
    """
    try:
        yield
    except (CcvaeEvalError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if kind != "model" and is_ours(thing):
            raise
        raise failure(thing, kind, call, error) from error
