"""Data specs ``name[:path][,key=value]``: parsing, typed options, and opening the data set."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccvae_eval.core.errors import InputError, PluginError, UsageError, suggestion
from ccvae_eval.data.interface import DataSet, NeedsNoPath
from ccvae_eval.model.interface import supports
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.attribution import plugin_call

VARIABLE = "CCVAE_EVAL_DATA"
"""Environment variable: the default of ``--data``."""

LABEL = "label"
TABLE = "attributes.csv"
"""The table of labels in a folder of images, or beside a zip of them."""
_OPTION = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")


class Options:
    """Typed reader of a data set's options. Call :meth:`finish` last: it rejects every option that was not read.

    Args:
        name: name of the data set, for messages.
        options: the options of the spec.
    """

    def __init__(self, name: str, options: Mapping[str, str]) -> None:
        self._name, self._options, self._known = name, options, list[str]()

    def text(self, key: str, default: str = "", choices: Sequence[str] = ()) -> str:
        """A text option; must be one of ``choices`` if any are given."""
        self._known.append(key)
        value = self._options.get(key, default)
        if choices and value not in choices:
            raise self._wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def integer(
        self, key: str, default: int, *, choices: Sequence[int] = (), low: int | None = None, high: int | None = None
    ) -> int:
        """An integer option; must be one of ``choices``, or lie between ``low`` and ``high`` inclusive."""
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

    def number(self, key: str, default: float, below: float = math.inf) -> float:
        """A number of at least 0 and less than ``below``."""
        text = self.text(key, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < below:
            raise self._wrong(
                key, text, "a number of at least 0" + (f" and below {below:g}" if below < math.inf else "")
            )
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names, written ``a|b|c``; empty if the option is not given."""
        return tuple(name.strip() for name in self.text(key).split("|") if name.strip())

    def finish(self) -> None:
        """Raise a ``UsageError`` for an option that was not read."""
        for key in self._options:
            if key not in self._known:
                raise UsageError(f"{self._name} has no option {key!r}", hint=suggestion(key, self._known))

    def _wrong(self, key: str, value: str, wanted: str) -> UsageError:
        return UsageError(f"{key} must be {wanted}, got {value!r}", where=self._name)


def refuse_path(name: str, path: str | None) -> None:
    """Raise a ``UsageError`` if a path is given to a data set that takes none."""
    if path is not None:
        raise UsageError(f"{name} takes no path, but {path!r} was given", hint=f"Write {name}[,key=value].")


def require_path(name: str, path: str | None, what: str) -> str:
    """Return the path; raise a ``UsageError`` if it is missing. ``what`` describes the path in the hint."""
    if not path:
        raise UsageError(f"{name} needs a path", hint=f"Write {name}:PATH, where PATH is {what}.")
    return path


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec.

    Args:
        name: name of the data set, plain or as ``distribution:name``.
        path: the path, if one is given.
        options: the ``key=value`` parts in order; only ``label`` may repeat.
    """

    name: str
    path: str | None
    options: tuple[tuple[str, str], ...]


def parse_spec(spec: str) -> Spec:
    """Parse a spec. A comma belongs to the path unless ``key=`` follows it.

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
        raise UsageError(
            "the name of the data set is missing", where=spec, hint="Write name[:path][,key=value], such as faces."
        )
    return Spec(name, path or None, options)


def named_paths(spec: str) -> list[Path]:
    """The files and folders that a spec names and that exist: its path, its options, and the table beside an archive.

    An option may be a path inside the folder, beside the archive, or on its own.
    """
    parsed = parse_spec(spec)
    if parsed.path is None:
        return []
    place = Path(parsed.path)
    beside = place if place.is_dir() else place.parent
    words = [value for _, value in parsed.options] + [TABLE] * (not place.is_dir())
    found = [place, *(beside / word if (beside / word).exists() else Path(word) for word in words if word)]
    return [path for path in dict.fromkeys(found) if path.exists()]


def registered_spec(spec: str) -> tuple[registry.Registration, Spec]:
    """Parse a spec and find its data set, without importing it.

    Raises:
        UsageError: a malformed spec, or an unknown name.
    """
    parsed = parse_spec(spec)
    if parsed.name not in registry.data_sets and Path(spec).exists():
        kind = "npz" if spec.endswith(".npz") else "folder"
        raise UsageError("the path lacks the name of a data set", where=spec, hint=f"Write {kind}:{spec}")
    return registry.data_sets.find(parsed.name), parsed


def open_data(spec: str, labels: Sequence[str] = ()) -> DataSet:
    """Open a data set.

    Args:
        spec: ``name[:path][,key=value]...``; ``label=NEW=OLD``, ``label=NEW=A|B`` or ``label=*=OLD`` renames,
            joins or splits labels and may repeat.
        labels: further label requests, as given by ``--rename``.

    Raises:
        UsageError: an unknown name or option.
        DataError: a file is missing or unreadable.
        PluginError: a third-party data set fails to open.
    """
    from ccvae_eval.data.labels.relabel import relabelled

    registration, parsed = registered_spec(spec)
    data = _made(registration, parsed)
    renames = [value for key, value in parsed.options if key == LABEL]
    return relabelled(data, [*renames, *labels])


def _made(registration: registry.Registration, parsed: Spec) -> DataSet:
    kind: Any = registration.load()
    options = {key: value for key, value in parsed.options if key != LABEL}
    with plugin_call(registration, "data set", "from_spec(path, options)"):
        data = kind.from_spec(parsed.path, options)
    if not supports(data, DataSet):
        raise PluginError(
            f"from_spec of {registration.name!r} must return a data set, got {type(data).__name__}",
            where=registration.origin,
            hint="A data set has every member of ccvae_eval.data.interface.DataSet.",
        )
    return data


def data_for(asked: str | None, own: str | None) -> str:
    """Choose the data of an evaluation.

    In order: ``--data``; ``CCVAE_EVAL_DATA``; the checkpoint's own data set, if that needs no path.

    Args:
        asked: ``--data``.
        own: the spec recorded in the checkpoint. It is untrusted, so a path in it is not followed.

    Raises:
        InputError: none of these gives a data set.
    """
    chosen = asked or os.environ.get(VARIABLE)
    if chosen:
        return chosen
    if own and _opens_alone(own):
        return own
    known = f"It was trained on {own!r}; name the data with" if own else "Name the data with"
    raise InputError(
        "the data set of the evaluation is not specified",
        why="the checkpoint's own data set needs a path" if own else "the checkpoint records no data set",
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
    return supports(kind, NeedsNoPath) and bool(kind.needs_no_path)


def sample_size(sample: int | str | None, name: str = "sample") -> int | None:
    """The number of images of a sample: a positive number, as text or not; None for None and "all".

    >>> sample_size("64"), sample_size("all")
    (64, None)

    Raises:
        UsageError: anything else.
    """
    if sample is None or sample == "all":
        return None
    text = str(sample)
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise UsageError(f"{name} must be a positive number or 'all', got {sample!r}")
    return int(text)
