from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.memory import Arrays
from ccvae_eval.data.splits import balanced_sample, indicators, sample_ids
from ccvae_eval.model.interface import Label, LabelSchema

SCHEMA = LabelSchema(
    (Label("rare"), Label("common"), Label("hair", "categorical", ("a", "b", "c")), Label("age", "continuous"))
)


def labels(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    columns = [
        random.random(count) < 0.03,
        random.random(count) < 0.5,
        random.integers(0, 3, count),
        random.normal(40, 10, count),
    ]
    table = np.stack(columns, axis=1).astype(np.float32)
    table[random.random(count) < 0.1, 1] = np.nan
    return table


@pytest.fixture(scope="module")
def data() -> Arrays:
    count = 3000
    table = labels(count)
    points = np.zeros((count, 2), np.float32)
    return Arrays(points, table, SCHEMA, ["test" if i % 3 else "train" for i in range(count)])


def spread_of_means(data: Arrays, size: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Deviation of each indicator's mean over samples, and the same for simple random samples."""
    every = indicators(data.labels_of(data.split("test")), SCHEMA)[:, 1:]
    position = {int(i): row for row, i in enumerate(data.split("test"))}
    means = [
        every[[position[int(i)] for i in sample_ids(data, "test", sample=size, seed=seed)]].mean(0)
        for seed in range(seeds)
    ]
    simple = every.std(0) * np.sqrt((1 / size) * (1 - size / len(every)))
    return np.std(means, axis=0), simple


def test_the_sample_keeps_prevalences(data: Arrays) -> None:
    balanced, simple = spread_of_means(data, 300, 30)
    assert (balanced < 0.5 * simple).all()


def test_inclusion_probabilities_are_equal() -> None:
    """Also for images of a rare class, whose indicator is large."""
    features = indicators(labels(400), SCHEMA)
    repeats, size = 400, 80
    taken = np.zeros(400)
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        order = random.permutation(400)
        taken[order[balanced_sample(features[order], size, random)]] += 1
    low, high = binom.interval(1 - 1e-6, repeats, size / 400)
    assert low <= taken.min()
    assert taken.max() <= high
    rare = labels(400)[:, 0] == 1
    low, high = binom.interval(1 - 1e-4, repeats * int(rare.sum()), size / 400)
    assert low <= taken[rare].sum() <= high


@pytest.mark.parametrize("size", [1, 2, 7, 1999, 2000])
def test_the_sample_has_the_requested_size(data: Arrays, size: int) -> None:
    ids = sample_ids(data, "test", sample=size, seed=1)
    assert len(ids) == size
    assert (np.diff(ids) > 0).all()
    assert set(ids.tolist()) <= set(data.split("test").tolist())


def test_the_seed_determines_the_sample(data: Arrays) -> None:
    first = sample_ids(data, "test", sample=100, seed=1)
    assert np.array_equal(first, sample_ids(data, "test", sample=100, seed=1))
    assert not np.array_equal(first, sample_ids(data, "test", sample=100, seed=2))


def test_whole_splits_and_limits(data: Arrays) -> None:
    every = data.split("test")
    assert np.array_equal(sample_ids(data, "test"), every)
    assert np.array_equal(sample_ids(data, "test", sample=10**6), every)
    assert np.array_equal(sample_ids(data, "test", limit=5), every[:5])
    assert np.array_equal(sample_ids(data, None, limit=5), np.arange(5)), "in the order of the data set"
    both = sample_ids(data, "test", sample=5, limit=50)
    assert len(both) == 5
    assert set(both.tolist()) <= set(every[:50].tolist())


def test_indicators_are_standardised() -> None:
    features = indicators(labels(5000), SCHEMA)
    assert (features[:, 0] == 1).all()
    assert np.allclose(features[:, 1:].mean(0), 0, atol=1e-9)
    assert features.shape[1] == 1 + 1 + 2 + 2 + 1  # constant; rare; common, and known or not; b, c; age
    assert np.allclose(features.std(0)[-1], 1)


def test_constant_and_missing_labels_are_ignored() -> None:
    table = np.stack([np.zeros(200), np.full(200, np.nan)], axis=1).astype(np.float32)
    schema = LabelSchema((Label("never"), Label("unknown")))
    assert indicators(table, schema).shape == (200, 1)
    data = Arrays(np.zeros((200, 2), np.float32), table, schema)
    assert len(sample_ids(data, "train", sample=20)) == 20


def test_empty_splits_and_sizes_below_one_are_rejected(data: Arrays) -> None:
    small = Arrays(np.zeros((2, 2), np.float32), np.zeros(2), ["x"], ["test", "judge"])
    with pytest.raises(DataError, match="the train split is empty"):
        sample_ids(small, "train")
    for wrong in ({"sample": 0}, {"limit": 0}, {"limit": -3}):
        with pytest.raises(UsageError, match="must be at least 1, got"):
            sample_ids(data, "test", **wrong)


def test_an_unknown_split_is_refused_by_name(data: Arrays) -> None:
    with pytest.raises(UsageError, match=r"split must be one of train, judge, test, got 'tset'\nDid you mean 'test'"):
        sample_ids(data, "tset")  # type: ignore[arg-type]
