"""The figures of intervention."""

from __future__ import annotations

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import MAX_PANELS, Figures, image_grid
from ccvae_eval.rendering.text import under


def figures(measurement: Measurement) -> Figures:
    """Images, their reconstructions and the edited images, one row each."""
    rows = under(measurement.pictures, "edits")
    titles = {name: f"{name}: image, reconstruction, set to another class, swapped" for name in rows}
    assigned = measurement.pictures.get("assigned")
    if assigned is not None:
        rows["assigned"] = assigned
        titles["assigned"] = f"Image, reconstruction, set to {measurement.settings.get('assign')}"
    for name, images in list(rows.items())[:MAX_PANELS]:
        yield ("edits", name), image_grid(images, titles[name])[0]
