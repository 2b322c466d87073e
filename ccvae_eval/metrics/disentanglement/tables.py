"""The panel in the terminal: a table for each family of scores, and the heat map of information."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.core.results import Measurement, Value, ValueSpec
from ccvae_eval.metrics.disentanglement.scores import FAMILIES, OTHER, family_of
from ccvae_eval.rendering.tables import bullets, metric_tables, value_cells, value_table
from ccvae_eval.rendering.text import at_text, escaped

SHADES = " ░▒▓█"
ASCII_SHADES = " .:*#"
MAX_ROWS, MAX_COLUMNS = 24, 9
MIN_WIDTH, MAX_WIDTH, TOTAL_WIDTH = 5, 15, 60
"""Character widths of the heat map: least and greatest for one factor, and for all factors together."""
NOT_SCORES = ("information", "factor_correlation", "active_codes")
"""Values of the panel that the table of scores leaves out."""


def tables(
    measurement: Measurement, specs: Mapping[str, ValueSpec], *, verbose: bool = False, ascii_only: bool = False
) -> RenderableType:
    """The disentanglement panel: a table for each family of scores, the heat map of information, and notes."""
    m = measurement
    if m.status != "ok":
        return metric_tables(m, specs)
    parts: list[RenderableType] = []
    for family, question in FAMILIES.items():
        rows = [v for v in m.values if v.name not in NOT_SCORES and family_of(v.name) == family]
        if any(_shown(v, verbose) for v in rows):
            parts += [Text(f"{family}: {question}" if family != OTHER else question, style="bold")]
            parts += [_family_table(rows, specs, verbose=verbose), Text("")]
    if "information" in m.pictures:
        parts += [heat_map(m, ascii_only=ascii_only), Text("")]
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


def heat_map(measurement: Measurement, *, ascii_only: bool = False) -> RenderableType:
    """Mutual information of each code (row) with each factor (column), in percent of the factor's entropy.

    Shows at most 24 codes, those with the most information, and 9 factors; cells below one percent are blank.
    """
    shares = np.nan_to_num(np.asarray(measurement.pictures["information"], dtype=np.float64))
    codes, factors = (measurement.pictures[key].tolist() for key in ("codes", "factors"))
    active = np.asarray(measurement.pictures["active"], dtype=bool)
    shown = sorted(np.argsort(-shares.max(axis=1), kind="stable")[:MAX_ROWS].tolist())
    shades = ASCII_SHADES if ascii_only else SHADES
    title = Text("mutual information with each factor, % of the factor's entropy", style="bold")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("", overflow="fold", min_width=min(12, max(len(str(codes[j])) for j in shown)))
    width = max(MIN_WIDTH, min(MAX_WIDTH, TOTAL_WIDTH // max(len(factors[:MAX_COLUMNS]), 1)))
    for name in factors[:MAX_COLUMNS]:
        table.add_column(escaped(str(name)), justify="right", overflow="fold", width=width)
    for j in shown:
        cells = [_cell(float(share), shades, " " * ascii_only) for share in shares[j, :MAX_COLUMNS]]
        table.add_row(escaped(str(codes[j])), *cells, style="" if active[j] else "dim")
    hidden = {"codes": len(codes) - MAX_ROWS, "factors": len(factors) - MAX_COLUMNS}
    more = " and ".join(f"{n} more {what}" for what, n in hidden.items() if n > 0)
    return Group(title, table, *bullets([f"not shown: {more}"] if more else []))


def _cell(share: float, shades: str, gap: str) -> str:
    percent = round(100 * min(max(share, 0.0), 1.0))
    return f"{percent}{gap}{shades[round(percent / 100 * (len(shades) - 1))]}" if percent else ""
