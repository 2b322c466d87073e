"""Splits of a data set into train, judge and test, and seeded samples that keep the prevalence of every label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError, suggestion
from ccvae_eval.core.random_streams import numpy_stream, stream_key
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.data.interface import SPLITS, DataSet, Split
from ccvae_eval.model.interface import LabelSchema

TRAIN, JUDGE, TEST = range(3)
JUDGE_FROM, TEST_FROM = 0.6, 0.8
JUDGE_OF_TRAIN = 0.25
"""The judge's fraction of an official training split."""

SPLITMIX_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

SPLIT_ALIASES = MappingProxyType(
    {
        "train": TRAIN, "training": TRAIN, "0": TRAIN,
        "judge": JUDGE, "val": JUDGE, "valid": JUDGE, "validation": JUDGE, "1": JUDGE,
        "test": TEST, "testing": TEST, "2": TEST,
    }
)  # fmt: skip
"""Values of a split column; the numbers are CelebA's."""


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The split of each image: 0 train, 1 judge, 2 test, shape :math:`(N,)`."""

    codes: NDArray[np.int8]

    def ids(self, name: Split) -> Ids:
        """The images of one split, ascending."""
        return np.flatnonzero(self.codes == SPLITS.index(name)).astype(np.int64)


def uniform_hash(name: str) -> float:
    """Hash an image's name to a number in [0, 1), the same on every machine."""
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, person=b"ccvae-split").digest()
    return int.from_bytes(digest, "little") / 2**64


def split_by_name(names: Iterable[str]) -> Splits:
    """Split into train, judge and test (60/20/20) by a hash of each image's name.

    The split of an image does not depend on the other images or on their order.
    """
    shares = np.fromiter(map(uniform_hash, names), np.float64)
    return Splits(np.digitize(shares, (JUDGE_FROM, TEST_FROM)).astype(np.int8))


def split_by_column(values: Sequence[str] | NDArray[np.str_], names: Iterable[str], where: str) -> Splits:
    """Split by a column of the table; see ``SPLIT_ALIASES``.

    A column that names only train and test is completed by :func:`split_official`.

    Raises:
        DataError: a value is unknown or missing.
    """
    codes_of = {value: SPLIT_ALIASES.get(value.strip().lower(), -1) for value in set(values)}
    unknown = sorted(value for value, code in codes_of.items() if code < 0)
    if unknown:
        raise DataError(
            f"{unknown[0]!r} is not the name of a split",
            where=f"{where}: split",
            hint=f"Expected one of {', '.join(SPLIT_ALIASES)}.",
        )
    codes = np.fromiter((codes_of[value] for value in values), np.int8, len(values))
    return Splits(codes) if JUDGE in codes else split_official(codes == TEST, names)


def split_official(is_test: Bools, names: Iterable[str]) -> Splits:
    """Keep official train and test splits; a quarter of train, by a hash of the names, becomes the judge's."""
    judged = np.fromiter((uniform_hash(name) < JUDGE_OF_TRAIN for name in names), np.bool_)
    return Splits(np.where(is_test, TEST, np.where(judged, JUDGE, TRAIN)).astype(np.int8))


@cache
def split_by_id(count: int) -> Splits:
    """Split ids into train, judge and test (60/20/20) by the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    key = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * SPLITMIX_MULTIPLIERS[0]
    key = (key ^ (key >> np.uint64(27))) * SPLITMIX_MULTIPLIERS[1]
    share = (key ^ (key >> np.uint64(31))) / 2.0**64
    return Splits(np.digitize(share, (JUDGE_FROM, TEST_FROM)).astype(np.int8))


MIN_DEVIATION = 0.1
"""Lower limit of a class indicator's deviation, so that one image of a rare class does not outweigh all others."""


def sample_ids(
    data: DataSet,
    split: Split | None,
    *,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Ids:
    """Sample the images to evaluate.

    Every image has the same inclusion probability. The sample contains each class of each label, and each label's
    missing values, in nearly the same proportion as the split; see :func:`balanced_sample`.

    Args:
        data: the data set.
        split: "train", "judge" or "test"; None = all images in the data set's order, as in published results.
        sample: sample size; all images if None or larger than the split.
        seed: the evaluation's seed.
        limit: keep only the first images of the split, before sampling, to reproduce published results.

    Returns:
        Ids, ascending.

    Raises:
        DataError: the split is empty.
        UsageError: a sample or limit below 1, or an unknown split.
    """
    if split not in (None, *SPLITS):
        raise UsageError(
            f"split must be one of {', '.join(SPLITS)}, got {split!r}", hint=suggestion(str(split), SPLITS)
        )
    for name, number in (("sample", sample), ("limit", limit)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} must be at least 1, got {number}")
    ids = np.arange(len(data)) if split is None else data.split(split)
    if not len(ids):
        raise DataError(f"the {split} split is empty", where=data.spec, hint="Choose another split with --split.")
    ids = ids[:limit]
    if sample is None or sample >= len(ids):
        return ids
    features = indicators(data.labels_of(ids), data.schema)
    keys = np.fromiter((stream_key(seed, "sample", int(i)) for i in ids), np.int64, len(ids))
    order = np.argsort(keys, kind="stable")
    taken = balanced_sample(features[order], sample, numpy_stream(seed, "sample"))
    return np.sort(ids[order[taken]])


def indicators(labels: NDArray[np.float32], schema: LabelSchema) -> Floats:
    """The features that a sample balances, standardised over the images, shape (N, K).

    They are a constant 1, an indicator of each class but the first, an indicator of each label's missing values,
    and each continuous label itself. Features without variation are left out.
    """
    columns = [np.ones(len(labels))]
    for values, label in zip(labels.T.astype(np.float64), schema, strict=True):
        known = ~np.isnan(values)
        classes = [values] if label.kind == "continuous" else [values == c for c in range(1, label.cardinality)]
        for column in (*(np.where(known, c, np.nan) for c in classes), known.astype(np.float64)):
            if known.any() and np.nanmin(column) < np.nanmax(column):
                centred = np.nan_to_num(column - np.nanmean(column))
                spread = np.nanstd(column)
                columns.append(centred / (spread if label.kind == "continuous" else max(spread, MIN_DEVIATION)))
    return np.stack(columns, axis=1)


def balanced_sample(features: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    r"""Draw a sample whose feature means are close to those of all images.

    A self-balancing walk (Alweiss, Liu and Sawhney 2021, "Discrepancy minimization via a self-balancing walk"). It
    visits the images one by one. Let D be the features taken so far minus their expectation; an image with features
    x is taken with probability :math:`p - D \cdot x / c`. D has mean zero, so every image is taken with probability
    p, and each excess is compensated by the images that follow. Finally a few images are added or dropped at random
    to give the exact size.

    Args:
        features: standardised, the first one constant, shape :math:`(N, K)`, in random order.
        count: size of the sample, from 1 to N.
        random: the source of randomness.

    Returns:
        Positions, ascending, shape (count,).
    """
    n = len(features)
    share = count / n
    rarer = min(share, 1 - share)
    caution = 2 * float((features**2).sum(axis=1).mean()) * share * (1 - share) / max(rarer, 1 / n) ** 2
    excess = np.zeros(features.shape[1])
    taken = np.zeros(n, np.bool_)
    for i, (x, draw) in enumerate(zip(features, random.random(n), strict=True)):
        taken[i] = draw < share - excess @ x / caution
        excess += (taken[i] - share) * x
    surplus = int(taken.sum()) - count
    changed = random.permutation(np.flatnonzero(taken == (surplus > 0)))[: abs(surplus)]
    taken[changed] = surplus < 0
    return np.flatnonzero(taken)
