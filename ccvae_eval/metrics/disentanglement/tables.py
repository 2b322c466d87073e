"""The panel in the terminal: a table for each family of scores."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.core.results import Measurement, Value, ValueSpec
from ccvae_eval.metrics.disentanglement.scores import FAMILIES, OTHER, family_of
from ccvae_eval.rendering.tables import bullets, metric_tables, value_cells, value_table
from ccvae_eval.rendering.text import at_text, escaped

NOT_SCORES = ("information", "factor_correlation", "active_codes")
"""Values of the panel that the table of scores leaves out."""


def tables(measurement: Measurement, specs: Mapping[str, ValueSpec], *, verbose: bool = False) -> RenderableType:
    """The disentanglement panel: a table for each family of scores, and notes."""
    m = measurement
    if m.status != "ok":
        return metric_tables(m, specs)
    parts: list[RenderableType] = []
    for family, question in FAMILIES.items():
        rows = [v for v in m.values if v.name not in NOT_SCORES and family_of(v.name) == family]
        if any(_shown(v, verbose) for v in rows):
            parts += [Text(f"{family}: {question}" if family != OTHER else question, style="bold")]
            parts += [_family_table(rows, specs, verbose=verbose), Text("")]
    reasons: dict[str, list[str]] = {}
    for v in m.values:
        if not v.estimate.defined and v.name not in NOT_SCORES and v.characteristic is None and "code" not in v.at:
            reasons.setdefault(v.note, []).append(f"{v.name} ({at_text(v.at)})" if v.at else v.name)
    notes = [f"{', '.join(names)}: undefined, {why}" for why, names in reasons.items()]
    return Group(*parts, *bullets([*notes, *m.notes]))


def _shown(value: Value, verbose: bool) -> bool:
    return verbose or (value.characteristic is None and "code" not in value.at)


def _family_table(values: list[Value], specs: Mapping[str, ValueSpec], *, verbose: bool) -> Table:
    table = value_table("score", "factor or code") if verbose else value_table("score")
    for v in (value for value in values if _shown(value, verbose)):
        spec = specs.get(v.name, ValueSpec(""))
        at = {key: value for key, value in v.at.items() if key != "code"}
        name = f"{v.name} ({at_text(at)})" if at else v.name
        owner = [escaped(str(v.characteristic or v.at.get("code", "all")))] if verbose else []
        table.add_row(escaped(name), *owner, *value_cells(v, spec))
    return table
