"""Outlines of many faces at once: every shape is a polygon for each face, shape (N, P, 2), in 64ths of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccvae_eval.types import Floats

Number = Floats | float


def superellipse(
    center: tuple[Number, Number], radii: tuple[Number, Number], power: Number = 2.0, corners: int = 28
) -> Floats:
    r"""The curve :math:`|x/a|^p + |y/b|^p = 1`: an ellipse at p = 2, a rounded box beyond."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    exponent = 2 / column(power)
    cosine, sine = np.cos(angle), np.sin(angle)
    x = column(center[0]) + column(radii[0]) * np.sign(cosine) * np.abs(cosine) ** exponent
    y = column(center[1]) + column(radii[1]) * np.sign(sine) * np.abs(sine) ** exponent
    return stacked(x, y)


def polygon(corners: Sequence[tuple[Number, Number]]) -> Floats:
    """A polygon from its corners, each a number for each face or the same number for all."""
    x = np.broadcast_arrays(*(np.atleast_1d(np.asarray(corner[0], np.float64)) for corner in corners))
    y = np.broadcast_arrays(*(np.atleast_1d(np.asarray(corner[1], np.float64)) for corner in corners))
    return stacked(np.stack(x, axis=1), np.stack(y, axis=1))


def stroke(line: Floats, half_width: Floats) -> Floats:
    r"""The outline of a line of some width.

    Args:
        line: the points of the line, shape :math:`(N, P, 2)`.
        half_width: half its width at each point, shape :math:`(N, P)` or broadcastable to it.
    """
    along = np.gradient(line, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-9)
    across = np.stack([-along[..., 1], along[..., 0]], axis=2) * np.broadcast_to(half_width, line.shape[:2])[..., None]
    return np.concatenate([line + across, (line - across)[:, ::-1]], axis=1)


def column(value: Number) -> Floats:
    """Numbers, one for each face, as a column that broadcasts against the points of a polygon."""
    return np.atleast_1d(np.asarray(value, np.float64))[:, None]


def stacked(x: Floats, y: Floats) -> Floats:
    """Points from their coordinates, each shape (N, P) or (1, P)."""
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def turned(points: Floats, pivot: tuple[float, float], angle: Floats, shift: Floats) -> Floats:
    """Points turned about a pivot (radians) and shifted by (x, y), one angle and shift for each face."""
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0] - pivot[0], points[..., 1] - pivot[1]
    return stacked(
        pivot[0] + cosine * x - sine * y + shift[:, :1],
        pivot[1] + sine * x + cosine * y + shift[:, 1:],
    )


def rgb(hue: Number, saturation: Number, value: Number) -> Floats:
    """Colours in 0 .. 255 from hue, saturation and value in [0, 1], shape (N, 3)."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * column(hue)) % 6
    return np.asarray(255 * column(value) * (1 - column(saturation) * np.clip(np.minimum(k, 4 - k), 0, 1)))


def blend(start: Floats, end: Floats, share: Floats) -> Floats:
    """Colours between two, share 0 the first and 1 the second, shape (N, 3)."""
    return np.asarray(start + (end - start) * column(share))
