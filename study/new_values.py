"""Table of the values that joined the established ones: what each adds, by the responses on the pages of the study.

A value *responds* to a perturbation that moves it beyond its intervals, or leaves it undefined at the end. Two values
of one metric that respond to the same perturbations are redundant as far as the study can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

START, END = "<!-- new values: written by `python -m study new-values` -->\n", "<!-- end of new values -->\n"
SECTION = "### "
UNCHANGED = "·"
NEW: Mapping[str, tuple[str, ...]] = {
    "density": ("ois", "icl"),
    "disentanglement": (
        "mcc",
        "mcc_rank",
        "tad",
        "captured",
        "r2_linear",
        "r2_nonlinear",
        "consistency",
        "restrictiveness",
    ),
    "intervention": ("realism", "realism_frechet", "minimality", "obeyed_together", "unfairness"),
}
"""By metric: the values, in the order of the table. ``measurement`` has no established values to be compared with, and
``obeyed_rank`` is measured on other models."""

MOST = 3
"""Values that a row names as equal."""

Responses = Mapping[str, frozenset[str]]
"""The perturbations that each row of a metric responds to."""


def responses(page: str) -> dict[str, Responses]:
    """The responses on a page, by metric; a row without a number at any perturbation is left out.

    >>> text = "### m\\n| value | mix | dim |\\n|---|---|---|\\n| `a` | **1.00 → 0** | · 1.00 |\\n| `b` |  |  |\\n"
    >>> responses(text)
    {'m': {'a': frozenset({'mix'})}}
    """
    found: dict[str, dict[str, frozenset[str]]] = {}
    metric, heads = "", [""]
    for line in page.splitlines():
        if line.startswith("#"):
            metric = line.removeprefix(SECTION) if line.startswith(SECTION) else ""
        elif metric and line.startswith("| value "):
            heads = _cells(line)
        elif metric and line.startswith("| `"):
            name, *cells = _cells(line)
            moved = {head for head, cell in zip(heads[1:], cells, strict=True) if cell and UNCHANGED not in cell}
            if any(cells):
                found.setdefault(metric, {})[name.strip("`")] = frozenset(moved)
    return {metric: dict(rows) for metric, rows in found.items()}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(pages: Sequence[str], new: Mapping[str, Sequence[str]] = NEW) -> str:
    """The table in Markdown; new values that no page has yet are left out."""
    every = {metric: rows for page in pages for metric, rows in responses(page).items()}
    lines = [
        "| value | responds to | seen by no established value of the metric | closest established value | only the new "
        "one responds to | only the established one responds to | redundant |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric, names in new.items():
        rows = every.get(metric, {})
        old = {name: moved for name, moved in rows.items() if name.split()[0] not in names}
        new_rows = [row for name in names for row in rows if row.split()[0] == name and old]
        lines += [_row(f"{metric}.{row}", rows[row], old) for row in new_rows]
    return "\n".join(lines) + "\n"


def _row(name: str, moved: frozenset[str], old: Responses) -> str:
    unseen = moved.difference(*old.values())
    least = min(len(moved ^ other) for other in old.values())
    closest = [other for other, theirs in old.items() if len(moved ^ theirs) == least]
    theirs, shown = old[closest[0]], ", ".join(f"`{other}`" for other in closest[:MOST])
    more = f" and {len(closest) - MOST} more" if len(closest) > MOST else ""
    sets = (moved, unseen), (moved - theirs, theirs - moved)
    first, second = (" | ".join(map(_listed, pair)) for pair in sets)
    return f"| `{name}` | {first} | `{closest[0]}` | {second} | {'no' if least else f'with {shown}{more}'} |"


def _listed(perturbations: frozenset[str]) -> str:
    return ", ".join(sorted(perturbations)) or "–"


def write_table(docs: Path) -> None:
    """Writes the table between its marks in docs/metrics/calibration.md."""
    pages = [page.read_text() for page in sorted(docs.glob("calibration-*.md"))]
    target = docs / "metrics/calibration.md"
    before, rest = target.read_text().split(START)
    target.write_text(f"{before}{START}\n{table(pages)}\n{END}{rest.split(END)[1]}")
