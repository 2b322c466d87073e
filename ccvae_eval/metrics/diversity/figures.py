"""The figures of diversity."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures, image_grid, show_image, titled_panels
from ccvae_eval.rendering.text import under


def figures(measurement: Measurement) -> Figures:
    """Samples of each characteristic from p(z|y), and their standard deviation at each pixel."""
    for name, strip in under(measurement.pictures, "strip").items():
        yield ("draws", name), image_grid(strip, f"{name}: samples from p(z|y), other latents fixed")[0]
    maps = under(measurement.pictures, "mean/variance")
    if maps:
        sheet, axes = titled_panels(len(maps), 5, 1.7, 1.9, "Standard deviation over samples from p(z|y)")
        top = max(float(np.sqrt(np.max(m))) for m in maps.values()) or 1.0
        for panel, (name, variance) in zip(axes, maps.items(), strict=True):
            show_image(panel, np.sqrt(np.asarray(variance, dtype=float)), name, cmap="inferno", vmin=0, vmax=top)
        sheet.colorbar(ScalarMappable(Normalize(0, top), "inferno"), ax=sheet.axes, shrink=0.6)
        yield ("variance",), sheet
