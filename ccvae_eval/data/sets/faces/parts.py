"""The parts of a face: coloured polygons in layers.

All functions draw N faces at once: a polygon has the shape (N, P, 2), in 64ths of the image. From top to bottom, the
local attributes are hat, bangs, eyebrows, glasses, mustache, mouth and tie; hair and skin cover larger areas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.data.sets.faces.parameters import BALD, Scenes

Number = Floats | float


def superellipse(
    center: tuple[Number, Number], radii: tuple[Number, Number], power: Number = 2.0, corners: int = 28
) -> Floats:
    r"""The curve :math:`|x/a|^p + |y/b|^p = 1`: an ellipse for p = 2, a rounded box for larger p."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    exponent = 2 / column(power)
    cosine, sine = np.cos(angle), np.sin(angle)
    x = column(center[0]) + column(radii[0]) * np.sign(cosine) * np.abs(cosine) ** exponent
    y = column(center[1]) + column(radii[1]) * np.sign(sine) * np.abs(sine) ** exponent
    return stacked(x, y)


def polygon(corners: Sequence[tuple[Number, Number]]) -> Floats:
    """A polygon from its corners; a coordinate is one number for each face, or one for all."""
    x = np.broadcast_arrays(*(np.atleast_1d(np.asarray(corner[0], np.float64)) for corner in corners))
    y = np.broadcast_arrays(*(np.atleast_1d(np.asarray(corner[1], np.float64)) for corner in corners))
    return stacked(np.stack(x, axis=1), np.stack(y, axis=1))


def stroke(line: Floats, half_width: Floats) -> Floats:
    r"""The outline of a line with a width.

    Args:
        line: the points of the line, shape :math:`(N, P, 2)`.
        half_width: half the width at each point, shape :math:`(N, P)` or broadcastable to it.
    """
    along = np.gradient(line, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-9)
    across = np.stack([-along[..., 1], along[..., 0]], axis=2) * np.broadcast_to(half_width, line.shape[:2])[..., None]
    return np.concatenate([line + across, (line - across)[:, ::-1]], axis=1)


def band(x: Floats, upper: Floats, lower: Floats) -> Floats:
    """The area between two curves over the same x; all of shape (N, P) or (1, P)."""
    x, upper, lower = np.broadcast_arrays(x, upper, lower)
    return stacked(np.concatenate([x, x[:, ::-1]], axis=1), np.concatenate([upper, lower[:, ::-1]], axis=1))


def column(value: Number) -> Floats:
    """Numbers, one for each face, reshaped to broadcast against the points of a polygon, shape (N, 1)."""
    return np.atleast_1d(np.asarray(value, np.float64))[:, None]


def stacked(x: Floats, y: Floats) -> Floats:
    """Points from their coordinates, each of shape (N, P) or (1, P)."""
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def turned(points: Floats, pivot: tuple[float, float], angle: Floats, shift: Floats) -> Floats:
    """Points rotated about a pivot (radians) and shifted by (x, y), with an angle and shift for each face."""
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0] - pivot[0], points[..., 1] - pivot[1]
    return stacked(pivot[0] + cosine * x - sine * y + shift[:, :1], pivot[1] + sine * x + cosine * y + shift[:, 1:])


def rgb(hue: Number, saturation: Number, value: Number) -> Floats:
    """Colours in 0 .. 255 from hue, saturation and value in [0, 1], shape (N, 3)."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * column(hue)) % 6
    return np.asarray(255 * column(value) * (1 - column(saturation) * np.clip(np.minimum(k, 4 - k), 0, 1)))


def blend(start: Floats, end: Floats, share: Floats) -> Floats:
    """Colours between ``start`` (share 0) and ``end`` (share 1), shape (N, 3)."""
    return np.asarray(start + (end - start) * column(share))


PIVOT = (32.0, 34.0)
SIDES = (-1.0, 1.0)
INK = np.array([[38.0, 28.0, 30.0]])
WHITE = np.array([[250.0, 250.0, 248.0]])
PALE = np.array([[255.0, 246.0, 240.0]])
BROW_LINE, EYE_LINE, MOUTH_LINE, CHIN = 23.0, 30.6, 46.2, 53.0
SHADE = np.array([[0.9, 0.82, 0.78]])


@dataclass(frozen=True, slots=True)
class Part:
    """One polygon of each face.

    Args:
        contours: the outline, shape :math:`(N, P, 2)`; a second one cuts a hole.
        color: RGB from 0 to 255, shape :math:`(N, 3)`.
        shown: True for the faces on which it is drawn, shape :math:`(N,)`; None = all.
        opacity: opacity in [0, 1], shape :math:`(N,)`; None = opaque.
        on_head: True if it moves with the head, False if with the body.
    """

    contours: tuple[Floats, ...]
    color: Floats
    shown: Bools | None = None
    opacity: Floats | None = None
    on_head: bool = True


def placed(part: Part, scenes: Scenes) -> list[Floats]:
    """The contours of a part after the pose of each face; the body shifts half as far as the head and does not tilt."""
    shift = np.stack([scenes.between("shift_x", -2.0, 2.0), scenes.between("shift_y", -1.0, 1.0)], axis=1)
    angle = np.deg2rad(scenes.between("tilt", -6.0, 6.0))
    if not part.on_head:
        shift, angle = shift / 2, np.zeros_like(angle)
    return [turned(contour, PIVOT, angle, shift) for contour in part.contours]


def backdrop(scenes: Scenes) -> tuple[Floats, Floats]:
    """The colours of the background at the top and at the bottom, each (N, 3)."""
    hue = scenes.between("background_color", 0.45, 0.95)
    value = scenes.between("background_light", 0.55, 0.9)
    fade = scenes.between("background_gradient", -0.25, 0.25)
    return rgb(hue, 0.3, np.clip(value + fade, 0.3, 1)), rgb(hue, 0.3, np.clip(value - fade, 0.3, 1))


def skin(scenes: Scenes) -> Floats:
    """The colour of the skin, shape (N, 3)."""
    tan, brown = np.array([[226.0, 166.0, 120.0]]), np.array([[168.0, 108.0, 72.0]])
    tone = blend(tan, brown, scenes.between("skin_tone", 0.0, 1.0))
    degree = np.where(scenes.has("Pale_Skin"), scenes.between("Pale_Skin.degree", 0.7, 1.0), 0.0)
    return blend(tone, PALE, degree)


def hair_color(scenes: Scenes) -> Floats:
    """The colour of the hair, shape (N, 3): each class ranges from dark to light, and the ranges do not overlap."""
    dark = np.array([[46, 30, 30], [16, 14, 20], [214, 160, 52], [92, 46, 20], [146, 148, 156]], float)
    light = np.array([[46, 30, 30], [46, 42, 54], [252, 220, 112], [142, 80, 38], [206, 208, 214]], float)
    return blend(dark[scenes.hair], light[scenes.hair], scenes.between("Hair_Color.shade", 0, 1))


def _has_hair(scenes: Scenes) -> Bools:
    return np.asarray(scenes.hair != BALD)


def _head_radii(scenes: Scenes) -> tuple[Floats, Floats]:
    return scenes.between("face_width", 15.5, 18.5), scenes.between("face_height", 21.5, 22.7)


def shirt(scenes: Scenes) -> Iterator[Part]:
    color = rgb(scenes.between("shirt_color", 0.0, 0.8), 0.55, scenes.between("shirt_light", 0.35, 0.8))
    yield Part((superellipse((32, 70), (27, 15), 2.6),), color, on_head=False)


def hair_behind(scenes: Scenes) -> Iterator[Part]:
    wide, high = _head_radii(scenes)
    volume = scenes.between("Hair_Color.volume", 3.0, 7.0)
    end = scenes.between("Hair_Color.length", 36.0, 61.0)
    color, shown = hair_color(scenes), _has_hair(scenes)
    top = CHIN - 2 * high - volume * 0.6
    yield Part((superellipse((32, (top + end) / 2), (wide + volume, (end - top) / 2), 2.6),), color, shown)


def neck(scenes: Scenes) -> Iterator[Part]:
    yield Part(
        (polygon([(25, 46), (39, 46), (39.5, 58), (32, 64), (24.5, 58)]),), skin(scenes) * SHADE * 0.92, on_head=False
    )


def head(scenes: Scenes) -> Iterator[Part]:
    wide, high = _head_radii(scenes)
    color = skin(scenes)
    for side in SIDES:
        yield Part((superellipse((32 + side * wide, 33), (3, 4.5), corners=14),), color * SHADE)
    outline = superellipse((32, CHIN - high), (wide, high), 2.2, corners=36)
    depth = np.clip((outline[..., 1] - 34) / 18, 0, 1)
    narrow = 1 - depth * column(scenes.between("jaw", 0.0, 0.3))
    yield Part((stacked(32 + (outline[..., 0] - 32) * narrow, outline[..., 1]),), color)


def eyes(scenes: Scenes) -> Iterator[Part]:
    size = scenes.between("eye_size", 2.3, 3.3)
    apart = scenes.between("eye_distance", 6.8, 8.0)
    gaze = scenes.between("gaze", -1.0, 1.0)
    iris = rgb(scenes.between("eye_color", 0.05, 0.65), 0.6, 0.55)
    for side in SIDES:
        x = 32 + side * apart
        yield Part((superellipse((x, EYE_LINE), (size * 1.35, size), corners=16),), WHITE)
        yield Part((superellipse((x + gaze, EYE_LINE), (size * 0.75, size * 0.75), corners=12),), iris)
        yield Part((superellipse((x + gaze, EYE_LINE), (size * 0.38, size * 0.38), corners=8),), INK)


def nose(scenes: Scenes) -> Iterator[Part]:
    wide = scenes.between("nose", 1.8, 3.2)
    yield Part((superellipse((32, 36.8), (wide, 1.9), corners=14),), skin(scenes) * SHADE * 0.92)


def hair_in_front(scenes: Scenes) -> Iterator[Part]:
    wide, high = _head_radii(scenes)
    color, shown = hair_color(scenes), _has_hair(scenes)
    volume = scenes.between("Hair_Color.volume", 3.0, 7.0)
    outer = np.linspace(np.pi, 2 * np.pi, 15)
    inner = outer[::-1]
    top, middle = CHIN - 2 * high, CHIN - high
    x = np.concatenate([column(wide + volume * 0.5) * np.cos(outer), column(wide * 0.94) * np.cos(inner)], axis=1)
    crown = column(middle) + column(high + volume * 0.6) * np.sin(outer)
    hairline = column(middle) + column(middle - top - 3.2) * np.sin(inner)
    yield Part((stacked(32 + x, np.concatenate([crown, hairline], axis=1)),), color, shown)


def mouth(scenes: Scenes) -> Iterator[Part]:
    smiling = scenes.has("Smiling")
    lips = blend(np.array([[150.0, 62.0, 58.0]]), np.array([[196.0, 84.0, 92.0]]), scenes.between("lips", 0, 1))
    wide = scenes.between("Smiling.width", 7.5, 11.0)
    deep = scenes.between("Smiling.openness", 3.5, 6.8)
    teeth = scenes.between("Smiling.teeth", 0.25, 0.85)
    share = np.linspace(-1, 1, 13)
    bow = 1 - share**2
    across = 32 + column(wide) * share
    corner = MOUTH_LINE - 2.3
    upper, lower = corner + 1.4 * bow[None], corner + column(deep + 1) * bow
    yield Part((band(32 + column(wide + 1.3) * share, upper - 1.1, lower + 1.0),), lips, smiling)
    yield Part((band(across, upper, lower),), np.array([[70.0, 14.0, 22.0]]), smiling)
    yield Part((band(across, upper, upper + (lower - upper) * column(teeth)),), WHITE, smiling)
    yield Part((superellipse((32, MOUTH_LINE - 0.3), (4.6, 1.2), corners=16),), lips, ~smiling)


def mustache(scenes: Scenes) -> Iterator[Part]:
    shown = scenes.has("Mustache")
    curl = scenes.between("Mustache.shape", -2.4, 2.6)
    thick = scenes.between("Mustache.thickness", 1.2, 2.3)
    color = blend(
        np.array([[28.0, 20.0, 22.0]]), np.array([[124.0, 56.0, 18.0]]), scenes.between("Mustache.color", 0, 1)
    )
    share = np.linspace(-1, 1, 17)
    fall = np.abs(share)
    x = 32 + 10.5 * share[None]
    y = 40.6 - column(curl) * fall**2 + 0.8 * np.cos(np.pi * share)[None] * (fall < 0.5)
    width = column(thick) * np.clip(1.05 - fall**2.2, 0.12, 1)
    yield Part((stroke(stacked(x, y), width),), color, shown)


def eyebrows(scenes: Scenes) -> Iterator[Part]:
    arched = scenes.has("Arched_Eyebrows")
    rise = np.where(arched, scenes.between("Arched_Eyebrows.height", 2.8, 5.0), 0.0)
    thick = np.where(arched, scenes.between("Arched_Eyebrows.thickness", 0.75, 1.5), 1.1)
    color = blend(INK, np.array([[92.0, 56.0, 40.0]]), scenes.between("brow_color", 0, 1))
    share = np.linspace(0, 1, 9)
    for side in SIDES:
        x = 32 + side * (3.2 + 9.6 * share[None])
        y = BROW_LINE - column(rise) * np.sin(np.pi * share**0.85)
        yield Part((stroke(stacked(x, y), column(thick) * (1.1 - 0.5 * share**2)),), color)


def bangs(scenes: Scenes) -> Iterator[Part]:
    """A fringe in a shade of the hair colour; on a bald head a dark forelock, so that the label stays visible."""
    wide, high = _head_radii(scenes)
    length = scenes.between("Bangs.length", 5.0, 8.2)
    lean = scenes.between("Bangs.asymmetry", -0.35, 0.35)
    share = np.linspace(-1, 1, 19)
    top = CHIN - 2 * high
    crest = column(top) + 0.4 + column(high) * 0.8 * (1 - np.sqrt(1 - (0.9 * share) ** 2))
    comb = np.where(np.arange(19) % 3 == 1, 1.1, 0.0)
    fringe = 12.0 + column(length) * (1 + column(lean) * share) - comb
    fringe = np.maximum(fringe, crest + 0.5)
    outline = band(32 + column(wide * 0.9) * share, crest, fringe)
    yield Part((outline,), hair_color(scenes) * 0.82, scenes.has("Bangs"))


def glasses(scenes: Scenes) -> Iterator[Part]:
    shown = scenes.has("Eyeglasses")
    power = scenes.between("Eyeglasses.shape", 2.0, 7.0)
    size = scenes.between("Eyeglasses.size", 4.5, 5.7)
    thick = scenes.between("Eyeglasses.thickness", 0.9, 1.7)
    frame = rgb(scenes.between("Eyeglasses.color", 0.0, 0.8), 0.95, 0.42)
    tint = blend(
        np.array([[120.0, 210.0, 255.0]]), np.array([[84.0, 44.0, 8.0]]), scenes.between("Eyeglasses.tint", 0, 1)
    )
    tinted = scenes.between("Eyeglasses.tint", 0.45, 0.75)
    for side in SIDES:
        center = (32 + side * 7.6, EYE_LINE + 0.2)
        inner = superellipse(center, ((size - 0.1) * 1.08, size * 0.92), power)
        outer = superellipse(center, ((size + thick) * 1.08, (size + thick) * 0.92), power)
        yield Part((inner,), tint, shown, tinted)
        yield Part((outer, inner), frame, shown)
        temple = 32 + side * (7.6 + size * 1.08)
        yield Part((_bar(temple, 32 + side * 19.0, EYE_LINE - 1.5, thick * 0.6),), frame, shown)
    gap = 7.6 - size * 1.08
    yield Part((_bar(32 - gap, 32 + gap, EYE_LINE - 0.8, thick * 0.6),), frame, shown)


def _bar(left: Number, right: Number, y: float, half: Floats) -> Floats:
    return polygon([(left, y - half), (right, y - half), (right, y + half), (left, y + half)])


def necktie(scenes: Scenes) -> Iterator[Part]:
    shown = scenes.has("Wearing_Necktie")
    wide = scenes.between("Wearing_Necktie.width", 5.0, 9.0)
    color = rgb(scenes.between("Wearing_Necktie.color", 0.0, 0.8), 0.9, 0.72)
    lines = scenes.between("Wearing_Necktie.stripes", 0.0, 1.0)
    for side in SIDES:
        collar = polygon([(32, 54.5), (32 + side * 9, 50.5), (32 + side * 13, 57.5), (32 + side * 8, 62)])
        yield Part((collar,), WHITE, shown, on_head=False)
    knot, blade = wide * 0.55, wide * 0.45
    yield Part((_taper(knot, blade, 53.4, 57.0),), color * 0.75, shown, on_head=False)
    yield Part((_taper(blade, wide, 57.0, 66.0),), color, shown, on_head=False)
    stripe = blend(color, WHITE, lines)
    for y, reach in ((58.4, 0.58), (61.8, 0.8)):
        half = wide * reach
        band = polygon([(32 - half, y), (32 + half, y - 0.8), (32 + half, y + 1.0), (32 - half, y + 1.8)])
        yield Part((band,), stripe, shown, on_head=False)


def _taper(upper: Floats, lower: Floats, top: Number, bottom: Number) -> Floats:
    return polygon([(32 - upper, top), (32 + upper, top), (32 + lower, bottom), (32 - lower, bottom)])


def hat(scenes: Scenes) -> Iterator[Part]:
    wide, _ = _head_radii(scenes)
    shown = scenes.has("Wearing_Hat")
    brow, crown = 12.4, wide + 1.5
    top = brow - scenes.between("Wearing_Hat.height", 7.0, 13.5)
    peak = crown * scenes.between("Wearing_Hat.shape", 0.5, 1.05)
    color = rgb(scenes.between("Wearing_Hat.color", 0.0, 0.8), 0.9, 0.72)
    yield Part((_taper(peak, crown, top, brow),), color, shown)
    yield Part((_taper(crown, crown, brow - 4.0, brow),), INK, shown)
    yield Part((superellipse((32, brow), (wide + 7.0, 2.0), 3.0, corners=20),), color * 0.85, shown)


Layer = Callable[[Scenes], Iterator[Part]]
LAYERS: tuple[Layer, ...] = (
    shirt, hair_behind, neck, head, eyes, nose, hair_in_front, mouth, mustache, eyebrows, necktie, bangs, glasses, hat,
)  # fmt: skip
"""The layers, from back to front."""

LOWEST_LAYER = MappingProxyType(
    {
        "Eyeglasses": LAYERS.index(glasses),
        "Smiling": LAYERS.index(mouth),
        "Arched_Eyebrows": LAYERS.index(eyebrows),
        "Bangs": LAYERS.index(bangs),
        "Wearing_Hat": LAYERS.index(hat),
        "Wearing_Necktie": LAYERS.index(necktie),
        "Mustache": LAYERS.index(mustache),
        "Pale_Skin": LAYERS.index(neck),
        "Hair_Color": LAYERS.index(hair_behind),
    }
)
"""The lowest layer that each attribute changes."""
