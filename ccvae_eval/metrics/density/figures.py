"""The figures of density."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Ellipse

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures, Picture, class_colours, score_text, titled_panels
from ccvae_eval.rendering.text import nested, plain


def figures(measurement: Measurement) -> Figures:
    """The codes of each characteristic by class, with p(z|y): densities, and points for two latent dimensions."""
    for kind, draw in (("curves", _draw_densities), ("scatter", _draw_points)):
        shown = nested(measurement, kind)
        if not shown:
            continue
        title = "Codes by class; dashed: the model's conditional prior p(z|y)"
        sheet, axes = titled_panels(len(shown), 3, 2.6, 1.9, title)
        for panel, (name, parts) in zip(axes, shown.items(), strict=True):
            draw(panel, parts)
            panel.tick_params(labelsize=6)
            panel.set_title(plain(f"{name}  {score_text(measurement, 'auc', name)}"), fontsize=7)
            classes = panel.get_legend_handles_labels()[1]
            panel.legend(fontsize=5, frameon=False, markerscale=3, ncols=1 + len(classes) // 8)
        yield (kind,), sheet


def _by_class(parts: Mapping[str, Picture]) -> Iterator[tuple[Any, str, Picture, Picture | None]]:
    """For each class its colour, its name, its picture and the picture of its prior."""
    classes = [name for name in parts if name != "grid" and not name.startswith("prior/")]
    for colour, name in zip(class_colours(len(classes)), classes, strict=True):
        yield colour, plain(name), parts[name], parts.get(f"prior/{name}")


def _draw_densities(axes: Any, parts: Mapping[str, Picture]) -> None:
    for colour, name, density, prior in _by_class(parts):
        axes.fill_between(parts["grid"], density, color=colour, alpha=0.35, label=name)
        if prior is not None:
            axes.plot(parts["grid"], prior, color=colour, linestyle="--", linewidth=1)
    axes.set_yticks([])


def _draw_points(axes: Any, parts: Mapping[str, Picture]) -> None:
    """Scatter plot of two latent dimensions; the prior as an ellipse of two standard deviations."""
    for colour, name, points, prior in _by_class(parts):
        axes.scatter(points[:, 0], points[:, 1], s=2, color=colour, alpha=0.5, linewidths=0, label=name)
        if prior is not None:
            (x, y), (wide, high) = (np.asarray(row, dtype=float) for row in prior)
            axes.add_patch(Ellipse((x, y), 4 * wide, 4 * high, fill=False, color=colour, linestyle="--", linewidth=1))
