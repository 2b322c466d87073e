"""A comparison as a table, for the terminal and for Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Column, Table

from ccvae_eval.comparison.compare import NOT_COMPARED, ComparedValue, Comparison
from ccvae_eval.comparison.summary import interval, notes, p_value, short
from ccvae_eval.core.errors import python_words
from ccvae_eval.rendering.tables import FittedTable, bullets, printed
from ccvae_eval.rendering.text import escaped

INTERVAL = "95% interval"


def text(found: Comparison) -> str:
    """The table of a comparison without colours, with arguments of Python instead of options of the command line."""
    values = tuple(replace(v, note=python_words(v.note)) for v in found.values)
    return printed(comparison_table(replace(found, values=values), all_singles="singles has all"))


def comparison_table(
    found: Comparison, *, verbose: bool = False, all_singles: str = "--verbose shows all"
) -> RenderableType:
    """The means, then the single characteristics that differ (all of them if ``verbose``), and how to read them.

    Values that could not be compared come last, and their reasons stand below the tables. A narrow terminal leaves out
    the p-value, whose verdict remains, then the difference, which is the middle of its interval, then the values of the
    models. With many pairs of models, their values are left out first.
    """
    legend = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    for label, what in found.models.items():
        legend.add_row(escaped(label), escaped(what))
    singles = [v for v in found.singles if verbose or v.higher or not found.means]
    tables = [_values(found, values) for values in (found.means, singles) if values]
    reasons: dict[str, list[str]] = {}
    for v in (*found.means, *singles):
        if not v.compared:
            reasons.setdefault(v.note, []).append(str(v.address))
    missing = [f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()]
    differing = sum(v.higher is not None for v in found.singles)
    more = [f"{differing} single characteristics differ ({all_singles})"] if found.means and found.singles else []
    return Group(
        legend, "", *(part for table in tables for part in (table, "")), *bullets([*notes(found), *missing, *more])
    )


def _values(found: Comparison, values: Sequence[ComparedValue]) -> Table:
    labels, pairs = list(found.models), len(found.models) > 2
    both = ("first", "second") if pairs else tuple(labels)
    difference = "difference" if pairs else f"{labels[0]} − {labels[1]}"
    spare = (both, "adjusted p", INTERVAL, difference) if pairs else ("adjusted p", difference, both, INTERVAL)
    table = FittedTable("value", spare=spare)
    for name in (*both, difference, INTERVAL, "adjusted p"):
        table.add_column(escaped(name), justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    last = None
    for v in sorted(values, key=lambda v: not v.compared):
        if pairs and v.address != last:  # the name of a value stands once above its pairs of models
            table.add_row(escaped(str(v.address)))
            last = v.address
        name = "  " + " − ".join(v.models) if pairs else str(v.address)
        numbers = (short(v.first), short(v.second), short(v.difference.value, "+"), interval(v.difference))
        cells = (name, *numbers, p_value(v.adjusted_p), v.verdict if v.compared else NOT_COMPARED)
        table.add_row(*map(escaped, cells), style="bold" if v.higher else "")
    return table
