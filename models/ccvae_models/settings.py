"""Model settings from plain data: command-line options or the record in a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Plain

S = TypeVar("S")


def read_settings(kind: type[S], plain: Mapping[str, Plain], where: str) -> S:
    """Build a frozen dataclass from a mapping; text is converted to the field's type.

    Args:
        kind: dataclass with fields of type bool, int, float, str or a ``Literal`` of strings.
        plain: values by field name; absent fields keep their default.
        where: the model's name, for error messages.

    Raises:
        UsageError: an unknown setting, or a value of the wrong type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Settings:
    ...     style: int = 27
    >>> read_settings(Settings, {"style": "8"}, "ccvae").style
    8
    """
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in plain:
        if name not in names:
            raise UsageError(f"setting {name!r} is unknown", where=where, hint=suggestion(name, names))
    return kind(**{name: _value(value, hints[name], f"{where}: {name}") for name, value in plain.items()})


def _value(value: Plain, kind: Any, where: str) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"value {value!r} is unknown", where=where, hint=f"One of {', '.join(get_args(kind))}.")
        return value
    try:
        return _converted(value, kind)
    except (TypeError, ValueError):
        raise UsageError(f"must be of type {kind.__name__}, got {value!r}", where=where) from None


def _converted(value: Plain, kind: type) -> Any:
    if kind is bool:
        words = {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() not in words:
            raise ValueError
        return words[str(value).lower()]
    if kind is int and (isinstance(value, bool) or (isinstance(value, float) and not value.is_integer())):
        raise ValueError
    if kind in (int, float) and not isinstance(value, int | float | str):
        raise ValueError
    return kind(value)
