"""Leakage: information about a label in latent dimensions that belong to another characteristic or to the style.

Also the nearest-neighbour divergences that ``density`` reports for a label's own latent dimensions and for the style.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.result_table import ResultTable, Undefined, joined_notes
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.density.settings import Probe
from ccvae_eval.metrics.shared.contrasts import Contrasts, contrasts_of, mean_over_contrasts
from ccvae_eval.statistics.auc import Projection, auc, auc_projection, cross_fitted, projected_estimates
from ccvae_eval.statistics.information import MAX_DIMENSIONS, Divergence, knn_divergences
from ccvae_eval.statistics.intervals import Resampled, mean_over
from ccvae_eval.statistics.probes import Folds, cross_fitted_scores, sign_fitted_scores, standardised

CHANCE = 0.5
UNCONDITIONAL = {"stratum": "none"}
DIRECTIONS = ("1|0", "0|1")
EXCESS = "_excess"


@dataclass(frozen=True, slots=True, eq=False)
class LabelContrasts:
    """The contrasts of each label, or the reason why a label has none."""

    contrasts: dict[str, Contrasts]
    undefined: dict[str, str]

    @classmethod
    def of(cls, subject: Subject, names: Sequence[str], least: int) -> LabelContrasts:
        """Return the contrasts of some labels that have ``least`` images of each class."""
        contrasts, undefined = {}, {}
        for name in names:
            try:
                contrasts[name] = contrasts_of(subject, name, least)
            except UndefinedError as error:
                undefined[name] = error.what
        return cls(contrasts, undefined)


def linear_scores(codes: Floats, target: Floats, folds: Folds, strata: Floats | None, strength: float) -> Floats:
    """Return held-out linear scores of a contrast, shape (N,).

    A single latent dimension is scored by itself, with its sign fitted to the other folds; several by a logistic
    regression fitted to the other folds. Codes are first centred within each stratum, without using the labels;
    otherwise, scores of folds with different signs or weights would differ by their mean.

    Args:
        codes: shape (N, d).
        target: 1, 0 or NaN, shape (N,).
        folds: fold of each image, shape (N,).
        strata: within which to score, shape (N,); None = one stratum.
        strength: penalty of the regression.
    """
    within = np.zeros(len(codes)) if strata is None else strata
    groups = [within == stratum for stratum in np.unique(within[~np.isnan(within)])]
    centred = codes.astype(np.float64)
    for group in groups:
        centred[group] -= centred[group].mean(axis=0)
    if codes.shape[1] > 1:
        return cross_fitted_scores(centred, target[:, None], folds, strata=strata, strength=strength)[:, 0]
    scores = np.full(len(target), np.nan)
    for group in groups:
        scores[group] = sign_fitted_scores(centred[group, 0], target[group], folds[group])
    return scores


def quadratic_features(codes: Floats) -> Floats:
    """Return the standardised codes with their squares and pairwise products: the inputs of the quadratic probe.

    >>> quadratic_features(np.array([[-1.0, 1.0], [1.0, -1.0]])).shape
    (2, 5)
    """
    points = standardised(codes)
    one, other = np.triu_indices(points.shape[1])
    return np.concatenate([points, points[:, one] * points[:, other]], axis=1)


@dataclass(frozen=True, slots=True)
class NeighbourSettings:
    """Settings of the nearest-neighbour divergences.

    Args:
        k: index of the neighbour.
        scaled: True if each latent dimension is divided by its pooled standard deviation.
    """

    k: int
    scaled: bool = True


def add_neighbour_divergences(
    table: ResultTable, values: Sequence[str], name: str, codes: Floats, scores: Sequence[Floats],
    contrasts: Contrasts, settings: NeighbourSettings,
) -> None:  # fmt: skip
    """Add nearest-neighbour divergences between the classes of one label: both directions, and their mean.

    Args:
        table: receives the rows.
        values: names of the values; a name that ends in ``_excess`` is the divergence minus its permutation null.
        name: the label.
        codes: shape (N, d).
        scores: linear score of the codes for each contrast, shape (N,); compared in place of the codes if d > 5.
        contrasts: of the label.
        settings: neighbour and scaling.
    """
    many = codes.shape[1] > MAX_DIMENSIONS
    points = [score[:, None] if many else codes for score in scores]
    found = [
        knn_divergences(x, target, seed=table.weights.seed, k=settings.k, scaled=settings.scaled)
        for x, target in zip(points, contrasts.targets, strict=True)
    ]
    note = joined_notes(contrasts.note, f"linear score of {codes.shape[1]} latent dimensions" if many else "")
    note = note if settings.scaled else joined_notes(note, "raw codes")
    level = table.weights.level
    for value in values:
        for index, direction in enumerate(DIRECTIONS):
            part, chance = _mean_divergence([both[index] for both in found], value, level)
            at = {"direction": direction}
            table.add(value, name, part, at, mean_at=at, chance=chance, note=note)
        mean, chance = _mean_divergence([part for both in found for part in both], value, level)
        table.add(value, name, mean, chance=chance, note=joined_notes("mean of both directions", note))


def _mean_divergence(parts: list[Divergence], value: str, level: float) -> tuple[Resampled, float]:
    """Return the mean divergence, or its mean excess, and the chance level of permuted labels."""
    if value.endswith(EXCESS):
        return mean_over_contrasts([part.excess for part in parts], level), 0.0
    return mean_over_contrasts([part.kl for part in parts], level), float(np.mean([part.null for part in parts]))


@dataclass(frozen=True, slots=True)
class Leakage:
    """Adds ``cross_auc``, ``style_auc`` and ``style_knn_kl`` to a result table.

    Args:
        table: receives the rows.
        subject: the subject.
        code: sampled codes or posterior means.
        folds: fold of each image, shape (N,).
        labels: the labels to predict.
        least: images of each class that a stratum needs.
        strength: penalty of the regressions.
        neighbours: settings of the nearest-neighbour divergence.
        probe: inputs of the regressions: the codes, or also their squares and products.
    """

    table: ResultTable
    subject: Subject
    code: Literal["sample", "mean"]
    folds: Folds
    labels: LabelContrasts
    least: int
    strength: float
    neighbours: NeighbourSettings
    probe: Probe = "linear"

    def add_cross(self) -> dict[tuple[str, str], Resampled]:
        """Add ``cross_auc[i, j]``: label j from the latent dimensions of i, within the classes of i and overall.

        Returns:
            The areas over all images, by (i, j).
        """
        subject = self.subject
        names = [n for n in subject.characteristics if n in subject.schema]
        pairs = [(i, j) for i in names for j in self.labels.contrasts if i != j]
        within = {i: _classes(subject, i) for i in names}
        projections: list[Projection] = []
        for i, j in pairs:
            for strata in (within[i], None):
                for target in self.labels.contrasts[j].targets:
                    scores = self._scores(subject.layout[i], target, strata)
                    projections.append(auc_projection(scores, target, strata, self.least))
        level = self.table.weights.level
        found = self._estimates(projections)
        areas = {
            (i, j, stratified): mean_over_contrasts([next(found) for _ in self.labels.contrasts[j].targets], level)
            for i, j in pairs
            for stratified in (True, False)
        }
        for i in names:
            self._add_cross(i, {j: areas[i, j, True] for a, j in pairs if a == i}, stratified=True)
            self._add_cross(i, {j: areas[i, j, False] for a, j in pairs if a == i}, stratified=False)
        return {(i, j): areas[i, j, False] for i, j in pairs}

    def _add_cross(self, i: str, areas: dict[str, Resampled], *, stratified: bool) -> None:
        at = {} if stratified else UNCONDITIONAL
        for j, area in areas.items():
            contrasts, here = self.labels.contrasts[j], {**at, "judged": j}
            reference = None if stratified else _correlation_reference(self.subject, i, contrasts)
            note = contrasts.note
            self.table.add("cross_auc", i, area, here, mean_at=None, chance=CHANCE, reference=reference, note=note)
        for j, why in self.labels.undefined.items():
            if i != j:
                self.table.add("cross_auc", i, Undefined(why), {**at, "judged": j}, mean_at=None)
        if areas:
            mean = mean_over(list(areas.values()), self.table.weights.level)
            note = f"mean over {sum(area.defined for area in areas.values())} labels"
            self.table.add("cross_auc", i, mean, at, mean_at=at, chance=CHANCE, note=note)

    def add_style(self) -> None:
        """Add ``style_auc`` and ``style_knn_kl`` of each label, from the style dimensions."""
        columns = self.subject.layout.style
        if not columns:
            return
        scores = {
            j: [self._scores(columns, target, None) for target in contrasts.targets]
            for j, contrasts in self.labels.contrasts.items()
        }
        level = self.table.weights.level
        projections = [
            auc_projection(score, target, None, self.least)
            for j, contrasts in self.labels.contrasts.items()
            for score, target in zip(scores[j], contrasts.targets, strict=True)
        ]
        found = self._estimates(projections)
        style = self._inputs(columns)
        for j, contrasts in self.labels.contrasts.items():
            area = mean_over_contrasts([next(found) for _ in contrasts.targets], level)
            self.table.add("style_auc", j, area, chance=CHANCE, note=contrasts.note)
            add_neighbour_divergences(self.table, ("style_knn_kl",), j, style, scores[j], contrasts, self.neighbours)
        for j, why in self.labels.undefined.items():
            self.table.undefined(j, why, ("style_auc", "style_knn_kl"))

    def _estimates(self, areas: Sequence[Projection]) -> Iterator[Resampled]:
        return (cross_fitted(a, self.table.weights.level) for a in projected_estimates(areas, self.table.weights))

    def _inputs(self, columns: tuple[int, ...]) -> Floats:
        return self.subject.latents(columns, self.code)

    def _scores(self, columns: tuple[int, ...], target: Floats, strata: Floats | None) -> Floats:
        inputs = self._inputs(columns)
        inputs = quadratic_features(inputs) if self.probe == "quadratic" else inputs
        return linear_scores(inputs, target, self.folds, strata, self.strength)


def _classes(subject: Subject, name: str) -> Floats:
    """Return the strata of a label: its classes, or a single stratum for a continuous label."""
    column = subject.column(name).double().numpy()
    return column if subject.schema[name].kind != "continuous" else np.where(np.isnan(column), np.nan, 0.0)


def _correlation_reference(subject: Subject, i: str, contrasts: Contrasts) -> float | None:
    """Return the area that a code of label i alone reaches for another label, from the correlation of the labels.

    Each image is scored by the frequency of the other label in its class of i.
    """
    if subject.schema[i].kind == "continuous":
        return None
    classes = subject.column(i).double().numpy()
    areas = []
    for target in contrasts.targets:
        known = ~(np.isnan(classes) | np.isnan(target))
        if len(np.unique(target[known])) < 2:
            return None
        _, index = np.unique(classes[known], return_inverse=True)
        frequency = np.bincount(index, target[known]) / np.bincount(index)
        areas.append(auc(frequency[index], target[known] == 1))
    return float(np.mean(areas))
