"""Whether the tensors of a file are the weights of a model: names, shapes, and what wrappers put before the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ccvae_eval.core.errors import CheckpointError

AVERAGED = ("ema", "swa", "shadow", "averaged")
"""Words that mark a moving average of the weights."""
MOST_ROWS = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Expected:
    """A tensor that a model has: its shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Expected:
        return cls(tuple(tensor.shape), tensor.dtype)

    def accepts(self, other: Expected) -> bool:
        """Same shape; a real tensor for a real one, whatever the precision."""
        return self.shape == other.shape and self.dtype.is_complex == other.dtype.is_complex

    def __str__(self) -> str:
        return f"{self.shape} {str(self.dtype).removeprefix('torch.')}"


Table = Mapping[str, Expected]


def table_of(tensors: Mapping[str, Tensor]) -> dict[str, Expected]:
    """Shape and type of each tensor."""
    return {name: Expected.of(tensor) for name, tensor in tensors.items()}


def agreement(found: Table, expected: Table) -> int:
    """How many tensors have a name and shape that the model expects."""
    return sum(name in expected and expected[name].accepts(tensor) for name, tensor in found.items())


def prefixes(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    """What may stand before the model's own names: "" and whatever precedes one of them in the file."""
    own = next(iter(expected), None)
    found = {""} | {name.removesuffix(own) for name in names if own and name.endswith("." + own)}
    return sorted(found, key=lambda prefix: (any(word in prefix.lower() for word in AVERAGED), len(prefix), prefix))


def without_wrappers(tensors: Mapping[str, Tensor], expected: Table) -> tuple[dict[str, Tensor], list[str]]:
    """The model's weights under its own names, and notes on what was done to find them.

    ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), ``model.``, ``state_dict.`` and the like are taken off;
    of several copies the plain one is taken and an average (EMA) left aside. Tensors outside the prefix are left out.
    """
    names = table_of(tensors)
    best, most = "", agreement(names, expected)
    choices = prefixes(tensors, expected)
    for prefix in choices:
        count = agreement(_below(names, prefix), expected)
        if count > most:
            best, most = prefix, count
    if not best:
        return dict(tensors), []
    weights = _below(tensors, best)
    notes = [f"{best!r} was taken off the names of the weights"]
    left = len(tensors) - len(weights)
    if left:
        notes.append(f"{left} tensors outside {best!r} were left out")
    notes += [f"a second copy of the weights under {p!r} was left aside" for p in choices if p not in ("", best)][:2]
    return weights, notes


def below(tensors: Mapping[str, Tensor], own: str) -> dict[str, Tensor]:
    """The tensors of the network that has ``own`` among its names, under its own names; {} if none has.

    What training tools put before the names is taken off; a moving average is taken only where nothing else is.

    >>> list(below({"net.module.fc.weight": torch.ones(1), "step": torch.ones(1)}, "fc.weight"))
    ['fc.weight']
    """
    found = [prefix for prefix in prefixes(tensors, [own]) if prefix + own in tensors]
    return _below(tensors, found[0]) if found else {}


def _below(table: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in table.items() if name.startswith(prefix)}


def require_fit(found: Table, expected: Table, model: str, where: str, resemblance: str) -> None:
    """Refuses weights that are not exactly the model's.

    Raises:
        CheckpointError: with a table of the missing, unexpected and mis-shaped tensors.
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
    if len(rows) > MOST_ROWS:
        rows = [*rows[:MOST_ROWS], f"... and {len(rows) - MOST_ROWS} more"]
    raise CheckpointError(
        f"its tensors are not those of model {model!r}",
        where=where,
        why=f"{len(missing)} missing, {len(unexpected)} unexpected, {len(changed)} of another shape",
        hint="\n".join([*rows, *([resemblance] if resemblance else [])]),
    )
