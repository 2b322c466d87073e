"""The metric ``density``: information about each label in its own and in other latent dimensions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import norm

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.evaluation.result_table import (
    COLUMN,
    NOT_PREDICTED,
    ResultTable,
    Undefined,
    among,
    joined_notes,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.density.impurity import add_concept_leakage, add_oracle_impurity
from ccvae_eval.metrics.density.leakage import (
    CHANCE,
    LabelContrasts,
    Leakage,
    add_neighbour_divergences,
    linear_scores,
)
from ccvae_eval.metrics.density.settings import Density
from ccvae_eval.metrics.density.variety import add_beyond, variety_sample
from ccvae_eval.metrics.shared.contrasts import Contrasts, RocAuc, above_median, mean_over_contrasts
from ccvae_eval.model.interface import HasConditionalPrior, supports, type_name
from ccvae_eval.statistics.auc import spearman_estimate
from ccvae_eval.statistics.densities import (
    dprime_estimate,
    is_discrete,
    kde_curves,
    overlap_and_js_estimates,
    permuted_null,
    wasserstein_estimate,
)
from ccvae_eval.statistics.distances import normal_wasserstein, normal_wasserstein_estimate, normal_wasserstein_floor
from ccvae_eval.statistics.information import equal_mass_bins
from ccvae_eval.statistics.intervals import Resampled
from ccvae_eval.statistics.probes import Folds, cross_fitted_regression, folds_of
from ccvae_eval.statistics.resampling import ResampleWeights

POINT_MASS = "p(z_c|y) is a point mass"
POOLED = {"scale": "pooled"}
QUARTERS = 4
"""Bins of a continuous label in comparisons of codes with labels; the median is one of their edges."""
Gaps = tuple[list[Resampled], list[float], float]
"""``prior_gap`` of each latent dimension, its chance level for each, and its reference."""
SCATTER_DIMENSIONS = 2
SCATTER_CODES = 500
"""Codes of each class in the scatter plot, from the first."""


def needs(metric: Density, subject: Subject) -> Needs:
    del metric, subject
    return Needs(images=False)


STYLE_VALUES = frozenset({"style_auc", "style_knn_kl"})
OWN_VALUES = ("auc", "dprime", "overlap", "js", "wasserstein", "knn_kl", "knn_kl_excess")


class DensityAccumulator(ImageAccumulator[Density]):
    """Computes all values from the codes; no image is decoded."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject, metric = self.subject, self.metric
        folds = folds_of(subject.ids)
        table = ResultTable(metric, subject, weights, given_counts=False, findings=STYLE_VALUES)
        names = [name for name in subject.schema.names if subject.selected is None or name in subject.selected]
        labels = LabelContrasts.of(subject, names, metric.least)
        own = {name: self._add_own(table, name, folds, labels) for name in subject.characteristics}
        views = {name: found for name, found in own.items() if found is not None and name not in subject.given}
        for name in (name for name in names if name in subject.unassigned):
            table.undefined(name, NOT_PREDICTED, OWN_VALUES)
        leakage = Leakage(
            table, subject, metric.code, folds, labels, metric.least, metric.strength, metric.nearest, metric.probe
        )
        areas = leakage.add_cross() | {(name, name): area for name, (area, _) in views.items()}
        leakage.add_style()
        classes = {name: _label_classes(subject, name) for name in views}
        add_oracle_impurity(table, list(views), areas, labels.contrasts, classes)
        add_concept_leakage(table, {name: view for name, (_, view) in views.items()}, classes, metric.permutations)
        return table.measurement(self._notes(), self.pictures.arrays())

    def _notes(self) -> list[str]:
        model = self.subject.model
        if supports(model, HasConditionalPrior):
            return []
        return [f"prior_gap is not applicable: {type_name(model)} has no p(z_c|y)"]

    def _add_own(
        self, table: ResultTable, name: str, folds: Folds, labels: LabelContrasts
    ) -> tuple[Resampled, list[Floats]] | None:
        """Add the values of a label's own latent dimensions.

        Returns:
            The area, and the code in one dimension for each contrast; None if the label has no classes to compare.
        """
        subject, metric = self.subject, self.metric
        own = subject.latents(subject.layout[name], metric.code)
        table.evidence[f"code/{name}"] = own
        table.evidence[f"label/{name}"] = subject.column(name).double().numpy()
        if subject.schema[name].kind == "continuous":
            self._add_continuous(table, name, own, folds)
        contrasts = labels.contrasts.get(name)
        if contrasts is None:
            table.undefined(name, labels.undefined[name], OWN_VALUES)
            return None
        scores = [linear_scores(own, target, folds, None, metric.strength) for target in contrasts.targets]
        views = [own[:, 0]] * len(scores) if own.shape[1] == 1 else scores
        note = contrasts.note
        area = table.add("auc", name, RocAuc(scores, contrasts.targets, fitted=True), chance=CHANCE, note=note)
        if own.shape[1] > 1:
            note = joined_notes(note, f"linear score of {own.shape[1]} latent dimensions")
        self._add_distances(table, name, views, contrasts, note)
        add_neighbour_divergences(table, ("knn_kl", "knn_kl_excess"), name, own, scores, contrasts, metric.nearest)
        if supports(subject.model, HasConditionalPrior):
            self._add_prior_gap(table, name, own)
        sample = variety_sample(subject, name, own, metric.least)
        if sample is not None:
            add_beyond(table, name, sample, folds, metric.least, metric.strength)
        self._keep_curves(name, own, scores[0])
        self._keep_scatter(name, own)
        return area, views[: 1 if own.shape[1] == 1 else None]

    def _add_continuous(self, table: ResultTable, name: str, own: Floats, folds: Folds) -> None:
        target = self.subject.column(name).double().numpy()
        score = cross_fitted_regression(own, target[:, None], folds, strength=self.metric.strength).predicted[:, 0]
        table.add("rank_correlation", name, spearman_estimate(score, target, table.weights), chance=0.0)

    def _add_distances(
        self, table: ResultTable, name: str, views: list[Floats], contrasts: Contrasts, note: str
    ) -> None:
        weights, metric = table.weights, self.metric
        fewer = replace(weights, draws=min(metric.curve_draws, weights.draws))
        pairs = list(zip(views, contrasts.targets, strict=True))
        nulls = [
            permuted_null(view, target, seed=self.subject.seed, permutations=metric.permutations)
            for view, target in pairs
        ]
        smooth = [overlap_and_js_estimates(*pair, fewer) for pair in pairs]
        found = {
            "dprime": [dprime_estimate(*pair, weights) for pair in pairs],
            "overlap": [shared for shared, _ in smooth],
            "js": [divergence for _, divergence in smooth],
            "wasserstein": [wasserstein_estimate(*pair, weights) for pair in pairs],
        }
        for value, parts in found.items():
            chance = float(np.mean([getattr(null, value) for null in nulls]))
            table.add(value, name, mean_over_contrasts(parts, weights.level), chance=chance, note=note)
        scaled = [wasserstein_estimate(*pair, weights, scaled=True) for pair in pairs]
        chance = float(np.mean([null.wasserstein_scaled for null in nulls]))
        whole = mean_over_contrasts(scaled, weights.level)
        table.add("wasserstein", name, whole, POOLED, mean_at=POOLED, chance=chance, note=note)

    def _add_prior_gap(self, table: ResultTable, name: str, own: Floats) -> None:
        """Add ``prior_gap`` of each latent dimension, and their mean."""
        continuous = self.subject.schema[name].kind == "continuous"
        found = (self._gaps_of_values if continuous else self._gaps_of_classes)(name, own, table.weights)
        if found is None:
            table.add("prior_gap", name, Undefined(POINT_MASS))
            return
        gaps, chances, floor = found
        if own.shape[1] > 1:
            for dimension, gap, chance in zip(self.subject.layout[name], gaps, chances, strict=True):
                at = {COLUMN: dimension}
                table.add("prior_gap", name, gap, at, mean_at=None, chance=chance, reference=floor)
        whole = mean_over_contrasts(gaps, table.weights.level)
        table.add("prior_gap", name, whole, chance=float(np.mean(chances)), reference=floor)

    def _gaps_of_classes(self, name: str, own: Floats, weights: ResampleWeights) -> Gaps | None:
        """``prior_gap`` of each latent dimension: the mean over classes, each relative to its p(z_c|y)."""
        prior = self.subject.prior_of(name)
        classes = self.subject.classes(name).numpy()
        kept = [k for k in range(len(prior.loc)) if int((classes == k).sum()) >= self.metric.least]
        loc, scale = prior.loc.double().numpy(), prior.scale.double().numpy()
        if not (scale[kept] > 0).all():
            return None
        floor = float(np.mean([normal_wasserstein_floor(int((classes == k).sum())) for k in kept]))
        gaps, chances, known = [], [], classes >= 0
        for index in range(own.shape[1]):
            unit = {k: (own[:, index] - loc[k, index]) / scale[k, index] for k in kept}
            # the codes of all classes in place of each class's own: labels permuted, on average
            chances.append(float(np.mean([normal_wasserstein(unit[k][known]) for k in kept])))
            parts = [normal_wasserstein_estimate(among(classes == k, unit[k]), weights) for k in kept]
            mean, n = mean_over_contrasts(parts, weights.level), sum(part.estimate.n for part in parts)
            gaps.append(replace(mean, estimate=replace(mean.estimate, n=n)))  # the images of all classes
        return gaps, chances, floor

    def _gaps_of_values(self, name: str, own: Floats, weights: ResampleWeights) -> Gaps | None:
        """``prior_gap`` of each latent dimension: each code relative to p(z_c|y) at its own value of the label."""
        column = self.subject.column(name)
        known = ~column.isnan().numpy()
        loc, scale = (np.full(own.shape, np.nan) for _ in range(2))
        prior = self.subject.prior_at(name, column[~column.isnan()])
        loc[known], scale[known] = prior.loc.double().numpy(), prior.scale.double().numpy()
        if not (scale[known] > 0).all():
            return None
        order = numpy_stream(self.subject.seed, f"prior_gap/{name}").permutation(np.flatnonzero(known))
        shuffled = (own[order] - loc[known]) / scale[known]
        gaps = [normal_wasserstein_estimate(column, weights) for column in ((own - loc) / scale).T]
        chances = [float(normal_wasserstein(column)) for column in shuffled.T]
        return gaps, chances, normal_wasserstein_floor(int(known.sum()))

    def _keep_curves(self, name: str, own: Floats, score: Floats) -> None:
        """Keep the class densities for a figure, and the prior if the code has one latent dimension.

        Of a continuous label, the densities on both sides of its median.
        """
        label, continuous = self.subject.schema[name], self.subject.schema[name].kind == "continuous"
        classes, names = self.subject.classes(name).numpy(), [label.class_name(k) for k in range(label.cardinality)]
        if continuous:
            classes, names = above_median(self.subject.column(name).double().numpy()), ["rest", "above the median"]
        view = own[:, 0] if own.shape[1] == 1 or label.kind == "categorical" else score
        usable = ~np.isnan(view)
        members = {k: view[(classes == k) & usable] for k in range(len(names))}
        drawn = [k for k, values in members.items() if len(values) > 1 and not is_discrete(values)]
        if not drawn:
            return
        grid, densities = kde_curves([members[k] for k in drawn])
        self.pictures.kept[f"curves/{name}/grid"] = grid
        for k, density in zip(drawn, densities, strict=True):
            self.pictures.kept[f"curves/{name}/{names[k]}"] = density
        if supports(self.subject.model, HasConditionalPrior) and view is not score and not continuous:
            prior = self.subject.prior_of(name)
            for k in drawn:
                if float(prior.scale[k, 0]) > 0:
                    density = norm.pdf(grid, float(prior.loc[k, 0]), float(prior.scale[k, 0]))
                    self.pictures.kept[f"curves/{name}/prior/{names[k]}"] = density

    def _keep_scatter(self, name: str, own: Floats) -> None:
        """Keep two-dimensional codes for a figure, and the mean and standard deviation of p(z_c|y)."""
        label, classes = self.subject.schema[name], self.subject.classes(name).numpy()
        if own.shape[1] != SCATTER_DIMENSIONS:
            return
        prior = self.subject.prior_of(name) if supports(self.subject.model, HasConditionalPrior) else None
        for k in range(label.cardinality):
            points = own[classes == k][:SCATTER_CODES]
            if not len(points):
                continue
            self.pictures.kept[f"scatter/{name}/{label.class_name(k)}"] = points.astype(np.float32)
            if prior is not None:
                moments = np.stack([prior.loc[k].numpy(), prior.scale[k].numpy()]).astype(np.float32)
                self.pictures.kept[f"scatter/{name}/prior/{label.class_name(k)}"] = moments


def _label_classes(subject: Subject, name: str) -> Floats:
    """Class of each image by a label, NaN = missing; a continuous label has its quarters as classes."""
    column = subject.column(name).double().numpy()
    if subject.schema[name].kind != "continuous":
        return column
    known = ~np.isnan(column)
    column[known] = equal_mass_bins(column[known], QUARTERS)
    return column
