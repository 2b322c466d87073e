"""Which images are trained on, which the judge learns from, and which are measured."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.types import Bools, Ids
from ccvae_eval.data.interface import SPLITS, Split

TRAIN, JUDGE, TEST = range(3)
JUDGE_FROM, TEST_FROM = 0.6, 0.8
JUDGE_OF_TRAIN = 0.25
"""Where only train and test are official, a quarter of train is the judge's: 60/20 again."""

WORDS = MappingProxyType(
    {
        "train": TRAIN, "training": TRAIN, "0": TRAIN,
        "judge": JUDGE, "val": JUDGE, "valid": JUDGE, "validation": JUDGE, "1": JUDGE,
        "test": TEST, "testing": TEST, "2": TEST,
    }
)  # fmt: skip
"""What a split column may say; the numbers are CelebA's."""


class Splits:
    """The split of each image.

    Args:
        codes: 0 train, 1 judge, 2 test, shape :math:`(N,)`.
    """

    def __init__(self, codes: NDArray[np.int8]) -> None:
        self.codes = codes

    def ids(self, name: Split) -> Ids:
        """The images of one split, ascending."""
        return np.flatnonzero(self.codes == SPLITS.index(name)).astype(np.int64)


def hashed_share(name: str) -> float:
    """A number in [0, 1) that belongs to an image's name, the same on every machine."""
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, person=b"ccvae-split").digest()
    return int.from_bytes(digest, "little") / 2**64


def split_by_name(names: Sequence[str]) -> Splits:
    """Train, judge and test (60/20/20) by a hash of each image's name.

    The split of an image does not change when others are added, removed or listed in another order.
    """
    shares = np.array([hashed_share(name) for name in names])
    return Splits(np.digitize(shares, (JUDGE_FROM, TEST_FROM)).astype(np.int8))


def split_by_column(values: Sequence[str], names: Sequence[str], where: str) -> Splits:
    """The splits that a column of the data gives; see ``WORDS``.

    Raises:
        DataError: a value is no split, or is missing.
    """
    words = {value: WORDS.get(value.strip().lower(), -1) for value in set(values)}
    unknown = sorted(value for value, code in words.items() if code < 0)
    if unknown:
        raise DataError(
            f"{unknown[0]!r} is no split", where=f"{where}: split", hint=f"Expected one of {', '.join(WORDS)}."
        )
    codes = np.array([words[value] for value in values], np.int8)
    return Splits(codes) if JUDGE in codes else split_official(codes == TEST, names)


def split_official(is_test: Bools, names: Sequence[str]) -> Splits:
    """Official train and test images; a quarter of train, by a hash of the names, is the judge's."""
    judged = np.array([hashed_share(name) < JUDGE_OF_TRAIN for name in names], np.bool_)
    return Splits(np.where(is_test, TEST, np.where(judged, JUDGE, TRAIN)).astype(np.int8))
