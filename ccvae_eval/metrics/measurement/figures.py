"""The figure of measurement."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures, heat_map, score_text

EXPECTED, EXTRA, MISSING = "#009E73", "#D55E00", "#CC79A7"
"""Outlines of own labels that are found, of foreign ones that are found, and of own ones that are missing."""


def figures(measurement: Measurement) -> Figures:
    """The size of each conditional dependence, with outlines of those found and of missing own labels."""
    kept = measurement.pictures
    if "dependence" not in kept:
        return
    rows, labels = (list(map(str, kept[key])) for key in ("characteristics", "labels"))
    columns = [*(name for name in rows if name in labels), *(name for name in labels if name not in rows)]
    order = [labels.index(name) for name in columns]
    sizes = np.asarray(kept["dependence"], dtype=np.float64)[:, order]
    found = np.asarray(kept["found"], dtype=bool)[:, order]
    title = (
        "Dependence of latent dimensions (row) on a label (column) given all other labels: "
        f"{score_text(measurement, 'distance', None, chance=True)}\n"
        "Outlined: own label found (green), foreign label found (orange), own label missing (pink)"
    )
    bar = "residual covariance / its sd (1: or more)"
    sheet = heat_map(np.minimum(sizes, 1.0), rows, columns, title, "latent dimensions of", "label", bar)
    for (j, k), dependent in np.ndenumerate(found):
        own = rows[j] == columns[k]
        if dependent or own:
            colour = MISSING if not dependent else EXPECTED if own else EXTRA
            sheet.axes[0].add_patch(
                Rectangle((k - 0.46, j - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=1.8)
            )
    yield ("dependence",), sheet
