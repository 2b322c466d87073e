"""Attribution of errors to plugins: the plugin's name, its distribution, the failed call, and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ccvae_eval.core.errors import CcvaeEvalError, PluginError
from ccvae_eval.plugins.registry import registrations_of

BUILTIN_PACKAGES = ("ccvae_eval", "ccvae_models", "ccvae_plugins")
HINTS = {
    "encode": "Do the data have the size, channels and range that it was trained on (--data NAME:PATH,size=64, "
    "--set images.range=[-1,1])?",
    "decode": "decode takes codes of shape (N, layout.dim), as encode returns them, and returns one tensor of images.",
}
"""First thing to check, by the method that failed."""


def is_builtin(plugin: object) -> bool:
    """True if the plugin's code belongs to this distribution."""
    return type(plugin).__module__.partition(".")[0] in BUILTIN_PACKAGES


def name_and_origin(plugin: object) -> tuple[str, str]:
    """Returns a plugin's name and where its code comes from.

    The name is the registered one if the class itself is registered, else the class name. The origin is the
    distribution with its version, or the plugin file; for an unregistered class, its module.
    """
    kind = type(plugin)
    exact, registrations = registrations_of(kind)
    name = repr(registrations[0].name) if exact and len({r.name for r in registrations}) == 1 else kind.__name__
    origins = {f"{r.distribution} {r.version}".strip() for r in registrations}
    return name, origins.pop() if len(origins) == 1 else kind.__module__


def plugin_failure(plugin: object, kind: str, call: str, error: BaseException) -> PluginError:
    """Returns the error for an exception that a plugin's code raised.

    ``kind`` is "model", "data set" or "matcher"; ``call`` begins with the method's name, such as "decode(codes), codes
    of shape (32, 10)".
    """
    name, origin = name_and_origin(plugin)
    first = HINTS.get(call.partition("(")[0], "")
    hint = f"{first} `ccvae-eval check` tests the {kind} on its own; --debug shows the traceback."
    return PluginError(
        f"{kind} {name} failed in {call}", where=origin, why=f"{type(error).__name__}: {error}", hint=hint.strip()
    )


@contextmanager
def plugin_call(plugin: object, kind: str, call: str) -> Iterator[None]:
    """Turns an exception of a plugin's code into a :class:`PluginError`, see :func:`plugin_failure`.

    Built-in models are included, because data of another shape make them fail. An exception of a built-in data set or
    matcher is a bug of this toolkit and is raised unchanged.
    """
    try:
        yield
    except (CcvaeEvalError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if kind != "model" and is_builtin(plugin):
            raise
        raise plugin_failure(plugin, kind, call, error) from error
