"""The disentanglement panel in the terminal: compactness, modularity and information apart, and two heat maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.measure import Measurement, Value, ValueSpec
from ccvae_eval.report.terminal import value_cells, value_columns, value_table
from ccvae_eval.report.text import at_text, escaped, plain
from ccvae_eval.run import Run

SHADES = " ░▒▓█"
ASCII_SHADES = " .:*#"
MOST_ROWS, MOST_COLUMNS = 24, 9
CELL, WIDEST, ACROSS = 5, 15, 60
"""Columns of a terminal: the least and the most of one factor, and what all factors share."""
BESIDE = ("information", "factor_correlation", "active_codes")


def panel_tables(run: Run, metric: str, *, verbose: bool = False, ascii_only: bool = False) -> RenderableType:
    """One table for each family, the heat map of information, that of the factors where they are correlated, notes."""
    # SciPy's distributions take half a second to import, and every verb imports this module
    from ccvae_eval.metrics.disentanglement.scores import FAMILIES, OTHER, family_of

    m = run.measurement(metric)
    specs = run.specs.get(metric, {})
    parts: list[RenderableType] = []
    for family, question in FAMILIES.items():
        rows = [v for v in m.values if v.name not in BESIDE and family_of(v.name) == family]
        if any(_shown(v, verbose) for v in rows):
            parts += [Text(f"{family}: {question}" if family != OTHER else question, style="bold")]
            parts += [_family_table(rows, specs, verbose=verbose), Text("")]
    if "information" in m.pictures:
        parts += [heat_map(m, ascii_only=ascii_only), Text("")]
    whys: dict[str, list[str]] = {}
    for v in m.values:
        if not v.estimate.defined and v.name not in BESIDE and v.characteristic is None and "code" not in v.at:
            whys.setdefault(v.note, []).append(f"{v.name} ({at_text(v.at)})" if v.at else v.name)
    notes = [f"{', '.join(names)}: undefined, {why}" for why, names in whys.items()]
    return Group(*parts, *(Text(f"· {plain(note)}", style="dim") for note in [*notes, *m.notes]))


def _shown(value: Value, verbose: bool) -> bool:
    return verbose or (value.characteristic is None and "code" not in value.at)


def _family_table(values: list[Value], specs: Mapping[str, ValueSpec], *, verbose: bool) -> Table:
    table = value_table()
    value_columns(table, ("score", "factor or code") if verbose else ("score",))
    for v in values:
        if not _shown(v, verbose):
            continue
        spec = specs.get(v.name, ValueSpec(""))
        at = {key: value for key, value in v.at.items() if key != "code"}
        name = f"{v.name} ({at_text(at)})" if at else v.name
        whose = [escaped(str(v.characteristic or v.at.get("code", "all")))] if verbose else []
        table.add_row(escaped(name), *whose, *value_cells(v, spec))
    return table


def heat_map(measurement: Measurement, *, ascii_only: bool = False) -> RenderableType:
    """Information of each code with each factor in percent of the factor's entropy: codes down, factors across.

    Of many codes those that know most are shown; less than one percent is left blank.
    """
    shares = np.nan_to_num(np.asarray(measurement.pictures["information"], dtype=np.float64))
    codes, factors = (measurement.pictures[key].tolist() for key in ("codes", "factors"))
    active = np.asarray(measurement.pictures["active"], dtype=bool)
    shown = sorted(np.argsort(-shares.max(axis=1), kind="stable")[:MOST_ROWS].tolist())
    shades = ASCII_SHADES if ascii_only else SHADES
    title = Text("information, % of the factor's entropy", style="bold")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("", overflow="fold", min_width=min(12, max(len(str(codes[j])) for j in shown)))
    width = max(CELL, min(WIDEST, ACROSS // max(len(factors[:MOST_COLUMNS]), 1)))
    for name in factors[:MOST_COLUMNS]:
        table.add_column(escaped(str(name)), justify="right", overflow="fold", width=width)
    for j in shown:
        cells = [_cell(float(share), shades, " " * ascii_only) for share in shares[j, :MOST_COLUMNS]]
        table.add_row(escaped(str(codes[j])), *cells, style="" if active[j] else "dim")
    left = len(codes) - MOST_ROWS, len(factors) - MOST_COLUMNS
    more = [f"{n} more {what}" for n, what in zip(left, ("codes", "factors"), strict=True) if n > 0]
    return Group(title, table, *(Text(f"· not shown: {' and '.join(more)}", style="dim") for _ in more[:1]))


def _cell(share: float, shades: str, gap: str) -> str:
    percent = round(100 * min(max(share, 0.0), 1.0))
    return f"{percent}{gap}{shades[round(percent / 100 * (len(shades) - 1))]}" if percent else ""
