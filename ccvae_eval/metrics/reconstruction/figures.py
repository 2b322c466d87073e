"""The figures of reconstruction."""

from __future__ import annotations

import numpy as np

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import MAGNITUDE, Figures, finding, image_grid, image_names, show_image, titled_sheet


def figures(measurement: Measurement) -> Figures:
    """Images above their reconstructions, and the error at each pixel."""
    found = finding(measurement, "mse", []).removeprefix("mean ").replace("chance", "of the mean image")
    pairs = measurement.pictures.get("pairs")
    if pairs is not None:
        title = f"Images and their reconstructions{f': {found}' if found else ''}"
        names = image_names(measurement)
        yield ("pairs",), image_grid(pairs, title, ("original", "reconstruction"), names)[0]
    error = measurement.pictures.get("mean/error")
    if error is not None:
        root = np.sqrt(np.asarray(error, dtype=float))
        sheet = titled_sheet(3.25, 2.4, f"Reconstruction error by pixel{f': {found}' if found else ''}")
        axes = sheet.subplots()
        drawn = show_image(axes, root, cmap=MAGNITUDE, vmin=0, vmax=float(root.max()) or 1.0)
        sheet.colorbar(drawn, ax=axes, shrink=0.9, label="root mean squared error\n(pixel intensity, 0 to 1)")
        yield ("error",), sheet
