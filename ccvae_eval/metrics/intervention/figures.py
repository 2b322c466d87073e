"""The figures of intervention."""

from __future__ import annotations

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import MAX_PANELS, Figures, effect_matrix, finding, image_grid, image_names
from ccvae_eval.rendering.text import under


def figures(measurement: Measurement) -> Figures:
    """Images, their reconstructions and the edited images, one row each, and the judged effect of every edit."""
    rows = ("original", "reconstruction")
    for name, images in list(under(measurement.pictures, "edits").items())[:MAX_PANELS]:
        title = finding(measurement, measurement.headline, [name])
        edits = (*rows, f"{name} set to another class", f"{name} swapped with another image")[: len(images)]
        yield ("edits", name), image_grid(images, title, edits, image_names(measurement))[0]
    assigned = measurement.pictures.get("assigned")
    if assigned is not None:
        text = str(measurement.settings.get("assign"))
        edits = (*rows, text)
        yield ("edits", "assigned"), image_grid(assigned, f"Labels set to {text}", edits, image_names(measurement))[0]
    yield from effect_matrix(
        measurement, "change", "Judged change of each label (column) when a label (row) is set to another class",
        "change of the judge's probabilities", down="edited label", across="judged label",
    )  # fmt: skip
