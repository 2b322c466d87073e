"""The metric ``density``: information about each label in its own and in other latent dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ORACLE, Measurement, ValueSpec
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.result_table import COLUMN, UNASSIGNED, ResultTable, among, joined_notes
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.density.leakage import (
    CHANCE,
    LabelContrasts,
    Leakage,
    NeighbourSettings,
    Probe,
    add_neighbour_divergences,
    linear_scores,
)
from ccvae_eval.metrics.density.variety import add_beyond, variety_sample
from ccvae_eval.metrics.shared.contrasts import Contrasts, RocAuc, mean_over_contrasts
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
from ccvae_eval.statistics.probes import Folds, cross_fitted_regression, folds_of
from ccvae_eval.statistics.resampling import ResampleWeights

CHANCE_NAME = "labels permuted"
NO_CHANCE = "permuted codes predict no parameter, so their concentration is undefined"
POOLED = {"scale": "pooled"}
SCATTER_DIMENSIONS = 2
SCATTER_CODES = 500
"""Codes of each class in the scatter plot, from the first."""


@dataclass(frozen=True, slots=True)
class Density:
    r"""Separation of a label's classes in its own latent dimensions, and predictability of labels from the others.

    Codes z are one posterior sample per image (``code="mean"``: posterior means; the two differ greatly for wide
    posteriors). A characteristic with one latent dimension is compared directly; one with several by its cross-fitted
    linear score, a logistic regression on standardised codes fitted to the other four fifths of the images. Categorical
    labels are compared one-vs-rest and averaged over the classes. Continuous labels have no classes: their value is
    ``rank_correlation``, all others are undefined.

    Own latent dimensions, classes y = 1 and y = 0:

    - ``auc``: probability that a present image scores above an absent one; the sign of the score is fitted on other
      images;
    - ``dprime`` = |m1 - m0| / sqrt((s0^2 + s1^2) / 2); ``overlap`` = int min(p1, p0) and ``js`` (bits) of the Gaussian
      kernel densities p1, p0, with Silverman's bandwidth for each class; ``wasserstein`` = int |F1 - F0|, raw and
      divided by the pooled standard deviation;
    - ``knn_kl`` (nats) = log(m / (n - 1)) + (d / n) sum_i log(nu_k(i) / rho_k(i)), present against absent (1|0),
      reversed (0|1), and the mean of both; ``knn_kl_excess`` = the same minus its permutation null. May be negative;
    - ``prior_gap`` = mean over classes of W1(codes with y = v, p(z_c|y = v)) in standard deviations of p, for each
      latent dimension; its reference is the distance of as many samples of p itself.

    Leakage: ``cross_auc`` of characteristic i for label j = ROC area of j predicted from the latent dimensions of i
    *within each class of i* (both classes of j need ``least`` images; weighted by images). At stratum=none the area is
    over all images, and its reference is the area that a code of label i alone reaches, given the correlation of the
    labels. ``style_auc`` of j = ROC area of j predicted from the style dimensions by a linear score; ``style_knn_kl``
    of j = nearest-neighbour divergence of the style dimensions between the classes of j, which also detects nonlinear
    information; with more than five style dimensions, it is that of their linear score.

    Data with variety parameters: ``beyond`` = cross-fitted R2 of the parameters (shape, size, colour of the glasses)
    from z_c among the images with the attribute; ``components`` = the same from each latent dimension alone, with D
    (one parameter per dimension) and C (one dimension per parameter) of that matrix.

    Range: 0 to 1 for areas, overlap, js, D and C; 0 and up for dprime, wasserstein and prior_gap; -1 to 1 for
    rank_correlation; at most 1 for beyond and components; nearest-neighbour divergences are unbounded.
    Direction: higher is better for own latent dimensions, nearer .5 for leakage. Chance: .5 for areas, otherwise
    labels permuted.
    Cost: no image is decoded. Confidence intervals: bootstrap over images, conditional on fits and bandwidths; of many
    areas at once to first order ("projected bootstrap"); of nearest neighbours by subsampling. Areas are those of
    probes fitted to this number of images, slightly below those of the best probe.
    Pitfalls: a code that equals the label (M2) has no density: overlap and js compare point masses, and nearest
    neighbours are undefined. Unconditional leakage confuses label correlation with entanglement. Raw Wasserstein
    distances depend on the scale of the latent space. The linear probe does not detect nonlinear leakage.
    Reference: docs/metrics.md, section 1; k-NN divergence: Wang, Kulkarni and Verdu 2009; D and C: Eastwood and
    Williams 2018.

    Args:
        code: one sample of q(z|x) for each image, or its mean.
        least: images that each class needs.
        neighbours: k of the nearest-neighbour divergences.
        neighbour_scale: scale of their distances: latent dimensions divided by their pooled standard deviation, or raw.
        strength: penalty of the linear probes.
        curve_draws: bootstrap resamples for overlap and js, whose kernel densities are expensive.
        permutations: label permutations for simulated chance levels.
        probe: probe of leakage: linear, or quadratic (with squares and products of the latent dimensions).
    """

    name: ClassVar[str] = "density"
    version: ClassVar[int] = 4
    headline: ClassVar[str] = "auc"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "auc": ValueSpec(
            "ROC area of the label predicted from its own latent dimensions", "", True, (0.0, 1.0), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "dprime": ValueSpec(
            "distance of the class means in pooled standard deviations", "standard deviations", True, (0.0, None),
            CHANCE_NAME, dials=("shuffle",),
        ),
        "overlap": ValueSpec(
            "overlapping probability mass of the class densities", "share", False, (0.0, 1.0), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "js": ValueSpec(
            "Jensen-Shannon divergence of the class densities", "bits", True, (0.0, 1.0), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "wasserstein": ValueSpec(
            "Wasserstein distance of the classes, in units of the code or in pooled standard deviations", "code", True,
            (0.0, None), CHANCE_NAME, dials=("shuffle",),
        ),
        "knn_kl": ValueSpec(
            "nearest-neighbour divergence between the classes", "nats", True, (None, None), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "knn_kl_excess": ValueSpec(
            "nearest-neighbour divergence between the classes, minus that of permuted labels", "nats", True,
            (None, None), CHANCE_NAME, dials=("shuffle",),
        ),
        "rank_correlation": ValueSpec(
            "rank correlation of a continuous label with its prediction from its own latent dimensions", "", True,
            (-1.0, 1.0), CHANCE_NAME, dials=("shuffle",),
        ),
        "prior_gap": ValueSpec(
            "Wasserstein distance of each class's codes from the model's p(z_c|y)", "standard deviations", False,
            (0.0, None), CHANCE_NAME, dials=("shift",), reference="as many samples of p(z_c|y) itself",
        ),
        "cross_auc": ValueSpec(
            "ROC area of another label predicted from a characteristic's latent dimensions, within its classes", "",
            False, (0.0, 1.0), CHANCE_NAME, dials=("mix",),
            reference=f"{ORACLE}; at stratum=none the correlation of the labels",
        ),
        "style_auc": ValueSpec(
            "ROC area of a label predicted from the style dimensions", "", False, (0.0, 1.0), CHANCE_NAME,
            dials=("seep",),
        ),
        "style_knn_kl": ValueSpec(
            "nearest-neighbour divergence of the style dimensions between the classes of a label", "nats", False,
            (None, None), CHANCE_NAME, dials=("seep",),
        ),
        "beyond": ValueSpec(
            "R2 of the attribute's variety parameters predicted from its code, among images with the attribute", "R2",
            True, (None, 1.0), "code of another image", dials=("shuffle",),
        ),
        "components": ValueSpec(
            "R2 of one variety parameter predicted from one latent dimension", "R2", None, (None, 1.0),
            "code of another image",
        ),
        "components_d": ValueSpec(
            "concentration of each latent dimension on one variety parameter (D)", "", True, (0.0, 1.0),
            no_chance=NO_CHANCE, dials=("stir",),
        ),
        "components_c": ValueSpec(
            "concentration of each variety parameter on one latent dimension (C)", "", True, (0.0, 1.0),
            no_chance=NO_CHANCE, dials=("stir",),
        ),
    }  # fmt: skip

    code: Literal["sample", "mean"] = "sample"
    least: int = 20
    neighbours: int = 5
    neighbour_scale: Literal["pooled", "raw"] = "pooled"
    strength: float = 1.0
    curve_draws: int = 500
    permutations: int = 20
    probe: Probe = "linear"

    @property
    def nearest(self) -> NeighbourSettings:
        """The settings of the nearest-neighbour divergences."""
        return NeighbourSettings(self.neighbours, self.neighbour_scale == "pooled")

    def needs(self, subject: Subject) -> Needs:
        del subject
        choices = {"code": ("sample", "mean"), "probe": get_args(Probe), "neighbour_scale": ("pooled", "raw")}
        for key, (one, other) in choices.items():
            if (choice := getattr(self, key)) not in (one, other):
                raise UsageError(f'{key} must be "{one}" or "{other}", got {choice!r}', where="density")
        return Needs(images=False)

    def start(self, subject: Subject) -> DensityAccumulator:
        return DensityAccumulator(self, subject)


STYLE_VALUES = frozenset({"style_auc", "style_knn_kl"})
OWN_VALUES = ("auc", "dprime", "overlap", "js", "wasserstein", "knn_kl", "knn_kl_excess")


@dataclass
class DensityAccumulator:
    """Computes all values from the codes; no image is decoded."""

    metric: Density
    subject: Subject
    pictures: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def update(self, batch: Decoded) -> None:
        """Never called: this metric decodes no images."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject, metric = self.subject, self.metric
        chosen = subject.codes if metric.code == "sample" else subject.posterior.loc
        codes: Floats = chosen.double().numpy()
        folds = folds_of(subject.ids)
        table = ResultTable(metric, subject, weights, given_counts=False, findings=STYLE_VALUES)
        names = [name for name in subject.schema.names if subject.selected is None or name in subject.selected]
        labels = LabelContrasts.of(subject, names, metric.least)
        for name in subject.characteristics:
            self._add_own(table, name, codes, folds, labels)
        for name in set(names) & set(subject.unassigned):
            for value in OWN_VALUES:
                table.add(value, name, f"{UNASSIGNED}: no latent dimension predicts it above chance")
        leakage = Leakage(table, codes, folds, labels, metric.least, metric.strength, metric.nearest, metric.probe)
        leakage.add_cross()
        leakage.add_style()
        return table.measurement(self._notes(), self.pictures)

    def _notes(self) -> list[str]:
        model = self.subject.model
        if supports(model, HasConditionalPrior):
            return []
        return [f"prior_gap is not applicable: {type_name(model)} has no p(z_c|y)"]

    def _add_own(self, table: ResultTable, name: str, codes: Floats, folds: Folds, labels: LabelContrasts) -> None:
        subject, metric = self.subject, self.metric
        own = codes[:, list(subject.layout[name])]
        table.evidence[f"code/{name}"] = own
        table.evidence[f"label/{name}"] = subject.column(name).double().numpy()
        if subject.schema[name].kind == "continuous":
            self._add_continuous(table, name, own, folds)
        contrasts = labels.contrasts.get(name)
        if contrasts is None:
            for value in OWN_VALUES:
                table.add(value, name, labels.undefined[name])
            return
        scores = [linear_scores(own, target, folds, None, metric.strength) for target in contrasts.targets]
        views = [own[:, 0]] * len(scores) if own.shape[1] == 1 else scores
        note = contrasts.note
        table.add("auc", name, RocAuc(scores, contrasts.targets, fitted=True), chance=CHANCE, note=note)
        if own.shape[1] > 1:
            note = joined_notes(note, f"linear score of {own.shape[1]} latent dimensions")
        self._add_distances(table, name, views, contrasts, note)
        add_neighbour_divergences(table, ("knn_kl", "knn_kl_excess"), name, own, scores, contrasts, metric.nearest)
        if supports(subject.model, HasConditionalPrior):
            self._add_prior_gap(table, name, own)
        sample = variety_sample(subject, name, codes, metric.least)
        if sample is not None:
            add_beyond(table, name, sample, folds, metric.least, metric.strength)
        self._keep_curves(name, own, scores[0])
        self._keep_scatter(name, own)

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
        prior = self.subject.prior_of(name)
        classes = self.subject.classes(name).numpy()
        kept = [k for k in range(len(prior.loc)) if int((classes == k).sum()) >= self.metric.least]
        loc, scale = prior.loc.double().numpy(), prior.scale.double().numpy()
        if not (scale[kept] > 0).all():
            table.add("prior_gap", name, "p(z_c|y) is a point mass")
            return
        floor = float(np.mean([normal_wasserstein_floor(int((classes == k).sum())) for k in kept]))
        columns, chances, known = [], [], classes >= 0
        for index, column in enumerate(self.subject.layout[name]):
            unit = {k: (own[:, index] - loc[k, index]) / scale[k, index] for k in kept}
            # the codes of all classes in place of each class's own: labels permuted, on average
            chances.append(float(np.mean([normal_wasserstein(unit[k][known]) for k in kept])))
            parts = [normal_wasserstein_estimate(among(classes == k, unit[k]), table.weights) for k in kept]
            mean, n = mean_over_contrasts(parts, table.weights.level), sum(part.estimate.n for part in parts)
            columns.append(replace(mean, estimate=replace(mean.estimate, n=n)))  # the images of all classes
            if own.shape[1] > 1:
                at = {COLUMN: column}
                table.add("prior_gap", name, columns[-1], at, mean_at=None, chance=chances[-1], reference=floor)
        whole, chance = mean_over_contrasts(columns, table.weights.level), float(np.mean(chances))
        table.add("prior_gap", name, whole, chance=chance, reference=floor)

    def _keep_curves(self, name: str, own: Floats, score: Floats) -> None:
        """Keep the class densities for a figure, and the prior if the code has one latent dimension."""
        label = self.subject.schema[name]
        classes = self.subject.classes(name).numpy()
        view = own[:, 0] if own.shape[1] == 1 or label.kind != "binary" else score
        usable = ~np.isnan(view)
        members = {k: view[(classes == k) & usable] for k in range(label.cardinality)}
        drawn = [k for k, values in members.items() if len(values) > 1 and not is_discrete(values)]
        if not drawn:
            return
        grid, densities = kde_curves([members[k] for k in drawn])
        self.pictures[f"curves/{name}/grid"] = grid
        for k, density in zip(drawn, densities, strict=True):
            self.pictures[f"curves/{name}/{label.class_name(k)}"] = density
        if supports(self.subject.model, HasConditionalPrior) and view is not score:
            prior = self.subject.prior_of(name)
            for k in drawn:
                if float(prior.scale[k, 0]) > 0:
                    density = norm.pdf(grid, float(prior.loc[k, 0]), float(prior.scale[k, 0]))
                    self.pictures[f"curves/{name}/prior/{label.class_name(k)}"] = density

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
            self.pictures[f"scatter/{name}/{label.class_name(k)}"] = points.astype(np.float32)
            if prior is not None:
                moments = np.stack([prior.loc[k].numpy(), prior.scale[k].numpy()]).astype(np.float32)
                self.pictures[f"scatter/{name}/prior/{label.class_name(k)}"] = moments
