"""The figures of drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import MAX_PANELS, Figures, show_image, titled_panels
from ccvae_eval.rendering.text import under


def figures(measurement: Measurement) -> Figures:
    """Keypoints of the reconstruction matched in the edited image, coloured by the matcher's confidence."""
    names = list(under(measurement.pictures, "after"))
    before = measurement.pictures.get("before")
    if before is None or not names:
        return
    for name in names[:MAX_PANELS]:
        after = measurement.pictures[f"after/{name}"]
        points = measurement.pictures[f"keypoints/{name}"]
        count = min(len(after), 4)
        title = f"{name}: keypoint matches after the edit (blue: confident, red: uncertain, x: lost)"
        sheet, axes = titled_panels(2 * count, count, 2.0, 2.1, title)
        for i in range(count):
            show_image(axes[i], before[i], "reconstruction" if i == 0 else "")
            show_image(axes[count + i], after[i], f"do({name})" if i == 0 else "")
            _scatter(axes[count + i], np.asarray(points[i], dtype=float))
        yield ("matches", name), sheet


def _scatter(axes: Any, points: NDArray[np.float64]) -> None:
    """Draws points, shape (P, 6): x, y, matched x, matched y, confidence, matched or not; NaN rows are padding."""
    points = points[~np.isnan(points[:, 0])]
    matched = points[:, 5] > 0
    kept, lost = points[matched], points[~matched]
    if len(kept):
        lines = np.stack([kept[:, :2], kept[:, 2:4]], 1)
        shown: dict[str, Any] = {"cmap": "coolwarm_r", "norm": Normalize(0, 1)}
        axes.add_collection(LineCollection(list(lines), array=kept[:, 4], linewidths=0.6, **shown))
        axes.scatter(kept[:, 2], kept[:, 3], c=kept[:, 4], s=5, **shown)
    if len(lost):
        axes.scatter(lost[:, 0], lost[:, 1], color="#cc3311", marker="x", s=8, linewidths=0.7)
