from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.interface import SPLITS
from ccvae_eval.data.splits import Splits, split_by_column, split_by_name, split_official, uniform_hash

NAMES = [f"{i:06d}.jpg" for i in range(5000)]


def test_the_hash_is_uniform() -> None:
    assert kstest([uniform_hash(name) for name in NAMES], "uniform").pvalue > 1e-3


def test_the_proportions_are_60_20_20() -> None:
    splits = split_by_name(NAMES)
    for name, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        low, high = binom.interval(1 - 1e-6, len(NAMES), share)
        assert low <= len(splits.ids(name)) <= high


@given(st.lists(st.text(), unique=True, max_size=30))
def test_the_split_of_a_name_does_not_depend_on_the_others(names: list[str]) -> None:
    before = dict(zip(names, split_by_name(names).codes.tolist(), strict=True))
    fewer = names[::2][::-1]
    assert split_by_name(fewer).codes.tolist() == [before[name] for name in fewer]


def test_the_split_of_a_name_never_changes() -> None:
    """Another hash would mix the train and test images of existing checkpoints."""
    names = ["000001.jpg", "000002.jpg", "000003.jpg", "0", "1", "ä.png"]
    assert split_by_name(names).codes.tolist() == [1, 0, 1, 2, 1, 2]


def test_every_image_is_in_exactly_one_split() -> None:
    splits = Splits(np.array([0, 2, 1, 0, 2], np.int8))
    parts = [splits.ids(name) for name in SPLITS]
    assert [part.tolist() for part in parts] == [[0, 3], [2], [1, 4]]
    assert all(part.dtype == np.int64 for part in parts)


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (["train", "judge", "test"], [0, 1, 2]),
        (["Train ", "VAL", "Test"], [0, 1, 2]),
        (["0", "1", "2"], [0, 1, 2]),
        (["training", "validation", "testing"], [0, 1, 2]),
    ],
)
def test_aliases_of_the_splits(words: list[str], codes: list[int]) -> None:
    assert split_by_column(words, ["a", "b", "c"], "x.csv").codes.tolist() == codes


def test_without_a_judge_split_a_quarter_of_train_becomes_it() -> None:
    words = ["train" if i % 5 else "test" for i in range(len(NAMES))]
    splits = split_by_column(words, NAMES, "x.csv")
    assert np.array_equal(splits.ids("test"), np.arange(0, len(NAMES), 5))
    low, high = binom.interval(1 - 1e-6, 4000, 0.25)
    assert low <= len(splits.ids("judge")) <= high
    official = split_official(np.array([word == "test" for word in words]), NAMES)
    assert np.array_equal(official.codes, splits.codes)


@pytest.mark.parametrize("word", ["", "dev", "3"])
def test_other_words_are_rejected(word: str) -> None:
    with pytest.raises(DataError, match="is not the name of a split"):
        split_by_column(["train", word], ["a", "b"], "x.csv")
