from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chi2_contingency, multivariate_normal, norm

from ccvae_eval.data.sets.faces.parameters import (
    COLUMNS,
    LABEL_COLUMNS,
    PARAMETERS,
    PREVALENCE,
    SCHEMA,
    STYLE,
    VARIETY,
    VARIETY_COLUMNS,
    Scenes,
    draw_variety,
    draw_vectors,
    labels_of,
)

N = 4000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return draw_vectors(0, np.arange(N))


def test_every_parameter_has_one_column() -> None:
    taken = [
        *(COLUMNS[name] for name in STYLE),
        *np.concatenate(list(VARIETY_COLUMNS.values())),
        *range(LABEL_COLUMNS.start, LABEL_COLUMNS.stop),
    ]
    assert sorted(taken) == list(range(len(COLUMNS) - 1))
    assert len(PARAMETERS) == len(STYLE) + sum(map(len, VARIETY.values()))
    assert tuple(VARIETY) == SCHEMA.names


def test_vectors_depend_only_on_seed_and_id(vectors: np.ndarray) -> None:
    ids = np.array([17, 3, 17, 900])
    assert np.array_equal(draw_vectors(0, ids), vectors[ids])
    assert not np.array_equal(draw_vectors(1, ids), vectors[ids])


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_prevalence_does_not_depend_on_the_correlation(vectors: np.ndarray, correlation: float) -> None:
    labels = labels_of(vectors, correlation)
    for column, share in enumerate(PREVALENCE.values()):
        low, high = binom.interval(1 - 1e-6, N, share)
        assert low <= labels[:, column].sum() <= high
    hair = np.bincount(labels[:, -1].astype(int), minlength=5)
    low, high = binom.interval(1 - 1e-6, N, 0.2)
    assert ((low <= hair) & (hair <= high)).all()


def test_correlated_labels_follow_the_copula(vectors: np.ndarray) -> None:
    labels = labels_of(vectors, 0.5)
    first, second = PREVALENCE["Eyeglasses"], PREVALENCE["Smiling"]
    both = multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]]).cdf([norm.ppf(first), norm.ppf(second)])
    low, high = binom.interval(1 - 1e-6, N, both)
    assert low <= (labels[:, 0] * labels[:, 1]).sum() <= high


def test_labels_are_independent_without_correlation(vectors: np.ndarray) -> None:
    labels = labels_of(vectors)
    for a in range(len(SCHEMA)):
        for b in range(a):
            table = np.zeros((2, SCHEMA.labels[a].cardinality))
            np.add.at(table, (labels[:, b].astype(int).clip(0, 1), labels[:, a].astype(int)), 1)
            assert chi2_contingency(table).pvalue > 1e-5, (SCHEMA.names[a], SCHEMA.names[b])


def test_setting_a_label_changes_nothing_else(vectors: np.ndarray) -> None:
    scenes = Scenes(vectors, labels_of(vectors))
    changed = scenes.with_label("Smiling", np.where(np.arange(N) % 2, np.nan, 1.0).astype(np.float32))
    assert changed.vectors is scenes.vectors
    smiling = SCHEMA.index("Smiling")
    assert np.array_equal(np.delete(changed.labels, smiling, 1), np.delete(scenes.labels, smiling, 1))
    assert (changed.labels[::2, smiling] == 1).all()
    assert np.array_equal(changed.labels[1::2, smiling], scenes.labels[1::2, smiling])


def test_setting_variety_changes_nothing_else(vectors: np.ndarray) -> None:
    scenes = Scenes(vectors, labels_of(vectors))
    fresh = draw_variety(0, np.arange(N), "Eyeglasses", 3)
    changed = scenes.with_variety("Eyeglasses", fresh)
    assert np.array_equal(changed.vectors[:, VARIETY_COLUMNS["Eyeglasses"]], fresh)
    others = np.setdiff1d(np.arange(len(COLUMNS)), VARIETY_COLUMNS["Eyeglasses"])
    assert np.array_equal(changed.vectors[:, others], scenes.vectors[:, others])


def test_draws_of_variety_depend_on_draw_and_seed() -> None:
    ids = np.arange(5)
    draws = [draw_variety(s, ids, label, d) for s in (0, 1) for label in ("Bangs", "Bangs") for d in (0, 1)]
    assert np.array_equal(draws[0], draws[2])
    assert len({draw.tobytes() for draw in draws}) == 4
