"""Rasterisation of the polygons: one canvas for each face, drawn at twice the size and averaged."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ccvae_eval.data.sets.faces.parameters import Scenes
from ccvae_eval.data.sets.faces.parts import LAYERS, backdrop, placed

Canvas = NDArray[np.uint8]
Brush = tuple[list[NDArray[np.int32]], list[list[float]], list[bool] | None, list[float] | None]
UNITS = 64
SUPERSAMPLING = 2
FRACTION_BITS = 4
BLOCK = 256
"""Faces whose polygons are in memory at a time."""


class Easel:
    """Draws faces of one size.

    Args:
        size: edge of the square image in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.edge = size * SUPERSAMPLING
        self._scale = self.edge / UNITS * 2**FRACTION_BITS
        middle = (np.arange(size) + 0.5) / size - 0.5
        self._x, self._y = middle[None, :], middle[:, None]

    def backdrops(self, scenes: Scenes) -> Iterator[Canvas]:
        """The canvases with the background only, at drawing size."""
        top, bottom = backdrop(scenes)
        share = np.linspace(0, 1, self.edge)[:, None]
        rows = np.rint(top[:, None] + (bottom - top)[:, None] * share).astype(np.uint8)
        for row in rows:
            yield np.repeat(row[:, None], self.edge, axis=1)

    def draw_layers(self, scenes: Scenes, layers: range, canvases: Iterator[Canvas]) -> Iterator[Canvas]:
        """Draw some of the layers onto the canvases, one for each face, in place."""
        brushes = [brush for layer in layers for brush in self._brushes(scenes, layer)]
        for index, canvas in enumerate(canvases):
            for outlines, colors, shown, opacity in brushes:
                if shown is not None and not shown[index]:
                    continue
                contours = [outline[index] for outline in outlines]
                if opacity is None:
                    cv2.fillPoly(canvas, contours, colors[index], cv2.LINE_8, FRACTION_BITS)
                else:
                    _draw_translucent(canvas, contours, colors[index], opacity[index])
            yield canvas

    def _brushes(self, scenes: Scenes, layer: int) -> Iterator[Brush]:
        """The parts of one layer in OpenCV's form: fixed-point outlines and lists of plain numbers."""
        n = len(scenes)
        for part in LAYERS[layer](scenes):
            outlines = [
                np.rint(points * self._scale - 2 ** (FRACTION_BITS - 1)).astype(np.int32)
                for points in placed(part, scenes)
            ]
            colors = np.broadcast_to(np.clip(part.color, 0, 255), (n, 3)).tolist()
            shown = None if part.shown is None else part.shown.tolist()
            opacity = None if part.opacity is None else part.opacity.tolist()
            yield outlines, colors, shown, opacity

    def light_maps(self, scenes: Scenes) -> Iterator[NDArray[np.float32]]:
        """Brightness factor of each pixel, shape (size, size, 3): a linear gradient across the image."""
        side = scenes.between("light_side", -0.22, 0.22)
        height = scenes.between("light_height", -0.05, 0.2)
        for dx, dy in zip(side, height, strict=True):
            light = 1 - abs(dx) / 2 - abs(dy) / 2 + dx * self._x - dy * self._y
            yield np.repeat(light.astype(np.float32)[..., None], 3, axis=2)

    def finish(self, canvas: Canvas, light: NDArray[np.float32]) -> Canvas:
        """Downsample a canvas and apply the light map, shape (size, size, 3)."""
        small = cv2.resize(canvas, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.multiply(small, light, dtype=cv2.CV_8U), np.uint8)

    def draw(self, scenes: Scenes) -> Canvas:
        """Draw some faces, RGB, shape (N, size, size, 3)."""
        out = np.empty((len(scenes), self.size, self.size, 3), np.uint8)
        for first in range(0, len(scenes), BLOCK):
            block = scenes.rows(np.arange(first, min(first + BLOCK, len(scenes))))
            canvases = self.draw_layers(block, range(len(LAYERS)), self.backdrops(block))
            for index, (canvas, light) in enumerate(zip(canvases, self.light_maps(block), strict=True), start=first):
                out[index] = self.finish(canvas, light)
        return out


def _draw_translucent(canvas: Canvas, contours: list[NDArray[np.int32]], color: list[float], opacity: float) -> None:
    points = contours[0]
    low = np.maximum((points.min(axis=0) >> FRACTION_BITS) - 1, 0)
    high = np.maximum((points.max(axis=0) >> FRACTION_BITS) + 2, 1)
    corner = canvas[low[1] : high[1], low[0] : high[0]]
    tinted = corner.copy()
    offset = tuple(int(-v) << FRACTION_BITS for v in low)  # OpenCV takes it in the units of the points
    cv2.fillPoly(tinted, contours, color, cv2.LINE_8, FRACTION_BITS, offset)
    cv2.addWeighted(tinted, opacity, corner, 1 - opacity, 0, corner)
