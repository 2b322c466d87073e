"""The figures of generation."""

from __future__ import annotations

import numpy as np

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import MAX_PANELS, Figures, image_grid
from ccvae_eval.rendering.text import nested


def figures(measurement: Measurement) -> Figures:
    """Samples from the prior, then from p(z|y) class by class, with the same noise in each column."""
    drawn = measurement.pictures.get("drawn")
    if drawn is None:
        return
    asked = {
        f"{label} = {name}": images
        for label, parts in nested(measurement, "asked").items()
        for name, images in parts.items()
    }
    rows = dict(list({"p(z)": drawn, **asked}.items())[: MAX_PANELS + 10])
    title = "Samples from the prior" + (" p(z), and from p(z|y) for each class" if asked else " p(z)")
    if hidden := len(asked) + 1 - len(rows):
        title += f". Not shown: {hidden} classes"
    below = "samples, with the same noise in each column"
    yield ("drawn",), image_grid(np.concatenate(list(rows.values())), title, list(rows), below=below)[0]
