"""Nearest-neighbour divergences of some columns between the classes of a label, as rows of a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccvae_eval.metrics.contrasts import Contrasts, averaged
from ccvae_eval.metrics.rows import sentence
from ccvae_eval.metrics.tally import Tally
from ccvae_eval.statistics.information import MOST_COLUMNS, Divergence, knn_divergences
from ccvae_eval.statistics.intervals import Resampled
from ccvae_eval.types import Floats

DIRECTIONS = ("1|0", "0|1")
EXCESS = "_excess"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Settings of the divergences.

    Args:
        k: which neighbour.
        scaled: whether columns are divided by their pooled deviation; raw, one of a large scale decides alone.
    """

    k: int
    scaled: bool = True


def enter_neighbours(
    tally: Tally,
    values: Sequence[str],
    name: str,
    columns: Floats,
    scores: Sequence[Floats],
    contrasts: Contrasts,
    settings: Neighbours,
) -> None:
    """Enters each of ``values`` for one label: both directions, and their mean.

    Args:
        tally: of the metric.
        values: the divergence; one that ends in ``_excess`` is it beyond its permutation null.
        name: the label.
        columns: shape (N, d).
        scores: a linear score of the columns for each contrast, shape (N,); what is compared where d > 5.
        contrasts: of the label.
        settings: which neighbour, in which columns.
    """
    many = columns.shape[1] > MOST_COLUMNS
    found = [
        knn_divergences(
            score[:, None] if many else columns, target, seed=tally.subject.seed, k=settings.k, scaled=settings.scaled
        )
        for score, target in zip(scores, contrasts.targets, strict=True)
    ]
    note = sentence(contrasts.note, f"linear score of {columns.shape[1]} columns" if many else "")
    note = note if settings.scaled else sentence(note, "raw columns")
    level = tally.weights.level
    for value in values:
        for place, direction in enumerate(DIRECTIONS):
            part, chance = _averaged([both[place] for both in found], value, level)
            at = {"direction": direction}
            tally.enter(value, name, part, at, mean_at=at, chance=chance, note=note)
        both, chance = _averaged([part for both in found for part in both], value, level)
        tally.enter(value, name, both, chance=chance, note=sentence("mean of both directions", note))


def _averaged(parts: list[Divergence], value: str, level: float) -> tuple[Resampled, float]:
    """The mean over contrasts of a divergence or of its excess, and what permuted labels give."""
    if value.endswith(EXCESS):
        return averaged([part.excess for part in parts], level), 0.0
    return averaged([part.kl for part in parts], level), float(np.mean([part.null for part in parts]))
