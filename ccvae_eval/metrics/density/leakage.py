"""How much columns tell of labels that are not theirs: those of another characteristic, and those of style.

Nearest-neighbour divergences of some columns between the classes of a label, as rows of a metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.result_table import ResultTable, sentence
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.shared.contrasts import Contrasts, averaged, contrasts_of
from ccvae_eval.statistics.auc import Projection, auc, auc_projection, cross_fitted, projected_estimates
from ccvae_eval.statistics.information import MOST_COLUMNS, Divergence, knn_divergences
from ccvae_eval.statistics.intervals import Resampled, mean_over
from ccvae_eval.statistics.probes import Folds, cross_fitted_scores, sign_fitted_scores, standardised

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
    tally: ResultTable,
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
            tally.add(value, name, part, at, mean_at=at, chance=chance, note=note)
        both, chance = _averaged([part for both in found for part in both], value, level)
        tally.add(value, name, both, chance=chance, note=sentence("mean of both directions", note))


def _averaged(parts: list[Divergence], value: str, level: float) -> tuple[Resampled, float]:
    """The mean over contrasts of a divergence or of its excess, and what permuted labels give."""
    if value.endswith(EXCESS):
        return averaged([part.excess for part in parts], level), 0.0
    return averaged([part.kl for part in parts], level), float(np.mean([part.null for part in parts]))


Probe = Literal["linear", "quadratic"]
CHANCE = 0.5
UNCONDITIONAL = {"stratum": "none"}


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The labels that are asked for: the contrasts of each, or why it has none."""

    contrasts: dict[str, Contrasts]
    undefined: dict[str, str]

    @classmethod
    def of(cls, subject: Subject, names: Sequence[str], least: int) -> Judged:
        contrasts, undefined = {}, {}
        for name in names:
            try:
                contrasts[name] = contrasts_of(subject, name, least)
            except UndefinedError as error:
                undefined[name] = error.what
        return cls(contrasts, undefined)


def linear_scores(codes: Floats, target: Floats, folds: Folds, strata: Floats | None, strength: float) -> Floats:
    """Held-out scores, shape (N,): one column with its sign fitted on other images, several by a regression there.

    Codes are centred within each stratum first, without any label: scores whose sign or weights differ between folds
    would else lie apart by the mean they multiply. (Measured at 200 images, no information: area .519 uncentred, .504
    centred.)
    """
    within = np.zeros(len(codes)) if strata is None else strata
    groups = [within == stratum for stratum in np.unique(within[~np.isnan(within)])]
    centred = codes.copy()
    for here in groups:
        centred[here] -= codes[here].mean(axis=0)
    if codes.shape[1] > 1:
        return cross_fitted_scores(centred, target[:, None], folds, strata=strata, strength=strength)[:, 0]
    scores = np.full(len(target), np.nan)
    for here in groups:
        scores[here] = sign_fitted_scores(centred[here, 0], target[here], folds[here])
    return scores


def with_products(codes: Floats) -> Floats:
    """The standardised columns with their squares and the products of each two: what a quadratic reader sees.

    >>> with_products(np.array([[-1.0, 1.0], [1.0, -1.0]])).shape
    (2, 5)
    """
    points = standardised(codes)
    one, other = np.triu_indices(points.shape[1])
    return np.concatenate([points, points[:, one] * points[:, other]], axis=1)


@dataclass(frozen=True, slots=True)
class Leakage:
    """Enters ``cross_auc``, ``style_auc`` and ``style_knn_kl`` into a tally.

    Args:
        tally: of the metric.
        codes: shape (N, D).
        folds: of each image.
        judged: the labels asked for.
        least: images of each class that a stratum needs.
        strength: of the regressions' penalty.
        neighbours: settings of the nearest-neighbour divergence.
        probe: what a regression sees: the columns, or their squares and products too.
    """

    tally: ResultTable
    codes: Floats
    folds: Folds
    judged: Judged
    least: int
    strength: float
    neighbours: Neighbours
    probe: Probe = "linear"

    def cross(self) -> None:
        """``cross_auc[i, j]``: the columns of i, asked for j, within each class of i and over all images."""
        subject = self.tally.subject
        names = [n for n in subject.characteristics if n in subject.schema]
        pairs = [(i, j) for i in names for j in self.judged.contrasts if i != j]
        within = {i: _classes(subject, i) for i in names}
        projections: list[Projection] = []
        for i, j in pairs:
            for strata in (within[i], None):
                projections += [self._area(subject.layout[i], t, strata) for t in self.judged.contrasts[j].targets]
        level = self.tally.weights.level
        found = (cross_fitted(area, level) for area in projected_estimates(projections, self.tally.weights))
        areas = {
            (i, j, stratified): averaged([next(found) for _ in self.judged.contrasts[j].targets], level)
            for i, j in pairs
            for stratified in (True, False)
        }
        for i in names:
            self._enter_cross(i, {j: areas[i, j, True] for a, j in pairs if a == i}, stratified=True)
            self._enter_cross(i, {j: areas[i, j, False] for a, j in pairs if a == i}, stratified=False)

    def _enter_cross(self, i: str, areas: dict[str, Resampled], *, stratified: bool) -> None:
        at = {} if stratified else UNCONDITIONAL
        for j, area in areas.items():
            reference = None if stratified else _correlation_reference(self.tally.subject, i, self.judged.contrasts[j])
            note = self.judged.contrasts[j].note
            self.tally.add(
                "cross_auc", i, area, {**at, "judged": j}, mean_at=None, chance=CHANCE, reference=reference, note=note
            )
        for j, why in self.judged.undefined.items():
            if i != j:
                self.tally.add("cross_auc", i, why, {**at, "judged": j}, mean_at=None)
        if areas:
            mean = mean_over(list(areas.values()), self.tally.weights.level)
            note = f"mean over {sum(area.defined for area in areas.values())} labels"
            self.tally.add("cross_auc", i, mean, at, mean_at=at, chance=CHANCE, note=note)

    def style(self) -> None:
        """``style_auc[j]``: what the columns that belong to no characteristic tell of j."""
        columns = self.tally.subject.layout.style
        if not columns:
            return
        scores = {
            j: [self._scores(columns, target, None) for target in contrasts.targets]
            for j, contrasts in self.judged.contrasts.items()
        }
        level = self.tally.weights.level
        projections = [
            auc_projection(score, target, None, self.least)
            for j, contrasts in self.judged.contrasts.items()
            for score, target in zip(scores[j], contrasts.targets, strict=True)
        ]
        found = (cross_fitted(area, level) for area in projected_estimates(projections, self.tally.weights))
        for j, contrasts in self.judged.contrasts.items():
            area = averaged([next(found) for _ in contrasts.targets], level)
            self.tally.add("style_auc", j, area, chance=CHANCE, note=contrasts.note)
            style = self.codes[:, list(columns)]
            enter_neighbours(self.tally, ("style_knn_kl",), j, style, scores[j], contrasts, self.neighbours)
        for j, why in self.judged.undefined.items():
            for value in ("style_auc", "style_knn_kl"):
                self.tally.add(value, j, why)

    def _area(self, columns: tuple[int, ...], target: Floats, strata: Floats | None) -> Projection:
        return auc_projection(self._scores(columns, target, strata), target, strata, self.least)

    def _scores(self, columns: tuple[int, ...], target: Floats, strata: Floats | None) -> Floats:
        read = self.codes[:, list(columns)]
        read = with_products(read) if self.probe == "quadratic" else read
        return linear_scores(read, target, self.folds, strata, self.strength)


def _classes(subject: Subject, name: str) -> Floats:
    """The strata of a label: its classes; a continuous one has a single stratum."""
    column = subject.column(name).double().numpy()
    return column if subject.schema[name].kind != "continuous" else np.where(np.isnan(column), np.nan, 0.0)


def _correlation_reference(subject: Subject, i: str, judged: Contrasts) -> float | None:
    """What a code that says label i and nothing else tells of j: each image scored by j's share in its class of i."""
    if subject.schema[i].kind == "continuous":
        return None
    classes = subject.column(i).double().numpy()
    areas = []
    for target in judged.targets:
        known = ~(np.isnan(classes) | np.isnan(target))
        if len(np.unique(target[known])) < 2:
            return None
        _, place = np.unique(classes[known], return_inverse=True)
        share = np.bincount(place, target[known]) / np.bincount(place)
        areas.append(auc(share[place], target[known] == 1))
    return float(np.mean(areas))
