"""The figures of diversity."""

from __future__ import annotations

import numpy as np

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import (
    MAGNITUDE,
    Figures,
    finding,
    image_grid,
    image_names,
    map_panels,
    score_text,
    show_image,
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
        top = max(float(np.sqrt(np.max(m))) for m in maps.values()) or 1.0
        sheet, axes = map_panels(measurement, maps, title, top, "pixel intensity\n(0 to 1)")
        for panel, (name, variance) in zip(axes, maps.items(), strict=True):
            number = score_text(measurement, "spread_valid", name).split(" [")[0].split(" ")[-1] or "no value"
            shown = np.sqrt(np.asarray(variance, dtype=float))
            show_image(panel, shown, f"{name}\n{number}", cmap=MAGNITUDE, vmin=0, vmax=top)
        yield ("variance",), sheet
