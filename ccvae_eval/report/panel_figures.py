"""The disentanglement panel's figures: two heat maps. (Apart from its tables, which need no matplotlib.)"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from ccvae_eval.measure import Measurement
from ccvae_eval.report.text import plain


def panel_figures(measurement: Measurement) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """The information matrix and the association of the factors, as heat maps."""
    pictures = measurement.pictures
    codes, factors = ([plain(str(name)) for name in pictures[key]] for key in ("codes", "factors"))
    information = np.asarray(pictures["information"], dtype=np.float64)
    yield ("information",), _map(information, codes, factors, "Information over the factor's entropy")
    if len(factors) > 1:
        correlation = np.asarray(pictures["correlation"], dtype=np.float64)
        yield ("factors",), _map(correlation, factors, factors, "Association of the factors (Cramér's V)")


def _map(shares: np.ndarray[tuple[int, int], np.dtype[np.float64]], rows: list[str], columns: list[str],
         title: str) -> Figure:  # fmt: skip
    height, width = min(0.24 * len(rows) + 1.6, 30.0), min(0.4 * len(columns) + 2.4, 30.0)
    sheet = Figure(figsize=(width, height), layout="constrained")
    axes = sheet.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_title(plain(title), fontsize=8)
    if len(columns) <= 80:
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    if len(rows) <= 120:
        axes.set_yticks(range(len(rows)), rows, fontsize=6)
    if shares.size <= 300:
        for j, row in enumerate(shares):
            for k, share in enumerate(row):
                if not math.isnan(share):
                    colour = "black" if share > 0.6 else "white"
                    axes.text(k, j, f"{share:.2f}", ha="center", va="center", fontsize=5, color=colour)
    sheet.colorbar(shown, ax=axes, shrink=0.8)
    return sheet
