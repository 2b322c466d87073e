"""The options of a data spec, ``key=value``: each read once, by its type; what nobody read is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ccvae_eval.errors import UsageError, suggestion


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
