"""The figures of diversity."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import (
    MAGNITUDE,
    Figures,
    finding,
    image_grid,
    image_names,
    not_shown,
    score_text,
    show_image,
    titled_panels,
)
from ccvae_eval.rendering.text import under


def figures(measurement: Measurement) -> Figures:
    """Samples of each characteristic from p(z|y), and their standard deviation at each pixel."""
    for name, strip in under(measurement.pictures, "strip").items():
        title = finding(measurement, "spread_valid", [name])
        below = "samples of its latents from p(z|y), other latents fixed"
        yield ("draws", name), image_grid(strip, title, image_names(measurement), below=below)[0]
    maps = under(measurement.pictures, "mean/variance")
    if maps:
        found = finding(measurement, "spread_valid", list(maps))
        title = f"Standard deviation over samples from p(z|y){f': {found}' if found else ''}"
        sheet, axes = titled_panels(len(maps), 5, 1.35, 1.6, title + not_shown(measurement, maps))
        top = max(float(np.sqrt(np.max(m))) for m in maps.values()) or 1.0
        for panel, (name, variance) in zip(axes, maps.items(), strict=True):
            text = (
                f"{name}\n{score_text(measurement, 'spread_valid', name).split(' [')[0].split(' ')[-1] or 'no value'}"
            )
            shown = np.sqrt(np.asarray(variance, dtype=float))
            show_image(panel, shown, text, cmap=MAGNITUDE, vmin=0, vmax=top)
        bar = ScalarMappable(Normalize(0, top), MAGNITUDE)
        sheet.colorbar(bar, ax=sheet.axes, shrink=0.7, label="pixel intensity\n(0 to 1)")
        yield ("variance",), sheet
