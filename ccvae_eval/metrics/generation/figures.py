"""The figures of generation."""

from __future__ import annotations

import numpy as np

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import MAX_PANELS, Figures, image_grid
from ccvae_eval.rendering.text import plain, under


def figures(measurement: Measurement) -> Figures:
    """Samples from the prior, then from p(z|y) class by class, with the same noise in each column."""
    drawn = measurement.pictures.get("drawn")
    if drawn is None:
        return
    rows = {"unconditional": drawn, **under(measurement.pictures, "asked")}
    shown = dict(list(rows.items())[: MAX_PANELS + 10])
    sheet, axes = image_grid(np.concatenate(list(shown.values())), "Samples from the prior", beside=2.0)
    step = drawn.shape[2] + 1  # a row and the white line below it
    for row, name in enumerate(shown):
        axes.text(-3, (row + 0.5) * step, plain(name), ha="right", va="center", fontsize=6)
    yield ("drawn",), sheet
