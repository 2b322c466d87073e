"""From the words ``name[:path][,key=value]`` to a data set.

The options of a data spec, ``key=value``: each read once, by its type; what nobody read is unknown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccvae_eval.core.errors import CcvaeEvalError, InputError, PluginError, UsageError, suggestion
from ccvae_eval.data.interface import DataSet, NeedsNoPath
from ccvae_eval.data.labels.relabel import relabelled
from ccvae_eval.plugins import registry


class Options:
    """Reads the options of one data set; finish with :meth:`finish`.

    Args:
        name: the data set, for messages.
        options: as they stood in the spec.
    """

    def __init__(self, name: str, options: Mapping[str, str]) -> None:
        self._name, self._options, self._known = name, options, list[str]()

    def text(self, key: str, default: str = "", choices: Sequence[str] = ()) -> str:
        """An option as it is; one of ``choices``, if there are any."""
        self._known.append(key)
        value = self._options.get(key, default)
        if choices and value not in choices:
            raise self._wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def integer(
        self, key: str, default: int, *, choices: Sequence[int] = (), low: int | None = None, high: int | None = None
    ) -> int:
        """A whole number; one of ``choices``, or from ``low`` to ``high``."""
        text = self.text(key, str(default))
        bounds = f" from {low}" if low is not None else ""
        bounds += f" to {high}" if high is not None else ""
        wanted = f"one of {', '.join(map(str, choices))}" if choices else f"a whole number{bounds}"
        try:
            value = int(text)
        except ValueError:
            raise self._wrong(key, text, wanted) from None
        outside = (low is not None and value < low) or (high is not None and value > high)
        if outside or (choices and value not in choices):
            raise self._wrong(key, text, wanted)
        return value

    def share(self, key: str, default: float) -> float:
        """A number from 0 to below 1."""
        text = self.text(key, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise self._wrong(key, text, "a number from 0 to below 1")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Several names, written ``a|b|c``; none, if the option is not given."""
        return tuple(name.strip() for name in self.text(key).split("|") if name.strip())

    def finish(self) -> None:
        """Refuses the options that nobody has read."""
        for key in self._options:
            if key not in self._known:
                raise UsageError(f"{self._name} has no option {key!r}", hint=suggestion(key, self._known))

    def _wrong(self, key: str, value: str, wanted: str) -> UsageError:
        return UsageError(f"{key}={value} is not possible", where=self._name, hint=f"Expected {wanted}.")


def refuse_path(name: str, path: str | None) -> None:
    """For data sets that are made on the spot."""
    if path is not None:
        raise UsageError(f"{name} takes no path, but {path!r} was given", hint=f"Write {name}[,key=value].")


def require_path(name: str, path: str | None, what: str) -> str:
    """For data sets that are read from somewhere."""
    if not path:
        raise UsageError(f"{name} needs a path", hint=f"Write {name}:PATH, where PATH is {what}.")
    return path


VARIABLE = "CCVAE_EVAL_DATA"
"""Environment variable: the data set of an evaluation that names none."""

LABEL = "label"
_OPTION = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec taken apart.

    Args:
        name: of the data set, plain or as ``distribution:name``.
        path: where it is read from, if anywhere.
        options: the ``key=value`` parts in order; only ``label`` may repeat.
    """

    name: str
    path: str | None
    options: tuple[tuple[str, str], ...]


def parse_spec(spec: str) -> Spec:
    """Takes a spec apart. A comma belongs to the path unless ``key=`` follows it.

    >>> parse_spec("folder:photos, old,size=64")
    Spec(name='folder', path='photos, old', options=(('size', '64'),))
    >>> parse_spec("faces,size=32").path is None
    True
    """
    head, *parts = _OPTION.split(spec.strip())
    options = tuple((key, value) for key, _, value in (part.partition("=") for part in parts))
    keys = [key for key, _ in options if key != LABEL]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    if repeated:
        raise UsageError(f"option {repeated!r} is given twice", where=spec)
    qualified = [r.qualified for r in registry.data_sets.registrations()]
    for name in qualified:
        if head == name or head.startswith(f"{name}:"):
            return Spec(name, head[len(name) + 1 :] or None, options)
    name, _, path = head.partition(":")
    if not name:
        raise UsageError("no data set is named", where=spec, hint="Write name[:path][,key=value], such as faces.")
    return Spec(name, path or None, options)


def open_data(spec: str, labels: Sequence[str] = ()) -> DataSet:
    """Opens a data set.

    Args:
        spec: ``name[:path][,key=value]...``; ``label=NEW=OLD``, ``label=NEW=A|B`` or ``label=*=OLD`` renames,
            joins or splits labels and may repeat.
        labels: more of these, as ``--label`` gives them.

    Raises:
        UsageError: an unknown name or option.
        DataError: a file that is missing or unreadable.
    """
    parsed = parse_spec(spec)
    if parsed.name not in registry.data_sets and Path(spec).exists():
        kind = "npz" if spec.endswith(".npz") else "folder"
        raise UsageError("a path alone names no data set", where=spec, hint=f"Write {kind}:{spec}")
    registration = registry.data_sets.find(parsed.name)
    data = _made(registration, parsed)
    renames = [value for key, value in parsed.options if key == LABEL]
    return relabelled(data, [*renames, *labels])


def _made(registration: registry.Registration, parsed: Spec) -> DataSet:
    kind: Any = registration.load()
    options = {key: value for key, value in parsed.options if key != LABEL}
    try:
        data = kind.from_spec(parsed.path, options)
    except CcvaeEvalError:
        raise
    except Exception as error:
        if registration.distribution == registry.HOME:
            raise
        raise PluginError(
            f"data set {registration.name!r} failed in from_spec(path, options)",
            where=f"{registration.distribution} {registration.version}".strip(),
            why=f"{type(error).__name__}: {error}",
            hint=f"path was {parsed.path!r}, options {options}. `ccvae-eval check {registration.name} --data "
            "SPEC` tries the data set alone; a DataError says to a user what is wrong with a file.",
        ) from error
    if not isinstance(data, DataSet):
        raise PluginError(
            f"{registration.name!r} gives no data set",
            where=registration.distribution,
            hint="It must have every member of ccvae_eval.data.interface.DataSet.",
        )
    return data


def data_for(asked: str | None, own: str | None) -> str:
    """The spec of the data that an evaluation uses.

    What was asked for; else ``CCVAE_EVAL_DATA``; else the checkpoint's own data set, if that needs no path. Never
    another one: a model is not measured on drawn faces that it has not been trained on.

    Args:
        asked: ``--data``.
        own: the spec in the checkpoint's record, which is not trusted: a path in it is not followed.

    Raises:
        InputError: there is none; says what to give.
    """
    chosen = asked or os.environ.get(VARIABLE)
    if chosen:
        return chosen
    if own and _opens_alone(own):
        return own
    known = f"It was trained on {own!r}; name the data with" if own else "Name the data with"
    raise InputError(
        "no data to evaluate on",
        why="the checkpoint's own data need a path" if own else "the checkpoint names none",
        hint=f"{known} --data name[:path] or {VARIABLE}, for example --data folder:PATH.",
    )


def _opens_alone(spec: str) -> bool:
    try:
        parsed = parse_spec(spec)
        if parsed.path is not None or parsed.name not in registry.data_sets:
            return False
        kind = registry.data_sets[parsed.name]
    except UsageError:
        return False
    return isinstance(kind, NeedsNoPath) and bool(kind.needs_no_path)
