from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.data.sets.faces.parameters import (
    COLUMNS,
    PARAMETERS,
    SCHEMA,
    STYLE,
    VARIETY,
    Scenes,
    draw_vectors,
    labels_of,
)
from ccvae_eval.data.sets.faces.parts import LAYERS, LOWEST_LAYER
from ccvae_eval.data.sets.faces.raster import Easel


def scenes(count: int, seed: int = 0) -> Scenes:
    vectors = draw_vectors(seed, np.arange(count))
    return Scenes(vectors, labels_of(vectors))


def differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one != other).any(axis=(1, 2, 3))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_an_image_does_not_depend_on_its_batch(size: int) -> None:
    easel, faces = Easel(size), scenes(6)
    together = easel.draw(faces)
    assert together.shape == (6, size, size, 3)
    for i in range(6):
        assert np.array_equal(easel.draw(faces.rows(np.array([i])))[0], together[i])


def test_sizes_show_the_same_face() -> None:
    faces = scenes(8)
    large, small = Easel(128).draw(faces).astype(float), Easel(64).draw(faces).astype(float)
    shrunk = large.reshape(8, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    own = np.abs(shrunk - small).mean(axis=(1, 2, 3))
    other = np.abs(shrunk - small[::-1]).mean(axis=(1, 2, 3))
    assert (other > 10 * own).all()


@pytest.mark.parametrize("label", [label.name for label in SCHEMA])
def test_every_label_is_visible(label: str) -> None:
    """For any other labels: bangs on a bald head, hair below a hat."""
    easel, faces = Easel(64), scenes(100)
    classes = SCHEMA[label].cardinality
    pictures = [easel.draw(faces.with_label(label, float(c))).astype(int) for c in range(classes)]
    for a in range(classes):
        for b in range(a):
            change = (np.abs(pictures[a] - pictures[b]).max(axis=3) > 8).sum(axis=(1, 2))
            assert change.min() >= 20, (a, b)


@pytest.mark.parametrize("name", [f"{label}.{v}" for label, names in VARIETY.items() for v in names])
def test_variety_is_visible_only_if_its_attribute_is_present(name: str) -> None:
    label = name.partition(".")[0]
    easel, faces = Easel(64), scenes(24)
    low, high = (Scenes(faces.vectors.copy(), faces.labels) for _ in range(2))
    low.vectors[:, COLUMNS[name]], high.vectors[:, COLUMNS[name]] = 0.05, 0.95
    shown = 2.0 if label == "Hair_Color" else 1.0
    assert differing(easel.draw(low.with_label(label, shown)), easel.draw(high.with_label(label, shown))).all()
    assert not differing(easel.draw(low.with_label(label, 0.0)), easel.draw(high.with_label(label, 0.0))).any()


@pytest.mark.parametrize("name", STYLE)
def test_every_style_parameter_is_visible(name: str) -> None:
    easel, faces = Easel(64), scenes(24)
    low, high = (Scenes(faces.vectors.copy(), faces.labels) for _ in range(2))
    low.vectors[:, COLUMNS[name]], high.vectors[:, COLUMNS[name]] = 0.05, 0.95
    seen = differing(easel.draw(low), easel.draw(high)).mean()
    assert seen > (0.3 if name == "lips" else 0.9)  # some smiles hide the lips


@pytest.mark.parametrize("label", list(LOWEST_LAYER))
def test_an_attribute_does_not_change_the_layers_below(label: str) -> None:
    faces = scenes(6)
    easel, low = Easel(32), range(LOWEST_LAYER[label])
    changed = faces.with_label(label, 1 - np.minimum(faces.labels[:, SCHEMA.index(label)], 1))
    changed = changed.with_variety(label, np.full((6, len(VARIETY[label])), 0.3))
    before = np.stack(list(easel.draw_layers(faces, low, easel.backdrops(faces))))
    assert np.array_equal(before, np.stack(list(easel.draw_layers(changed, low, easel.backdrops(changed)))))
    upto = range(LOWEST_LAYER[label] + 1)
    assert not np.array_equal(
        np.stack(list(easel.draw_layers(faces, upto, easel.backdrops(faces)))),
        np.stack(list(easel.draw_layers(changed, upto, easel.backdrops(changed)))),
    )
    assert set(LOWEST_LAYER) == set(SCHEMA.names)
    assert len(LAYERS) == len(set(LAYERS))


def test_extreme_parameters_can_be_drawn() -> None:
    for value in (0.0, 1.0):
        vectors = np.full((1, len(COLUMNS)), value)
        for on in (0.0, 1.0):
            labels = np.full((1, len(SCHEMA)), on, np.float32)
            assert Easel(64).draw(Scenes(vectors, labels)).std() > 10
    assert len(PARAMETERS) < len(COLUMNS)
