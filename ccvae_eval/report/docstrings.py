"""What docstrings say: the help of an option and the text of ``explain`` come from the code, so they can't drift."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"^    (\w[\w, ]*?)(?: \([^)]*\))?: (.*)$")
_MARKUP = re.compile(r":\w+:`([^`]*)`|``([^`]*)``")


def unmarked(text: str) -> str:
    """Text without the markup of docstrings.

    >>> unmarked("see ``evaluate`` and :math:`x^2`")
    'see evaluate and x^2'
    """
    return _MARKUP.sub(lambda found: found[1] or found[2], text)


def argument_help(kind: type) -> dict[str, str]:
    """The ``Args:`` of a class's docstring: name -> text."""
    lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in lines:
        if line.strip() == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (entry := _ENTRY.match(line)):
            names = [name.strip() for name in entry[1].split(",")]
            found.update(dict.fromkeys(names, unmarked(entry[2])))
        elif inside and line.strip():
            for name in names:
                found[name] += " " + unmarked(line.strip())
    return found


def explanation(kind: type) -> str:
    """The docstring as ``explain`` prints it."""
    return unmarked(inspect.cleandoc(kind.__doc__ or "No description."))
