"""The tables of density in the terminal: its values, and the density of each class as a line of block characters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.rendering.tables import metric_tables
from ccvae_eval.rendering.text import escaped, nested

CLASS_STYLES = ("cyan", "magenta", "yellow", "green", "blue")
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
CURVE_WIDTH = 48


def tables(
    measurement: Measurement, specs: Mapping[str, ValueSpec], *, verbose: bool = False, ascii_only: bool = False
) -> RenderableType:
    """The tables of the values, then the density curves."""
    values = metric_tables(measurement, specs, verbose=verbose)
    if not measurement.pictures:
        return values
    return Group(values, Text(""), density_curves(measurement, ascii_only=ascii_only))


def curve(density: np.ndarray[tuple[int], np.dtype[np.float64]], top: float, *, ascii_only: bool = False) -> str:
    """A density as one line of block characters; ``top`` is a full block."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    positions = np.linspace(0, len(density) - 1, CURVE_WIDTH)
    heights = np.interp(positions, np.arange(len(density)), density) / top if top > 0 else np.zeros(CURVE_WIDTH)
    return "".join(blocks[round(float(h) * (len(blocks) - 1))] for h in np.clip(heights, 0, 1))


def density_curves(measurement: Measurement, *, ascii_only: bool = False) -> RenderableType:
    """The density of each class on the characteristic's axis, one line per class, from ``Density``'s pictures."""
    table = Table.grid(padding=(0, 1))
    for name, parts in nested(measurement, "curves").items():
        shown = {label: array for label, array in parts.items() if label != "grid" and not label.startswith("prior/")}
        classes = {label: np.asarray(array, dtype=np.float64) for label, array in shown.items()}
        top = max((float(density.max()) for density in classes.values()), default=0.0)
        for index, (label, density) in enumerate(classes.items()):
            line = Text(curve(density, top, ascii_only=ascii_only), style=CLASS_STYLES[index % len(CLASS_STYLES)])
            table.add_row(escaped(name) if index == 0 else "", escaped(label), line)
    return table
