"""The figures of drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import (
    CLASS_COLOURS,
    MAX_PANELS,
    Figures,
    finding,
    image_names,
    show_image,
    titled_panels,
)
from ccvae_eval.rendering.text import under

SHOWN = 4
"""Images of one figure."""
CONFIDENCE: dict[str, Any] = {"cmap": "viridis", "norm": Normalize(0, 1)}
LOST = CLASS_COLOURS[1]


def figures(measurement: Measurement) -> Figures:
    """Keypoints of the reconstruction matched in the edited image, coloured by the matcher's confidence."""
    names = list(under(measurement.pictures, "after"))
    before = measurement.pictures.get("before")
    if before is None or not names:
        return
    ids = image_names(measurement)
    for name in names[:MAX_PANELS]:
        after = measurement.pictures[f"after/{name}"]
        points = measurement.pictures[f"keypoints/{name}"]
        count = min(len(after), SHOWN)
        title = (
            f"{finding(measurement, 'spill', [name])}\nKeypoints of the reconstruction (above), matched after the edit"
        )
        sheet, axes = titled_panels(2 * count, count, 1.55, 1.75, title)
        for i in range(count):
            show_image(axes[i], before[i], f"{ids[i]}, reconstruction" if ids else "reconstruction")
            show_image(axes[count + i], after[i], f"do({name})")
            _scatter(axes[count + i], np.asarray(points[i], dtype=float))
        bar = sheet.colorbar(ScalarMappable(**CONFIDENCE), ax=axes, shrink=0.6, label="confidence\nof the match")
        cross = Line2D([], [], color=LOST, marker="x", linestyle="none", markersize=4, label="lost")
        line = Line2D([], [], color="#444444", linewidth=0.8, label="displacement")
        sheet.legend(handles=[cross, line], loc="outside lower center", ncols=2)
        bar.outline.set_linewidth(0.5)
        yield ("matches", name), sheet


def _scatter(axes: Any, points: NDArray[np.float64]) -> None:
    """Draws points, shape (P, 6): x, y, matched x, matched y, confidence, matched or not; NaN rows are padding."""
    points = points[~np.isnan(points[:, 0])]
    matched = points[:, 5] > 0
    kept, lost = points[matched], points[~matched]
    if len(kept):
        lines = np.stack([kept[:, :2], kept[:, 2:4]], 1)
        axes.add_collection(LineCollection(list(lines), array=kept[:, 4], linewidths=0.8, **CONFIDENCE))
        axes.scatter(kept[:, 2], kept[:, 3], c=kept[:, 4], s=5, linewidths=0, **CONFIDENCE)
    if len(lost):
        axes.scatter(lost[:, 0], lost[:, 1], color=LOST, marker="x", s=9, linewidths=0.8)
