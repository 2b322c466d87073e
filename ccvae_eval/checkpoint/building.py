"""Making a model from settings that are not trusted: bounded in size, and every failure is a deliberate error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ccvae_eval.checkpoint.bundle import Bundle
from ccvae_eval.checkpoint.state_dict_match import Expected, table_of
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError, UsageError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import KEYS as PIXELS

LARGEST_SETTING = 1_000_000
"""A whole number among a model's settings may not be above this, nor above the number of weights in the file."""
MOST_PARAMETERS = 10_000
"""Parameters that a blank model may have, or ten times as many as the file has tensors."""

Build = Callable[[], Any]


def whole_numbers(plain: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in plain data, with their dotted names."""
    if isinstance(plain, int):
        yield name, plain
    elif isinstance(plain, Mapping):
        for key, part in plain.items():
            yield from whole_numbers(part, f"{name}.{key}".lstrip("."))
    elif isinstance(plain, list | tuple):
        for part in plain:
            yield from whole_numbers(part, name)


def require_sane(settings: Mapping[str, Plain], bundle: Bundle) -> None:
    """Refuses sizes that the file's own weights contradict, before even a blank model is made."""
    most = max(LARGEST_SETTING, bundle.parameter_count)
    for name, number in whole_numbers(settings):
        if number > most and not name.endswith("seed"):
            raise CheckpointError(
                "asks for a model that is far too large",
                where=str(bundle.path),
                why=f"{name[:80]} = {number}; the file holds {bundle.parameter_count:,} numbers",
            )


@contextmanager
def bounded(most: int) -> Iterator[None]:
    """Stops the making of a model of a million layers, which would take time and memory even without weights."""
    made = 0

    def counted(_module: nn.Module, name: str, _parameter: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise ValueError(f"over {most:,} parameters, the last {name!r}")

    with register_module_parameter_registration_hook(counted):
        yield


def built(build: Build, name: str, where: str) -> nn.Module:
    """The network that ``build`` makes; what goes wrong in it is an error of the file or of the plugin."""
    try:
        network = build()
    except PluginError:
        raise
    except CcvaeEvalError as error:
        raise CheckpointError(
            f"its settings do not make a {name!r}", where=where, why=error.what, hint=error.hint
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"its settings do not make a {name!r}", where=where, why=f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise PluginError(f"{name!r} made no nn.Module", where=where)
    return network


def uninitialised(build: Build, name: str, where: str, tensors: int) -> nn.Module:
    """The network on the meta device, where it takes no memory."""
    with torch.device("meta"), bounded(max(MOST_PARAMETERS, 10 * tensors)):
        return built(build, name, where)


def expected_of(build: Build, name: str, where: str, tensors: int) -> dict[str, Expected]:
    """Names, shapes and types of the weights of the network that ``build`` makes."""
    return table_of(uninitialised(build, name, where, tensors).state_dict())


def is_rebuildable(kind: Any) -> bool:
    """Whether a registered model is made by ``from_settings``; else it is made by its constructor."""
    return callable(getattr(kind, "from_settings", None))


def arguments_of(kind: Any, given: Mapping[str, Plain], hinted: Mapping[str, Plain], name: str) -> dict[str, Plain]:
    """The arguments for the constructor of a user's class.

    Args:
        kind: the class.
        given: by ``--set`` or in the TOML file beside the checkpoint: each must be one of its arguments.
        hinted: by the checkpoint itself: those that are none of its arguments are left out.
        name: under which the class is registered.

    Raises:
        UsageError: an unknown argument, or one that is missing.
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
                f"model {name!r} has no argument {key!r}", where="--set", hint=suggestion(key, [*named, *PIXELS])
            )
    found = {**{key: value for key, value in hinted.items() if key in named}, **given}
    lacking = [key for key, p in named.items() if p.default is p.empty and key not in found]
    if lacking:
        raise UsageError(
            f"model {name!r} needs {', '.join(lacking)}",
            where="--set",
            hint=f"Give {' '.join(f'--set {key}=VALUE' for key in lacking)}, or a TOML file beside the checkpoint "
            "(same name, ending .toml) with a table [settings].",
        )
    return found
