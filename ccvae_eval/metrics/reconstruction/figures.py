"""The figures of reconstruction."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures, image_grid, show_image


def figures(measurement: Measurement) -> Figures:
    """Images above their reconstructions, and the error at each pixel."""
    pairs = measurement.pictures.get("pairs")
    if pairs is not None:
        yield ("pairs",), image_grid(pairs, "Images and their reconstructions")[0]
    error = measurement.pictures.get("mean/error")
    if error is not None:
        sheet = Figure(figsize=(2.6, 2.4), layout="constrained")
        axes = sheet.subplots()
        root = np.sqrt(np.asarray(error, dtype=float))
        top = float(root.max()) or 1.0
        show_image(axes, root, "Root mean squared error", cmap="inferno", vmin=0, vmax=top)
        sheet.colorbar(ScalarMappable(Normalize(0, top), "inferno"), ax=axes, shrink=0.8)
        yield ("error",), sheet
