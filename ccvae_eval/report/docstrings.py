"""What docstrings say: the help of an option and the text of ``explain`` come from the code, so they can't drift."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"^    (\w[\w, ]*?)(?: \([^)]*\))?: (.*)$")
_OPENING = re.compile(r"[A-Z]\w+( [a-z]+)?: ")
"""How a line begins that says one thing about a metric: "Chance: ...", "Cost: ..."."""
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
    """The docstring as ``explain`` prints it: one line for each paragraph, to be wrapped by the terminal."""
    text = unmarked(inspect.cleandoc(kind.__doc__ or "No description.")).replace(".. math:: ", "    ")
    return "\n\n".join(_flowing(paragraph) for paragraph in text.split("\n\n"))


def _flowing(paragraph: str) -> str:
    """A paragraph whose lines follow on; an indented line, or one that begins an entry, starts anew."""
    lines: list[str] = []
    for line in paragraph.splitlines():
        starts = line.startswith(" ") and not line.startswith("        ")
        if lines and not starts and not _OPENING.match(line):
            lines[-1] = f"{lines[-1].rstrip()} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)
