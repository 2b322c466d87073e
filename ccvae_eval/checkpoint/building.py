"""Building a model from untrusted settings: its size is limited, and every failure is a deliberate error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ccvae_eval.checkpoint.bundle import Bundle
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError, UsageError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import KEYS as PIXEL_KEYS

MAX_SETTING = 1_000_000
"""Largest whole number allowed in a model's settings, unless the file contains more weights."""
MAX_PARAMETERS = 10_000
"""Most parameter tensors of a model, or ten times the number of tensors in the file if that is more."""

Build = Callable[[], Any]


def whole_numbers(plain: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yields the whole numbers in plain data with their dotted names."""
    if isinstance(plain, int):
        yield name, plain
    elif isinstance(plain, Mapping):
        for key, part in plain.items():
            yield from whole_numbers(part, f"{name}.{key}".lstrip("."))
    elif isinstance(plain, list | tuple):
        for part in plain:
            yield from whole_numbers(part, name)


def require_plausible_sizes(settings: Mapping[str, Plain], bundle: Bundle) -> None:
    """Refuses settings with numbers too large for the weights in the file, before any model is built.

    Raises:
        CheckpointError: names the setting.
    """
    limit = max(MAX_SETTING, bundle.parameter_count)
    for name, number in whole_numbers(settings):
        if number > limit and not name.endswith("seed"):
            why = f"{name[:80]} = {number}, but the file contains {bundle.parameter_count:,} numbers"
            raise CheckpointError("describes a model that is far too large", where=str(bundle.path), why=why)


@contextmanager
def parameter_limit(limit: int) -> Iterator[None]:
    """Stops the construction of a model with too many parameter tensors, which takes time even without weights."""
    count = 0

    def counted(_module: nn.Module, name: str, _parameter: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise ValueError(f"over {limit:,} parameters, the last {name!r}")

    with register_module_parameter_registration_hook(counted):
        yield


def build_network(build: Build, name: str, where: str) -> nn.Module:
    """Calls ``build`` and returns its network.

    Raises:
        CheckpointError: ``build`` rejects the settings or fails.
        PluginError: ``build`` returns something other than an ``nn.Module``.
    """
    try:
        network = build()
    except PluginError:
        raise
    except Exception as error:
        why, hint = f"{type(error).__name__}: {error}", ""
        if isinstance(error, CcvaeEvalError):
            why, hint = error.what, error.hint
        what = f"model {name!r} cannot be built from its settings"
        raise CheckpointError(what, where=where, why=why, hint=hint) from error
    if not isinstance(network, nn.Module):
        raise PluginError(f"{name!r} must build an nn.Module, got {type(network).__name__}", where=where)
    return network


def meta_network(build: Build, name: str, where: str, tensors: int) -> nn.Module:
    """Returns the network on the meta device, where it needs no memory; ``tensors`` are in the file."""
    with torch.device("meta"), parameter_limit(max(MAX_PARAMETERS, 10 * tensors)):
        return build_network(build, name, where)


def is_rebuildable(kind: Any) -> bool:
    """True if a registered model is built by ``from_settings``, False if by its constructor."""
    return callable(getattr(kind, "from_settings", None))


def constructor_arguments(
    kind: Any, given: Mapping[str, Plain], hinted: Mapping[str, Plain], name: str
) -> dict[str, Plain]:
    """Returns the arguments for the constructor of a user's class.

    Args:
        kind: the class.
        given: from ``--set`` or the TOML file next to the checkpoint; each must be an argument of the class.
        hinted: from the checkpoint; those that are not arguments of the class are ignored.
        name: the registered name of the class.

    Raises:
        UsageError: an unknown or missing argument.
    """
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return dict(given)
    named = {
        key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and key != "self"
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in named and not takes_any:
            raise UsageError(
                f"model {name!r} has no argument {key!r}", where="--set", hint=suggestion(key, [*named, *PIXEL_KEYS])
            )
    found = {**{key: value for key, value in hinted.items() if key in named}, **given}
    missing = [key for key, p in named.items() if p.default is p.empty and key not in found]
    if missing:
        raise UsageError(
            f"model {name!r} needs {', '.join(missing)}",
            where="--set",
            hint=f"Give {' '.join(f'--set {key}=VALUE' for key in missing)}, or write a table [settings] into a TOML "
            "file next to the checkpoint (same name, ending .toml).",
        )
    return found
