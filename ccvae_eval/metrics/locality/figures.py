"""The figures of locality."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import (
    CLASS_COLOURS,
    MAGNITUDE,
    MAX_PANELS,
    Figures,
    Picture,
    effect_matrix,
    finding,
    image_grid,
    image_names,
    map_panels,
    score_text,
    show_image,
)
from ccvae_eval.rendering.text import nested, under

OUTLINE = CLASS_COLOURS[5]
FAINT = "Faint changes of many pixels, which the colours hardly show, count as well"
BINARY = 2


def figures(measurement: Measurement) -> Figures:
    """Traversal strips, change maps with the region's outline, two-dimensional traversals, and judged responses."""
    for name, strip in under(measurement.pictures, "strip").items():
        start, end, below = _ends(measurement, name)
        ends = [start, *[""] * (strip.shape[1] - 2), end]
        title = _score(measurement, [name])
        yield ("strips", name), image_grid(strip, title, image_names(measurement), ends, below)[0]
    for name, strips in nested(measurement, "pairs").items():
        grid = np.concatenate(list(strips.values()))
        ends = ["from", *[""] * (grid.shape[1] - 2), "to"]
        title = f"{name}: traversals between its classes, other latents fixed"
        yield ("pairs", name), image_grid(grid, title, list(strips), ends)[0]
    changes = dict(list(under(measurement.pictures, "mean/change").items())[:MAX_PANELS])
    if changes:
        yield ("change-maps",), _change_maps(measurement, changes)
    for name, grid in under(measurement.pictures, "grid").items():
        down, _, across = name.partition("|")
        rows, columns = (["absent", *[""] * (count - 2), "present"] for count in grid.shape[:2])
        title = f"{down} and {across} traversed together, other latents fixed"
        yield ("grid", down, across), image_grid(grid, title, rows, columns, across, down)[0]
    yield from effect_matrix(
        measurement, "response", "Judged change of each label (column) when a label (row) moves along its path",
        "change of the judge's probabilities", down="moved label", across="judged label",
    )  # fmt: skip


def _ends(measurement: Measurement, name: str) -> tuple[str, str, str]:
    """The names of the first and the last image of a strip, and of what lies between."""
    if measurement.settings.get("path") == "interpolation":
        return "reconstruction", "other image", "interpolation of all latents to an image of another class"
    label = name if f"classes/{name}" in measurement.names else name.rpartition("[")[0]  # "LABEL[column]"
    classes = measurement.names.get(f"classes/{label}", ())
    start, end = classes if len(classes) == BINARY else ("own class", "another") if classes else ("start", "end")
    return start, end, f"traversal of the latents of {name}, other latents fixed"


def _score(measurement: Measurement, shown: list[str]) -> str:
    """The focus; without regions the concentration of the change."""
    if score_text(measurement, "focus", shown[0] if len(shown) == 1 else None):
        return f"{finding(measurement, 'focus', shown)} – share of the change inside the region"
    return finding(measurement, "concentration", shown)


def _change_maps(measurement: Measurement, changes: Mapping[str, Picture]) -> Figure:
    regions = {
        name: np.asarray(region, dtype=float) for name, region in under(measurement.pictures, "mean/region").items()
    }
    base = measurement.pictures["mean/image"]
    found = _score(measurement, list(changes))
    title = "Mean change of the image over a traversal" + (f"\n{found}" if found else "")
    if any(np.ptp(region) > 0 for region in regions.values()):
        title += "; outline: the region"
    if found:
        title += f"\n{FAINT}"
    sheet, axes = map_panels(measurement, changes, title, 1.0, "share of the\nlargest change")
    for panel, (name, change) in zip(axes, changes.items(), strict=True):
        top = float(np.max(change)) or 1.0
        score = score_text(measurement, "focus", name) or score_text(measurement, "concentration", name)
        show_image(panel, np.asarray(base).mean(-1), f"{name}\n{score.split(' [')[0] or 'no value'}")
        share = np.clip(np.asarray(change, dtype=float) / top, 0, 1)
        panel.imshow(share, cmap=MAGNITUDE, vmin=0, vmax=1, alpha=share**0.5)
        region = regions.get(name)
        if region is not None and np.ptp(region) > 0:
            panel.contour(region, levels=[0.5 * float(np.max(region))], colors=OUTLINE, linewidths=0.8)
    return sheet
