"""The figures of locality."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import (
    MAX_PANELS,
    Figures,
    Picture,
    image_grid,
    score_text,
    show_image,
    tiled,
    titled_panels,
)
from ccvae_eval.rendering.text import nested, plain, under


def figures(measurement: Measurement) -> Figures:
    """Traversal strips, change maps with the region's outline, and two-dimensional traversals."""
    for name, strip in under(measurement.pictures, "strip").items():
        if measurement.settings.get("path") == "interpolation":
            title = f"{name}: interpolation to an image of another class"
        else:
            title = f"{name}: traversal of its latents, others fixed"
        yield ("strips", name), image_grid(strip, title)[0]
    for name, strips in nested(measurement, "pairs").items():
        sheet, axes = image_grid(
            np.concatenate(list(strips.values())), f"{name}: traversals between classes", beside=2.0
        )
        high = next(iter(strips.values())).shape[2] + 1
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([high * (row + 0.5) for row in range(len(strips))], [plain(which) for which in strips])
        axes.tick_params(labelsize=7, length=0)
        yield ("pairs", name), sheet
    changes = dict(list(under(measurement.pictures, "mean/change").items())[:MAX_PANELS])
    if changes:
        yield ("change-maps",), _change_maps(measurement, changes)
    for name, grid in under(measurement.pictures, "grid").items():
        tile = tiled(grid)
        sheet = Figure(figsize=(4.2, 4.5), layout="constrained")
        show_image(sheet.subplots(), tile, " down, ".join(name.split("|", 1)) + " across")
        yield ("grid", name), sheet


def _change_maps(measurement: Measurement, changes: Mapping[str, Picture]) -> Figure:
    regions = under(measurement.pictures, "mean/region")
    base = measurement.pictures["mean/image"]
    outline = " (outline: the characteristic's region)" if regions else ""
    sheet, axes = titled_panels(len(changes), 5, 1.7, 1.9, f"Mean change of the image over a traversal{outline}")
    for panel, (name, change) in zip(axes, changes.items(), strict=True):
        top = float(np.max(change)) or 1.0
        score = score_text(measurement, "focus", name) or score_text(measurement, "concentration", name)
        show_image(panel, np.asarray(base).mean(-1), f"{name}\n{score}")
        panel.imshow(change, cmap="inferno", alpha=np.clip(np.asarray(change, dtype=float) / top, 0, 1) ** 0.5)
        region = np.asarray(regions.get(name, 0), dtype=float)
        if np.ptp(region) > 0:
            panel.contour(region, levels=[0.5 * float(np.max(region))], colors="#66ccee", linewidths=0.8)
    return sheet
