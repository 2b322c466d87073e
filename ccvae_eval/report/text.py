"""Text that is safe to print: names from files may carry control characters, markup and right-to-left overrides."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}


def plain(text: str, *, keep_newlines: bool = True) -> str:
    r"""The text without control and formatting characters, each shown as an escape.

    >>> plain("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    keep = "\n" if keep_newlines else ""
    return "".join(
        c if c in keep or unicodedata.category(c) not in _HIDDEN else c.encode("unicode_escape").decode() for c in text
    )


def escaped(text: str) -> str:
    """One line that rich prints as it is: no control characters, no markup."""
    from rich.markup import escape

    return escape(plain(text, keep_newlines=False))


def figure(value: float | None, digits: int = 3) -> str:
    """A number as the tables show it; a dash where it is undefined.

    >>> figure(0.98765), figure(float("nan")), figure(12345.6)
    ('0.988', '–', '12346')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:.{digits}f}"


def at_text(at: Mapping[str, object]) -> str:
    """What else a value depends on, in one line."""
    return ", ".join(f"{key} {value}" for key, value in sorted(at.items()))
