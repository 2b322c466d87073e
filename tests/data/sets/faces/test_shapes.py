from __future__ import annotations

import colorsys

import numpy as np
import pytest

from ccvae_eval.data.sets.faces.parts import blend, polygon, rgb, stroke, superellipse, turned


def area(points: np.ndarray) -> np.ndarray:
    """Area of each polygon by the shoelace formula."""
    x, y = points[..., 0], points[..., 1]
    return np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1)) / 2


def test_a_superellipse_of_power_two_is_an_ellipse() -> None:
    points = superellipse((3.0, 4.0), (np.array([2.0, 5.0]), 1.0), corners=400)
    on_curve = ((points[..., 0] - 3) / np.array([[2.0], [5.0]])) ** 2 + (points[..., 1] - 4) ** 2
    assert np.allclose(on_curve, 1)
    assert np.allclose(area(points), np.pi * np.array([2.0, 5.0]), rtol=1e-3)


def test_a_high_power_fills_the_box() -> None:
    areas = area(superellipse((0, 0), (1, 1), np.array([2.0, 4.0, 20.0]), corners=2000))
    assert (np.diff(areas) > 0).all()
    assert 3.9 < areas[-1] < 4


def test_a_polygon_broadcasts_its_corners() -> None:
    points = polygon([(0, 0), (np.array([1.0, 2.0]), 0), (0, 1)])
    assert points.shape == (2, 3, 2)
    assert np.allclose(area(points), [0.5, 1.0])


def test_a_straight_stroke_is_a_rectangle() -> None:
    line = np.stack([np.linspace(0, 10, 6), np.zeros(6)], axis=1)[None]
    assert np.allclose(area(stroke(line, np.array([[0.5]]))), 10)


def test_rotation_keeps_distances_and_the_pivot() -> None:
    points = np.random.default_rng(0).normal(size=(3, 5, 2))
    angle = np.array([0.0, 0.3, -2.0])
    shift = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, -1.0]])
    moved = turned(points, (0.5, 0.25), angle, shift)
    assert np.allclose(moved[0], points[0])
    before = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    assert np.allclose(np.linalg.norm(moved[:, :, None] - moved[:, None], axis=-1), before)
    pivot = np.broadcast_to([0.5, 0.25], (3, 1, 2))
    assert np.allclose(turned(pivot, (0.5, 0.25), angle, shift)[:, 0], shift + np.array([0.5, 0.25]))
    quarter = turned(np.array([[[1.0, 0.0]]]), (0, 0), np.array([np.pi / 2]), np.zeros((1, 2)))
    assert np.allclose(quarter, [[[0, 1]]])


@pytest.mark.parametrize("hue", [0.0, 0.2, 0.5, 0.81])
def test_colours_agree_with_the_standard_library(hue: float) -> None:
    assert np.allclose(rgb(hue, 0.6, 0.7) / 255, colorsys.hsv_to_rgb(hue, 0.6, 0.7))


def test_a_blend_interpolates_between_its_ends() -> None:
    first, second = np.array([[0.0, 10.0, 20.0]]), np.array([[100.0, 110.0, 220.0]])
    assert np.allclose(blend(first, second, np.array([0.0, 1.0, 0.5])), [first[0], second[0], (first + second)[0] / 2])
