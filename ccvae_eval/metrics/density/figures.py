"""The figures of density."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import (
    NEUTRAL,
    TEXT_SIZE,
    Figures,
    Picture,
    class_colours,
    effect_matrix,
    finding,
    fitted,
    label_colours,
    not_shown,
    panel_title,
    score_text,
    titled_panels,
)
from ccvae_eval.rendering.text import nested, plain

OVERLAID = 3
"""Most classes whose densities are drawn over each other; more are drawn one above the other."""
SEPARATED, WEAK = 0.9, 0.7
"""AUC from which, and below which, the title says so."""
HEADROOM = 1.4
"""Height of a panel as a multiple of the highest density, so that the legend lies above the curves."""


def figures(measurement: Measurement) -> Figures:
    """The codes of each characteristic by class, with p(z|y): densities, and points for two latent dimensions."""
    for kind, draw in (("curves", _draw_densities), ("scatter", _draw_points)):
        shown = nested(measurement, kind)
        if not shown:
            continue
        found = [finding(measurement, "auc", list(shown)), _verdict(measurement, list(shown))]
        title = " – ".join(filter(None, found)) or "Codes by class"
        title = title[0].upper() + title[1:] if len(shown) > 1 else title
        if any(part.startswith("prior/") for parts in shown.values() for part in parts):
            title += "\nDashed: the model's conditional prior p(z|y)" + (
                ", two standard deviations" * (kind != "curves")
            )
        if kind == "curves":
            title += not_shown(measurement, shown)
        most = max(len(list(_classes(parts))) for parts in shown.values())
        height = max(1.75, 0.22 * most + 0.75) if kind == "curves" else 2.1
        sheet, axes = titled_panels(len(shown), 3, 2.25, height, title)
        for panel, (name, parts) in zip(axes, shown.items(), strict=True):
            draw(panel, parts, measurement, name)
            if len(shown) > 1:
                panel_title(panel, f"{name}\n{score_text(measurement, 'auc', name)}")
        yield (kind,), sheet
    yield from effect_matrix(
        measurement, "cross_auc", "Prediction of a label (column) from the latent dimensions of another (row)",
        "AUC (chance 0.50)", down="latent dimensions of", across="predicted label", least=0.5, diagonal="auc",
    )  # fmt: skip


def _verdict(measurement: Measurement, shown: list[str]) -> str:
    """The AUC and its interval against chance in words; "" if it is undefined."""
    name = shown[0] if len(shown) == 1 else None
    auc = next((v for v in measurement.values if v.name == "auc" and v.characteristic == name and not v.at), None)
    if auc is None or not auc.estimate.defined or auc.chance is None:
        return ""
    if not auc.estimate.low > auc.chance:
        return "own latents predict the label no better than chance"
    value = auc.estimate.value
    if value >= SEPARATED:
        return "own latents separate the classes"
    return f"own latents predict the label{' weakly' if value < WEAK else ''}"


def _classes(parts: Mapping[str, Picture]) -> Iterator[str]:
    return (name for name in parts if name != "grid" and not name.startswith("prior/"))


def _by_class(
    parts: Mapping[str, Picture], measurement: Measurement, label: str
) -> Iterator[tuple[Any, str, Picture, Picture | None]]:
    """For each class its colour, its name, its picture and the picture of its prior.

    A binary label has its own colour, and grey where it is absent.
    """
    names = list(_classes(parts))
    colours = class_colours(len(names))
    if set(names) <= {"absent", "present"}:
        own = label_colours(measurement).get(label, colours[0])
        colours = [own if name == "present" else NEUTRAL for name in names]
    for colour, name in zip(colours, names, strict=True):
        yield colour, plain(name), parts[name], parts.get(f"prior/{name}")


def _draw_densities(axes: Any, parts: Mapping[str, Picture], measurement: Measurement, label: str) -> None:
    grid = parts["grid"]
    drawn = list(_by_class(parts, measurement, label))
    top = max(float(np.max(curve)) for _, _, *curves in drawn for curve in curves if curve is not None) or 1.0
    apart = top * 0.8 if len(drawn) > OVERLAID else 0.0
    for k, (colour, name, density, prior) in enumerate(drawn):
        base = apart * (len(drawn) - 1 - k)
        axes.fill_between(
            grid,
            base,
            base + np.asarray(density, dtype=float),
            color=colour,
            alpha=0.35,
            linewidth=0,
            label=fitted(name, 0.8),
            zorder=2 + k,
        )
        axes.plot(grid, base + np.asarray(density, dtype=float), color=colour, zorder=2 + k)
        if prior is not None:
            axes.plot(
                grid,
                base + np.asarray(prior, dtype=float),
                color="#333333" if apart else colour,
                linestyle="--",
                linewidth=1,
                zorder=30,
            )
    if apart:
        names = [fitted(name, 0.8) for _, name, _, _ in drawn]
        axes.set_yticks([apart * (len(drawn) - 1 - k) for k in range(len(drawn))], names)
        axes.tick_params(axis="y", length=0)
        axes.set_ylabel("density by class")
    else:
        axes.set_yticks([])
        axes.set_ylabel("density")
        axes.set_ylim(0, HEADROOM * top)
        axes.legend(loc="upper center", ncols=len(drawn), borderaxespad=0.1)
    axes.set_xlabel(_axis_name(measurement, label, binary=len(drawn) == 2))


def _axis_name(measurement: Measurement, label: str, *, binary: bool) -> str:
    """The name of the axis of the codes; with several latent dimensions the note of the AUC has their number."""
    notes = [v.note for v in measurement.values if v.name == "auc" and v.characteristic == label]
    score = next((part for note in notes for part in note.split("; ") if part.startswith("linear score of")), "")
    if not score:
        return "own latent dimension"
    return score.replace("latent dimensions", "latents") if binary else "first own latent dimension"


def _draw_points(axes: Any, parts: Mapping[str, Picture], measurement: Measurement, label: str) -> None:
    """Scatter plot of two latent dimensions; the prior as an ellipse of two standard deviations."""
    for colour, name, points, prior in _by_class(parts, measurement, label):
        axes.scatter(points[:, 0], points[:, 1], s=5, color=colour, alpha=0.7, linewidths=0, label=name, zorder=3)
        if prior is not None:
            (x, y), (wide, high) = (np.asarray(row, dtype=float) for row in prior)
            outline = {"fill": False, "color": colour, "linestyle": "--", "linewidth": 0.8, "zorder": 2}
            axes.add_patch(Ellipse((x, y), 4 * wide, 4 * high, **outline))
        halo = [withStroke(linewidth=2, foreground="white")]
        x, y = np.median(np.asarray(points, dtype=float), axis=0)
        axes.text(x, y, fitted(name, 1.0), ha="center", va="center", size=TEXT_SIZE, path_effects=halo, zorder=5)
    axes.grid(visible=True)
    axes.margins(0.08)
    axes.set_xlabel("own latent dimension 1")
    axes.set_ylabel("own latent dimension 2")
