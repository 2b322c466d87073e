"""Figures show every class, and their titles fit."""

from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.results import Measurement
from ccvae_eval.metrics.density.figures import figures
from ccvae_eval.rendering.figures import class_colours


@pytest.mark.parametrize("count", [2, 7, 8, 10, 20])
def test_every_class_has_its_own_colour_and_is_drawn(count: int) -> None:
    assert len(set(class_colours(count))) == count
    line = np.linspace(0, 1, 5)
    curves = {f"curves/digit/{k}": line for k in range(count)} | {"curves/digit/grid": line}
    points = {f"scatter/digit/{k}": np.zeros((3, 2)) for k in range(count)}
    priors = {f"scatter/digit/prior/{k}": np.ones((2, 2)) for k in range(count)}
    measurement = Measurement("density", 1, {}, "auc", pictures=curves | points | priors)
    sheets = dict(figures(measurement))
    for kind in ("curves", "scatter"):
        axes = sheets[kind,].axes[0]
        assert axes.get_legend_handles_labels()[1] == [str(k) for k in range(count)]
    assert len(sheets["scatter",].axes[0].patches) == count


def test_a_title_is_no_wider_than_its_figure() -> None:
    line = np.linspace(0, 1, 5)
    measurement = Measurement("density", 1, {}, "auc", pictures={"curves/a/grid": line, "curves/a/0": line})
    sheet = dict(figures(measurement))["curves",]
    sheet.canvas.draw()
    (title,) = sheet.texts
    assert title.get_window_extent().width <= sheet.bbox.width
