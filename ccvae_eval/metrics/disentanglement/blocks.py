"""What a block of several columns tells of a factor: by a forest judged on held-out rows, never by joint bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccvae_eval.metrics.disentanglement.fitting import unwarned
from ccvae_eval.metrics.disentanglement.table import Factor, Table
from ccvae_eval.streams import stream_key
from ccvae_eval.types import Floats, Ids

TREES, LEAST_LEAF, LEAVES = 10, 5, 500
"""Trees of a forest, rows that a leaf must have, and leaves that a tree has at most where rows abound."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    r"""What blocks tell of factors on the held-out rows; NaN off them and where the factor is missing.

    Args:
        terms: log p(v|z) - log p(v) in nats, whose mean is a lower bound of the information, shape :math:`(N, B, K)`.
        right: whether the class is told, or the squared error of a number, same shape.
    """

    terms: Floats
    right: Floats


def told_by_blocks(table: Table, blocks: Sequence[tuple[int, ...]], seed: int) -> Told:
    """Fits a forest to each block and factor on the training rows and asks it about the held-out ones."""
    shape = (len(table), len(blocks), len(table.factors))
    found = Told(np.full(shape, np.nan), np.full(shape, np.nan))
    for k, factor in enumerate(table.factors):
        inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
        if not len(inside) or not len(outside) or len(np.unique(factor.classes[inside])) < 2:
            continue
        classes = factor.classes[outside]
        prior = np.bincount(factor.classes[inside], minlength=factor.levels) / len(inside)
        for b, block in enumerate(blocks):
            probabilities = _probabilities(table.codes[:, list(block)], factor, inside, outside, prior, seed)
            own = probabilities[np.arange(len(outside)), classes]
            found.terms[outside, b, k] = np.log(own) - np.log(np.maximum(prior[classes], 1 / len(inside)))
            if factor.discrete:
                found.right[outside, b, k] = probabilities.argmax(axis=1) == classes
            else:
                totals = np.bincount(factor.classes[inside], factor.values[inside], minlength=factor.levels)
                means = totals / np.maximum(prior * len(inside), 1)
                found.right[outside, b, k] = (factor.values[outside] - probabilities @ means) ** 2
    return found


def _probabilities(codes: Floats, factor: Factor, inside: Ids, outside: Ids, prior: Floats, seed: int) -> Floats:
    """Of each class for each held-out row, a hair of the frequencies mixed in so that no loss is infinite."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(
        TREES,
        min_samples_leaf=max(LEAST_LEAF, len(inside) // LEAVES),
        max_features=None,
        random_state=stream_key(seed, "block", factor.name) % 2**31,
    )
    with unwarned():
        forest.fit(codes[inside], factor.classes[inside])
    told = np.zeros((len(outside), factor.levels))
    told[:, forest.classes_] = forest.predict_proba(codes[outside])
    share = 1 / len(inside) ** 0.5
    return np.asarray((1 - share) * told + share * np.maximum(prior, 1 / len(inside)))
