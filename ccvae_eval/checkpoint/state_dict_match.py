"""Comparison of a file's tensors with a model's state_dict: names, shapes, and prefixes that wrappers add to names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ccvae_eval.core.errors import CheckpointError

AVERAGES = ("ema", "swa", "shadow", "averaged")
"""Words in prefixes that mark a moving average of the weights."""
MAX_ROWS = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def accepts(self, other: TensorInfo) -> bool:
        """True if the shapes are equal and both are real or both complex, in any precision."""
        return self.shape == other.shape and self.dtype.is_complex == other.dtype.is_complex

    def __str__(self) -> str:
        return f"{self.shape} {str(self.dtype).removeprefix('torch.')}"


TensorTable = Mapping[str, TensorInfo]


def tensor_table(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """Returns shape and type of each tensor."""
    return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def count_matching(found: TensorTable, expected: TensorTable) -> int:
    """Number of tensors with a name and shape of the model."""
    return sum(name in expected and expected[name].accepts(tensor) for name, tensor in found.items())


def candidate_prefixes(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Returns possible prefixes of the model's names in the file; "" first, moving averages last."""
    own = next(iter(expected), None)
    found = {""} | {name.removesuffix(own) for name in names if own and name.endswith("." + own)}
    return sorted(found, key=lambda prefix: (any(word in prefix.lower() for word in AVERAGES), len(prefix), prefix))


def strip_prefixes(tensors: Mapping[str, Tensor], expected: TensorTable) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the model's weights under its own names, and notes about the changes.

    Removes a prefix such as ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), ``model.`` or ``state_dict.``,
    and tensors without it. If there are several copies, the plain weights take precedence over a moving average (EMA).
    """
    names = tensor_table(tensors)
    choices = candidate_prefixes(tensors, expected)
    best = max(choices, key=lambda prefix: count_matching(_with_prefix(names, prefix), expected))  # the first of equals
    if not best:
        return dict(tensors), []
    weights = _with_prefix(tensors, best)
    notes = [f"prefix {best!r} was removed from the names of the weights"]
    left = len(tensors) - len(weights)
    if left:
        notes.append(f"{left} tensors without prefix {best!r} were ignored")
    notes += [f"a second copy of the weights with prefix {p!r} was ignored" for p in choices if p not in ("", best)][:2]
    return weights, notes


def network_tensors(tensors: Mapping[str, Tensor], own: str) -> dict[str, Tensor]:
    """Returns the tensors of the network that has a tensor ``own``, under the network's own names; {} if none has.

    Removes the prefix that training frameworks add. A moving average is used only if there are no other weights.

    >>> list(network_tensors({"net.module.fc.weight": torch.ones(1), "step": torch.ones(1)}, "fc.weight"))
    ['fc.weight']
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
