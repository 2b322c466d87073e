"""Building a model from untrusted settings, and comparing a file's tensors with its state_dict.

The size of the model is limited, and every failure is a deliberate error. Tensors are compared by name and shape,
without the prefixes that wrappers add to names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ccvae_eval.checkpoint.bundle import Bundle, TensorTable, tensor_table
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, PluginError, UsageError, suggestion
from ccvae_eval.core.types import Plain
from ccvae_eval.model.pixel_range import KEYS as PIXEL_KEYS

if TYPE_CHECKING:
    from torch import nn

AVERAGES = ("ema", "swa", "shadow", "averaged")
"""Words in prefixes that mark a moving average of the weights."""
MAX_PREFIXES = 50
"""Most prefixes to try, each of which takes a pass over all tensors."""
MAX_ROWS = 20

T = TypeVar("T")


def count_matching(found: TensorTable, expected: TensorTable) -> int:
    """Number of tensors with a name and shape of the model."""
    return sum(name in expected and expected[name].accepts(tensor) for name, tensor in found.items())


def candidate_prefixes(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Returns possible prefixes of the model's names in the file; "" first, moving averages last."""
    own = next(iter(expected), None)
    found = {""} | {name.removesuffix(own) for name in names if own and name.endswith("." + own)}
    ranked = sorted(found, key=lambda prefix: (any(word in prefix.lower() for word in AVERAGES), len(prefix), prefix))
    return ranked[:MAX_PREFIXES]


def strip_prefixes(tensors: Mapping[str, T], expected: TensorTable) -> tuple[dict[str, T], list[str]]:
    """Returns the model's weights (tensors, or their ``TensorInfo``) under its own names, and notes about the changes.

    Removes a prefix such as ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), ``model.`` or ``state_dict.``,
    and tensors without it. If there are several copies, the plain weights take precedence over a moving average (EMA).
    """
    names = tensor_table(tensors)
    choices = candidate_prefixes(tensors, expected)
    best = max(choices, key=lambda prefix: count_matching(_with_prefix(names, prefix), expected))  # the first of equals
    if not best:
        return _without_copies(tensors, expected, [prefix for prefix in choices if prefix])
    weights = _with_prefix(tensors, best)
    notes = [f"prefix {best!r} was removed from the names of the weights"]
    left = len(tensors) - len(weights)
    if left:
        notes.append(f"{left} tensors without prefix {best!r} were ignored")
    notes += [f"a second copy of the weights with prefix {p!r} was ignored" for p in choices if p not in ("", best)][:2]
    return weights, notes


def _without_copies(
    tensors: Mapping[str, T], expected: TensorTable, prefixes: Iterable[str]
) -> tuple[dict[str, T], list[str]]:
    """The tensors without further copies of the weights, such as ``ema.NAME``, and of what stands beside a copy."""
    names = tensor_table(tensors)
    copies = [p for p in prefixes if 2 * count_matching(_with_prefix(names, p), expected) > len(expected)]
    owners = tuple(f"{prefix.partition('.')[0]}." for prefix in copies)
    kept = {name: tensor for name, tensor in tensors.items() if name in expected or not name.startswith(owners)}
    return kept, [f"a second copy of the weights with prefix {prefix!r} was ignored" for prefix in copies[:2]]


def network_tensors(tensors: Mapping[str, T], own: str) -> dict[str, T]:
    """Returns the tensors of the network that has a tensor ``own``, under the network's own names; {} if none has.

    Removes the prefix that training frameworks add. A moving average is used only if there are no other weights. The
    values may be tensors or their ``TensorInfo``.

    >>> network_tensors({"net.module.fc.weight": 1, "step": 2}, "fc.weight")
    {'fc.weight': 1}
    """
    found = [prefix for prefix in candidate_prefixes(tensors, [own]) if prefix + own in tensors]
    return _with_prefix(tensors, found[0]) if found else {}


def _with_prefix(table: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in table.items() if name.startswith(prefix)}


def require_match(found: TensorTable, expected: TensorTable, model: str, where: str, advice: str) -> None:
    """Requires exactly the tensors of the model.

    Raises:
        CheckpointError: lists the missing, unexpected and mis-shaped tensors, and ends in ``advice``.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    changed = [name for name in found if name in expected and not expected[name].accepts(found[name])]
    if not (missing or unexpected or changed):
        return
    rows = [
        *(f"missing     {name}  {expected[name]}" for name in missing),
        *(f"unexpected  {name}  {found[name]}" for name in unexpected),
        *(f"mis-shaped  {name}  {found[name]} in the file, {expected[name]} in the model" for name in changed),
    ]
    if len(rows) > MAX_ROWS:
        rows = [*rows[:MAX_ROWS], f"... and {len(rows) - MAX_ROWS} more"]
    raise CheckpointError(
        f"its tensors do not match model {model!r}",
        where=where,
        why=f"{len(missing)} missing, {len(unexpected)} unexpected, {len(changed)} of another shape",
        hint="\n".join([*rows, *([advice] if advice else [])]),
    )


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
    from torch.nn.modules.module import register_module_parameter_registration_hook

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
    from torch import nn

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
    import torch

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
