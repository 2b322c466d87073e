"""Draws docs/pictures/face-boxes.png: the boxes of CelebA's local attributes on a schematic face, with the image frame
of each data set.

python tools/boxes.py
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np

from ccvae_eval.data.images.regions import FACE_BOX_OF, FACE_BOXES, FRAMES

UNIT = 60
PANEL = (300, 400)
MIDDLE = (150, 190)
INK, PAPER, BOX, FRAME = (90, 90, 90), 255, (170, 60, 30), (60, 140, 60)


def at(x: float, y: float) -> tuple[int, int]:
    """The pixel of a panel at coordinates in units of the distance between the eyes."""
    return round(MIDDLE[0] + x * UNIT), round(MIDDLE[1] + y * UNIT)


def face(panel: np.ndarray) -> None:
    """Draws head, hair, eyes, brows, ears, neck, nose and mouth of an aligned face."""

    def oval(x: float, y: float, across: float, down: float, start: int = 0, end: int = 360) -> None:
        axes = round(across * UNIT), round(down * UNIT)
        cv2.ellipse(panel, at(x, y), axes, 0, start, end, INK, 1, cv2.LINE_AA)

    oval(0, 0.35, 1.3, 1.65)
    oval(0, -0.1, 1.5, 1.75, 180, 360)
    for side in (-1, 1):
        oval(side * 0.5, 0, 0.22, 0.1)
        oval(side * 0.5, -0.15, 0.32, 0.17, 200, 340)
        oval(side * 1.38, 0.3, 0.12, 0.35)
        cv2.line(panel, at(side * 0.6, 1.8), at(side * 0.65, 3.4), INK, 1, cv2.LINE_AA)
    oval(0, 0.63, 0.2, 0.12, 0, 180)
    oval(0, 1.08, 0.42, 0.14)


def panel(name: str) -> np.ndarray:
    """The face with one set of boxes, the attributes that use it, and the edges of the frames."""
    image = np.full((PANEL[1], PANEL[0], 3), PAPER, np.uint8)
    face(image)
    for frame in FRAMES.values():
        left, right, top, bottom = frame.middle()
        x, y = frame.eyes
        corners = [((a - x) / frame.unit, (b - y) / frame.unit) for a, b in ((left, top), (right, bottom))]
        cv2.rectangle(image, at(*corners[0]), at(*corners[1]), FRAME, 1, cv2.LINE_AA)
    shade = image.copy()
    for first, last, high, low in FACE_BOXES[name]:
        cv2.rectangle(shade, at(first, high), at(last, low), BOX, -1)
    image = cv2.addWeighted(shade, 0.35, image, 0.65, 0)
    labels = ", ".join(label for label, boxes in FACE_BOX_OF.items() if boxes == name)
    cv2.putText(image, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for row, part in enumerate(wrap(labels, 48)):
        cv2.putText(image, part, (6, 378 - 12 + 14 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def main() -> None:
    """Writes the picture."""
    panels = [panel(name) for name in FACE_BOXES]
    blank = np.full_like(panels[0], PAPER)
    columns = 5
    panels += [blank] * (-len(panels) % columns)
    rows = [np.hstack(panels[i : i + columns]) for i in range(0, len(panels), columns)]
    path = Path("docs/pictures/face-boxes.png")
    cv2.imwrite(str(path), cv2.resize(np.vstack(rows), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    print(path)


if __name__ == "__main__":
    main()
