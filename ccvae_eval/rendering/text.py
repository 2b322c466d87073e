"""Text for the terminal: safe strings, formatted numbers, and help and explanations taken from docstrings.

Names from files may contain control characters, markup and right-to-left overrides; :func:`plain` and
:func:`escaped` make them safe to print.
"""

from __future__ import annotations

import inspect
import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ccvae_eval.core.results import Estimate, Measurement

Array = TypeVar("Array")
PIPE = "\\|"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
"""Unicode categories of control, formatting and unassigned characters."""


def plain(text: str, *, keep_newlines: bool = True) -> str:
    r"""The text with every control and formatting character replaced by its escape sequence.

    >>> plain("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    keep = "\n" if keep_newlines else ""
    return "".join(
        c if c in keep or unicodedata.category(c) not in _HIDDEN else c.encode("unicode_escape").decode() for c in text
    )


def escaped(text: str) -> str:
    """One line that rich prints literally: control characters and markup are escaped."""
    from rich.markup import escape

    return escape(plain(text, keep_newlines=False))


def figure(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` decimals, without decimals if it is large; a dash if it is undefined.

    >>> figure(0.98765), figure(-0.0004), figure(float("nan")), figure(12345.6)
    ('0.988', '0.000', '–', '12346')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:z.{digits}f}"


def interval_text(estimate: Estimate, digits: int = 3) -> str:
    """The confidence interval of an estimate as "[low, high]"; "" without one."""
    if math.isnan(estimate.low):
        return ""
    return f"[{figure(estimate.low, digits)}, {figure(estimate.high, digits)}]"


def with_interval(estimate: Estimate, digits: int = 3) -> str:
    """The value of an estimate, followed by its confidence interval if it has one."""
    return f"{figure(estimate.value, digits)} {interval_text(estimate, digits)}".rstrip()


def formatted(value: float | None, form: str) -> str:
    """A number in a format of Python such as ".2f" or ".0%", without the sign of a zero; a dash if it is undefined.

    >>> formatted(0.256, ".0%"), formatted(-0.001, ".2f"), formatted(None, ".2f")
    ('26%', '0.00', '–')
    """
    if value is None or not math.isfinite(value):
        return figure(value)
    shown = format(value, form)
    return format(0.0, form) if shown == format(-0.0, form) else shown


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', PIPE) for cell in cells)} |"


_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$&])")


def markdown_text(text: str) -> str:
    r"""Text in one line that Markdown shows literally: no markup, link, HTML or end of a table cell.

    >>> print(markdown_text("a_b|<script>"))
    a\_b\|\<script\>
    """
    return _MARKDOWN.sub(r"\\\1", plain(text, keep_newlines=False))


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(9.6), duration(90), duration(3 * 3600 + 900)
    ('10 s', '2 min', '3 h 15 min')
    """
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def at_text(at: Mapping[str, object]) -> str:
    """The ``at`` of a value in one line."""
    return ", ".join(f"{key} {value}" for key, value in sorted(at.items()))


def under(arrays: Mapping[str, Array], start: str) -> dict[str, Array]:
    """The arrays whose name begins with ``start/``, by the rest of their name.

    >>> under({"strip/Hat": 1, "strips/Hat": 2}, "strip")
    {'Hat': 1}
    """
    return {key.removeprefix(f"{start}/"): array for key, array in arrays.items() if key.startswith(f"{start}/")}


def nested(measurement: Measurement, start: str) -> dict[str, dict[str, Any]]:
    """The pictures named ``start/CHARACTERISTIC/PART``, by characteristic and then by part.

    Both may contain slashes: the characteristics are those of the measurement's values.
    """
    names = sorted({v.characteristic for v in measurement.values if v.characteristic}, key=len, reverse=True)
    found: dict[str, dict[str, Any]] = {}
    for key, picture in measurement.pictures.items():
        first, _, rest = key.partition("/")
        if first == start:
            name = next((name for name in names if rest.startswith(f"{name}/")), rest.partition("/")[0])
            found.setdefault(name, {})[rest.removeprefix(f"{name}/")] = picture
    return found


_ENTRY = re.compile(r"^    (\w[\w, ]*?)(?: \([^)]*\))?: (.*)$")
_OPENING = re.compile(r"[A-Z]\w+( [a-z]+)?: ")
"""The start of a labelled line, such as "Chance: ..." or "Cost: ..."."""
_MARKUP = re.compile(r":(\w+):`([^`]*)`|``([^`]*)``")
_FORMULA = re.compile(r"^\.\. math::\s*(\S.*)$", re.MULTILINE)
_ITEM = re.compile(r" *- ")


def unmarked(text: str) -> str:
    """Text without the reStructuredText markup of docstrings.

    >>> unmarked("see ``evaluate`` and :math:`x^2`")
    'see evaluate and x^2'
    """
    return _MARKUP.sub(lambda found: _plain(found[2]) if found[1] == "math" else found[2] or found[3], text)


def _plain(formula: str) -> str:
    r"""A LaTeX formula as plain text; covers the commands that occur in docstrings.

    >>> _plain(r"s = \sqrt{\frac{2}{|A|} \sum_{p \in A} x_{s,p}}, \qquad l = \log \frac1K \frac{a - b}{1 - a}")
    's = sqrt(2/|A| sum over p in A of x_s,p), l = log 1/K (a - b)/(1 - a)'
    """
    text = re.sub(r"\\sum_(?:\{([^{}]*)\}|(\w))", lambda found: f"sum over {found[1] or found[2]} of", formula)
    text = re.sub(r"\\q?quad\b", "", re.sub(r"\\operatorname\{(\w+)\}", r"\1", text))
    text = re.sub(r"([_^])\{([^{}]*)\}", r"\1\2", text)
    text = re.sub(r"\\frac(\w)(\w)", r"\1/\2", text)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", lambda found: f"{_factor(found[1])}/{_factor(found[2])}", text)
    text = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", text)
    return re.sub(r" +", " ", re.sub(r"\\([a-zA-Z]+)", r"\1", text))


def _factor(text: str) -> str:
    """A numerator or denominator, in parentheses if it has several words."""
    return f"({text})" if " " in text else text


def argument_help(kind: type) -> dict[str, str]:
    """The ``Args:`` section of a class's docstring: name -> text."""
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
    """The docstring as plain text, one line for each paragraph and each list item; see :func:`wrapped`."""
    return flowing(inspect.cleandoc(kind.__doc__ or "No description."))


def flowing(docstring: str) -> str:
    """A cleaned docstring as plain text, one line for each paragraph and each list item."""
    text = _FORMULA.sub(lambda found: f"    {_plain(found[1])}", docstring)
    return "\n\n".join(_flowing(paragraph) for paragraph in unmarked(text).split("\n\n"))


def wrapped(text: str, width: int) -> str:
    """Text wrapped to a width; continuation lines of list items and entries are indented.

    >>> print(wrapped("- auc: a chance that hangs", 16))
    - auc: a chance
      that hangs
    """
    return "\n".join(_hanging(line, width) for line in text.splitlines())


def _hanging(line: str, width: int) -> str:
    indent = len(line) - len(line.lstrip())
    further = 2 if _ITEM.match(line) else 4 if indent else 0
    return textwrap.fill(
        line, width, subsequent_indent=" " * (indent + further), break_long_words=False, break_on_hyphens=False
    )


def _flowing(paragraph: str) -> str:
    """A paragraph joined into one line, except that list items, entries and labelled lines keep their own line."""
    lines: list[str] = []
    for line in paragraph.splitlines():
        in_list = bool(lines and _ITEM.match(lines[-1]))
        indented = line.startswith(" ")
        starts = not indented if in_list else indented and not line.startswith("        ")
        if lines and not (starts or _ITEM.match(line) or _OPENING.match(line)):
            lines[-1] = f"{lines[-1].rstrip()} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def inert_cell(value: object) -> object:
    """A cell of a CSV file; text that a spreadsheet would evaluate as a formula begins with a quote."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
