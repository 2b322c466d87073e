"""Which images of a split are measured: a seeded sample that keeps every label's prevalence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.core.random_streams import numpy_stream, stream_key
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.data.interface import DataSet, Split
from ccvae_eval.model.interface import LabelSchema

LEAST_DEVIATION = 0.1
"""Indicators of classes rarer than 1 % are not stretched further: a single image would outweigh all others."""


def sample_ids(
    data: DataSet,
    split: Split | None,
    *,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    schema: LabelSchema | None = None,
) -> Ids:
    """The ids of the images to measure, ascending.

    Every image has the same chance to be taken, and the sample holds each class of each label (and each label's
    missing values) in nearly the same share as the split does; see :func:`balanced_sample`.

    Args:
        data: where from.
        split: "train", "judge" or "test"; None = all images in their own order, as published numbers count them.
        sample: how many; all, if None or more than there are.
        seed: the evaluation's.
        limit: only the first so many images of the split, before any sampling: for parity with published numbers.
        schema: the labels to balance; all of the data's, if None.

    Raises:
        DataError: the split has no image.
        UsageError: a sample or limit below 1.
    """
    for name, number in (("sample", sample), ("limit", limit)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} {number} leaves no image", hint="Give at least 1.")
    ids = np.arange(len(data)) if split is None else data.split(split)
    if not len(ids):
        raise DataError(f"the {split} split is empty", where=data.spec, hint="Choose another with --split.")
    ids = ids[:limit]
    if sample is None or sample >= len(ids):
        return ids
    wanted = [label for label in data.schema if schema is None or label.name in schema]
    columns = [data.schema.index(label.name) for label in wanted]
    features = indicators(data.labels_of(ids)[:, columns], LabelSchema(tuple(wanted)))
    keys = np.fromiter((stream_key(seed, "sample", int(i)) for i in ids), np.int64, len(ids))
    order = np.argsort(keys, kind="stable")
    taken = balanced_sample(features[order], sample, numpy_stream(seed, "sample"))
    return np.sort(ids[order[taken]])


def indicators(labels: NDArray[np.float32], schema: LabelSchema) -> Floats:
    """What a sample has to balance: for each image 1, an indicator of each class, and one of each label's missing
    values, standardised over the images (a continuous label is its own indicator); shape (N, K)."""
    columns = [np.ones(len(labels))]
    for values, label in zip(labels.T.astype(np.float64), schema, strict=True):
        known = ~np.isnan(values)
        classes = [values] if label.kind == "continuous" else [values == c for c in range(1, label.cardinality)]
        for column in (*(np.where(known, c, np.nan) for c in classes), known.astype(np.float64)):
            if known.any() and np.nanmin(column) < np.nanmax(column):
                centred = np.nan_to_num(column - np.nanmean(column))
                spread = np.nanstd(column)
                columns.append(centred / (spread if label.kind == "continuous" else max(spread, LEAST_DEVIATION)))
    return np.stack(columns, axis=1)


def balanced_sample(features: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    r"""The positions of a sample whose means of all features are nearly those of all.

    A self-balancing walk (Alweiss, Liu and Sawhney 2021, "Discrepancy minimization via a self-balancing walk"): the
    images pass one by one; with D the excess of the features taken so far over the expected ones, an image with
    features x is taken with probability :math:`p - D \cdot x / c`. D has mean zero, so that each is taken with
    probability p; what is over- or underrepresented so far is balanced by those that follow. At the end the last few
    are added or dropped to give the exact number.

    Args:
        features: standardised, the first one constant, shape :math:`(N, K)`, in random order.
        count: size of the sample, from 1 to N.
        random: the draws.

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
