"""``explain``: the meaning of a metric's numbers, from its docstring and the specifications of its values."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ccvae_eval.cli.console import Screen, empty_table
from ccvae_eval.cli.options import Json, registered
from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.plugins import registry
from ccvae_eval.rendering.tables import ARROWS
from ccvae_eval.rendering.text import argument_help, escaped, explanation, wrapped

if TYPE_CHECKING:
    from ccvae_eval.core.results import ValueSpec


def command(
    what: Annotated[
        str,
        typer.Argument(
            help="A metric's name, or 'schema'.", show_default=False, autocompletion=registered("metrics", "schema")
        ),
    ],
    json: Json = False,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the sources as BibTeX; also of 'compare'.")] = False,
) -> None:
    """Explain a metric, or print the schema of run.json."""
    with Screen(as_json=json) as screen:
        if bibtex:
            from ccvae_eval.report.bibliography import SOURCES
            from ccvae_eval.report.bibliography import bibtex as bibtex_of

            if what not in SOURCES:
                raise UsageError(f"no sources are recorded for {what!r}", hint=suggestion(what, SOURCES))
            screen.document(bibtex_of(SOURCES[what]))
            return
        if what == "schema":
            from ccvae_eval.evaluation.storage import RUN_SCHEMA

            screen.document(RUN_SCHEMA)
            return
        if what not in registry.metrics:
            hint = suggestion(what, [*registry.metrics, "schema"])
            raise UsageError(f"{what!r} is not a registered metric", hint=hint)
        kind = registry.metrics[what]
        if json:
            screen.document(_as_plain(kind))
            return
        screen.show(Text(wrapped(explanation(kind), screen.out.width)), "", _values_table(kind.values))


def _range_text(spec: ValueSpec) -> str:
    low, high = spec.range
    if low is not None and high is not None:
        return f"[{low:g}, {high:g}]"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def _values_table(values: dict[str, ValueSpec]) -> Table:
    table = empty_table("value", "", "range", "unit", "definition", spare=("unit", "range"))
    for column in table.columns[:3]:
        column.no_wrap = True
    table.columns[-1].min_width = 32
    for name, spec in values.items():
        judge = " (needs the judge)" if spec.needs_judge else ""
        chance = spec.chance or (f"none: {spec.no_chance}" if spec.no_chance else "none")
        lines = map(escaped, (f"{spec.summary}{judge}", f"chance: {chance}", f"reference: {spec.reference}"))
        cells = map(escaped, (name, ARROWS[spec.higher_is_better], _range_text(spec), spec.unit))
        table.add_row(*cells, "\n".join(lines))
    return table


def _as_plain(kind: Any) -> dict[str, Any]:
    help_of = argument_help(kind)
    return {
        "name": kind.name,
        "version": kind.version,
        "headline": kind.headline,
        "text": explanation(kind),
        "settings": {f.name: {"default": f.default, "help": help_of.get(f.name, "")} for f in fields(kind)},
        "values": {name: asdict(spec) for name, spec in kind.values.items()},
    }
