"""The figures of the panel."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures
from ccvae_eval.rendering.text import plain


def figures(measurement: Measurement) -> Figures:
    """Mutual information of codes and factors, and the association between factors, as heat maps."""
    pictures = measurement.pictures
    codes, factors = ([plain(str(name)) for name in pictures[key]] for key in ("codes", "factors"))
    information = np.asarray(pictures["information"], dtype=np.float64)
    yield ("information",), _heat_map(information, codes, factors, "Mutual information / entropy of the factor")
    if len(factors) > 1:
        correlation = np.asarray(pictures["correlation"], dtype=np.float64)
        yield ("factors",), _heat_map(correlation, factors, factors, "Association of the factors (Cramér's V)")


def _heat_map(
    shares: np.ndarray[tuple[int, int], np.dtype[np.float64]], rows: list[str], columns: list[str], title: str
) -> Figure:
    """A matrix of numbers from 0 to 1; numbers are written into the cells of a small one."""
    height, width = min(0.24 * len(rows) + 1.6, 30.0), min(0.4 * len(columns) + 2.4, 30.0)
    sheet = Figure(figsize=(width, height), layout="constrained")
    axes = sheet.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_title(plain(title), fontsize=8)
    if len(columns) <= 80:
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    if len(rows) <= 120:
        axes.set_yticks(range(len(rows)), rows, fontsize=6)
    for (j, k), share in np.ndenumerate(shares) if shares.size <= 300 else ():
        if not math.isnan(share):
            colour = "black" if share > 0.6 else "white"
            axes.text(k, j, f"{share:.2f}", ha="center", va="center", fontsize=5, color=colour)
    sheet.colorbar(shown, ax=axes, shrink=0.8)
    return sheet
