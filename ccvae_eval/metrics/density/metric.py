"""Density: does a characteristic's code tell its label apart, and no other label?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ORACLE, Measurement, ValueSpec
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.result_table import COLUMN, UNASSIGNED, ResultTable, sentence
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.density.leakage import (
    CHANCE,
    Judged,
    Leakage,
    Neighbours,
    Probe,
    enter_neighbours,
    linear_scores,
)
from ccvae_eval.metrics.density.variety import enter_beyond, shown_variety
from ccvae_eval.metrics.shared.contrasts import Areas, Contrasts, averaged
from ccvae_eval.model.interface import HasConditionalPrior
from ccvae_eval.statistics.auc import spearman_estimate
from ccvae_eval.statistics.densities import (
    dprime_estimate,
    is_discrete,
    kde_curves,
    overlap_and_js_estimates,
    wasserstein_estimate,
)
from ccvae_eval.statistics.distances import normal_wasserstein, normal_wasserstein_estimate, normal_wasserstein_floor
from ccvae_eval.statistics.intervals import Resampled
from ccvae_eval.statistics.permutation_nulls import permuted_null
from ccvae_eval.statistics.probes import Folds, cross_fitted_regression, folds_of
from ccvae_eval.statistics.resampling import ResampleWeights

CHANCE_NAME = "labels permuted"
NOTHING_HELD = "codes of other images hold no parameter, and a share of nothing is none"
POOLED = {"scale": "pooled"}
PLANE = 2
"""Columns that make a plane."""
SCATTERED = 500
"""Codes of a class in a picture, the first ones."""


@dataclass(frozen=True, slots=True)
class Density:
    r"""How far the classes of a label lie apart in the label's own latent columns, and how much other columns tell.

    Codes z are one posterior sample for each image (``code="mean"``: the posterior means; the two differ greatly for
    wide posteriors). A characteristic with one column is compared as it is; one with several by its cross-fitted
    linear score: a logistic regression on standardised codes, fitted on the other four fifths of the images.
    Categorical labels: one class against the rest, averaged over the classes. Continuous labels have no classes: their
    own value is ``rank_correlation``, all others are undefined.

    Own columns, classes y = 1 and y = 0:

    - ``auc``: chance that a present image scores above an absent one, the score's sign fitted on other images;
    - ``dprime`` = |m1 - m0| / sqrt((s0^2 + s1^2) / 2); ``overlap`` = int min(p1, p0) and ``js`` (bits) of the Gaussian
      kernel densities p1, p0, Silverman's bandwidth for each class; ``wasserstein`` = int |F1 - F0|, raw and over the
      pooled deviation;
    - ``knn_kl`` (nats) = log(m / (n - 1)) + (d / n) sum_i log(nu_k(i) / rho_k(i)), present against absent (1|0) and
      back (0|1), and the mean of both; ``knn_kl_excess`` = the same minus its permutation null. May be negative;
    - ``prior_gap`` = mean over classes of W1(codes with y = v, p(z_c|y = v)) in deviations of p, per column; its
      reference is the distance of as many draws of p itself.

    Leakage: ``cross_auc`` of characteristic i asked for label j = how well the columns of i tell j *within each class
    of i* (both classes of j at least ``least`` images; weighted by images); over all images beside it (stratum none),
    whose reference is what a code that says i and nothing else would tell of j: the labels' own correlation.
    ``style_auc`` of j: how well the columns that belong to no characteristic tell j, by a linear score;
    ``style_knn_kl`` of j: the nearest-neighbour divergence of those columns between the classes of j (of their linear
    score where there are more than five), which also sees what is not linear.

    Data with known variety: ``beyond`` = cross-fitted R2 of the variety parameters (shape, size, colour of the
    glasses) from z_c among the images with the attribute; ``components`` = the same of each column of a block alone,
    with the D (one parameter per column) and C (one column per parameter) of that matrix.

    Range: 0 to 1 for areas, overlap, js, D and C; 0 and up for dprime, wasserstein and prior_gap; -1 to 1 for
    rank_correlation; at most 1 for beyond and components; nearest neighbours have no bounds.
    Direction: higher is better for own columns, nearer .5 for leakage. Chance: .5 for areas, labels permuted else.
    Cost: no image is decoded. Intervals: bootstrap over images, conditional on fits and bandwidths; of many areas at
    once to first order ("projected bootstrap"); nearest neighbours by subsampling. Areas speak of readers fitted to as
    many images, not of the best one (of 21 style columns and 1,536 images .005 to .007 more).
    Pitfalls: a code that is the label itself (M2) has no density: overlap and divergence compare point masses, and
    nearest neighbours are undefined. Unconditional leakage mistakes label correlation for entanglement. Raw
    Wasserstein distances depend on the scale of the latent space. The linear probe does not see nonlinear leakage.
    Reference: docs/metrics.md, section 1; k-NN divergence: Wang, Kulkarni and Verdu 2009; D and C: Eastwood and
    Williams 2018.

    Args:
        code: one sample of q(z|x) for each image, or its mean.
        least: images that each class needs.
        neighbours: k of the nearest-neighbour divergence.
        neighbour_scale: what its distances are of: columns over their pooled deviation, or raw columns.
        strength: penalty of the linear probes.
        curve_draws: resamples behind the intervals of overlap and js, which need all codes at all points of a grid.
        permutations: permuted labels behind simulated chance levels.
        probe: of leakage: linear, or quadratic (squares and products of the columns too).
    """

    name: ClassVar[str] = "density"
    version: ClassVar[int] = 4
    headline: ClassVar[str] = "auc"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "auc": ValueSpec(
            "how well the characteristic's own columns tell its label", "", True, (0.0, 1.0), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "dprime": ValueSpec(
            "distance of the class means in pooled deviations", "deviations", True, (0.0, None), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "overlap": ValueSpec(
            "mass that the class densities share", "share", False, (0.0, 1.0), CHANCE_NAME, dials=("shuffle",)
        ),
        "js": ValueSpec(
            "Jensen-Shannon divergence of the class densities", "bits", True, (0.0, 1.0), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "wasserstein": ValueSpec(
            "Wasserstein distance of the classes, in the code's own unit; or in pooled deviations", "code", True,
            (0.0, None), CHANCE_NAME, dials=("shuffle",),
        ),
        "knn_kl": ValueSpec(
            "nearest-neighbour divergence between the classes", "nats", True, (None, None), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "knn_kl_excess": ValueSpec(
            "the same beyond that of permuted labels", "nats", True, (None, None), CHANCE_NAME, dials=("shuffle",)
        ),
        "rank_correlation": ValueSpec(
            "rank correlation of the own columns with a continuous label", "", True, (-1.0, 1.0), CHANCE_NAME,
            dials=("shuffle",),
        ),
        "prior_gap": ValueSpec(
            "distance of each class's codes from the model's own p(z_c|y)", "deviations", False, (0.0, None),
            CHANCE_NAME, dials=("shift",), reference="as many draws of p(z_c|y) itself",
        ),
        "cross_auc": ValueSpec(
            "how well a characteristic's columns tell another label, within its own classes", "", False, (0.0, 1.0),
            CHANCE_NAME, dials=("mix",), reference=f"{ORACLE}; at stratum=none the labels' own correlation",
        ),
        "style_auc": ValueSpec(
            "how well the style columns tell a label", "", False, (0.0, 1.0), CHANCE_NAME, dials=("seep",)
        ),
        "style_knn_kl": ValueSpec(
            "nearest-neighbour divergence of the style columns between the classes of a label", "nats", False,
            (None, None), CHANCE_NAME, dials=("seep",),
        ),
        "beyond": ValueSpec(
            "what the columns tell of the attribute's variety, among images that have it", "R2", True, (None, 1.0),
            "code of another image", dials=("shuffle",),
        ),
        "components": ValueSpec(
            "what one column of a block tells of one variety parameter", "R2", None, (None, 1.0),
            "code of another image",
        ),
        "components_d": ValueSpec(
            "whether each column of a block holds one parameter", "", True, (0.0, 1.0), no_chance=NOTHING_HELD,
            dials=("stir",),
        ),
        "components_c": ValueSpec(
            "whether each parameter is held by one column of a block", "", True, (0.0, 1.0), no_chance=NOTHING_HELD,
            dials=("stir",),
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
    def nearest(self) -> Neighbours:
        """The settings of the nearest-neighbour divergences."""
        return Neighbours(self.neighbours, self.neighbour_scale == "pooled")

    def needs(self, subject: Subject) -> Needs:
        del subject
        if self.code not in ("sample", "mean"):
            raise UsageError(f"code {self.code!r} is unknown", where="density", hint='"sample" or "mean".')
        if self.probe not in ("linear", "quadratic"):
            raise UsageError(f"probe {self.probe!r} is unknown", where="density", hint='"linear" or "quadratic".')
        if self.neighbour_scale not in ("pooled", "raw"):
            raise UsageError(
                f"neighbour_scale {self.neighbour_scale!r} is unknown", where="density", hint='"pooled" or "raw".'
            )
        return Needs(images=False)

    def start(self, subject: Subject) -> DensityAccumulator:
        return DensityAccumulator(self, subject)


STYLE = frozenset({"style_auc", "style_knn_kl"})
OWN = ("auc", "dprime", "overlap", "js", "wasserstein", "knn_kl", "knn_kl_excess")


@dataclass
class DensityAccumulator:
    """The accumulator: everything is known before the pass."""

    metric: Density
    subject: Subject
    pictures: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def update(self, batch: Decoded) -> None:
        """Never called: nothing is decoded for this metric."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject, metric = self.subject, self.metric
        chosen = subject.codes if metric.code == "sample" else subject.posterior.loc
        codes: Floats = chosen.double().numpy()
        folds = folds_of(subject.ids)
        tally = ResultTable(metric, subject, weights, given_counts=False, findings=STYLE)
        labels = [name for name in subject.schema.names if subject.selected is None or name in subject.selected]
        judged = Judged.of(subject, labels, metric.least)
        for name in subject.characteristics:
            self._enter_own(tally, name, codes, folds, judged)
        for name in set(labels) & set(subject.unassigned):
            for value in OWN:
                tally.add(value, name, f"{UNASSIGNED}: no column tells it beyond chance")
        leakage = Leakage(tally, codes, folds, judged, metric.least, metric.strength, metric.nearest, metric.probe)
        leakage.cross()
        leakage.style()
        return tally.measurement(self._notes(), self.pictures)

    def _notes(self) -> list[str]:
        model = self.subject.model
        if isinstance(model, HasConditionalPrior):
            return []
        return [f"prior_gap is not applicable: {type(model).__name__} has no p(z_c|y)"]

    def _enter_own(self, tally: ResultTable, name: str, codes: Floats, folds: Folds, judged: Judged) -> None:
        subject, metric = self.subject, self.metric
        own = codes[:, list(subject.layout[name])]
        tally.evidence[f"code/{name}"] = own
        tally.evidence[f"label/{name}"] = subject.column(name).double().numpy()
        if subject.schema[name].kind == "continuous":
            self._enter_continuous(tally, name, own, folds)
        contrasts = judged.contrasts.get(name)
        if contrasts is None:
            for value in OWN:
                tally.add(value, name, judged.undefined[name])
            return
        scores = [linear_scores(own, target, folds, None, metric.strength) for target in contrasts.targets]
        views = [own[:, 0]] * len(scores) if own.shape[1] == 1 else scores
        note = contrasts.note
        tally.add("auc", name, Areas(scores, contrasts.targets, fitted=True), chance=CHANCE, note=note)
        if own.shape[1] > 1:
            note = sentence(note, f"linear score of {own.shape[1]} columns")
        self._enter_distances(tally, name, views, contrasts, note)
        enter_neighbours(tally, ("knn_kl", "knn_kl_excess"), name, own, scores, contrasts, metric.nearest)
        if isinstance(subject.model, HasConditionalPrior):
            self._enter_prior_gap(tally, name, own)
        shown = shown_variety(subject, name, codes, metric.least)
        if shown is not None:
            enter_beyond(tally, name, shown, folds, metric.least, metric.strength)
        self._keep_curves(name, own, scores[0])
        self._keep_scatter(name, own)

    def _enter_continuous(self, tally: ResultTable, name: str, own: Floats, folds: Folds) -> None:
        target = self.subject.column(name).double().numpy()
        score = cross_fitted_regression(own, target[:, None], folds, strength=self.metric.strength).predicted[:, 0]
        tally.add("rank_correlation", name, spearman_estimate(score, target, tally.weights), chance=0.0)

    def _enter_distances(
        self, tally: ResultTable, name: str, views: list[Floats], contrasts: Contrasts, note: str
    ) -> None:
        weights, metric = tally.weights, self.metric
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
            tally.add(value, name, averaged(parts, weights.level), chance=chance, note=note)
        scaled = [wasserstein_estimate(*pair, weights, scaled=True) for pair in pairs]
        chance = float(np.mean([null.wasserstein_scaled for null in nulls]))
        whole = averaged(scaled, weights.level)
        tally.add("wasserstein", name, whole, POOLED, mean_at=POOLED, chance=chance, note=note)

    def _enter_prior_gap(self, tally: ResultTable, name: str, own: Floats) -> None:
        prior = self.subject.prior_of(name)
        classes = self.subject.classes(name).numpy()
        kept = [k for k in range(len(prior.loc)) if int((classes == k).sum()) >= self.metric.least]
        loc, scale = prior.loc.double().numpy(), prior.scale.double().numpy()
        if not (scale[kept] > 0).all():
            tally.add("prior_gap", name, "p(z_c|y) is a point mass")
            return
        floor = float(np.mean([normal_wasserstein_floor(int((classes == k).sum())) for k in kept]))
        columns, chances, known = [], [], classes >= 0
        for place, column in enumerate(self.subject.layout[name]):
            # codes of every class in the place of each class's own: labels permuted, on average
            blind = [normal_wasserstein((own[known, place] - loc[k, place]) / scale[k, place]) for k in kept]
            chances.append(float(np.mean(blind)))
            parts = [
                normal_wasserstein_estimate(
                    np.where(classes == k, (own[:, place] - loc[k, place]) / scale[k, place], np.nan), tally.weights
                )
                for k in kept
            ]
            columns.append(_of_all(averaged(parts, tally.weights.level), sum(part.estimate.n for part in parts)))
            if own.shape[1] > 1:
                at = {COLUMN: column}
                tally.add("prior_gap", name, columns[-1], at, mean_at=None, chance=chances[-1], reference=floor)
        whole, chance = averaged(columns, tally.weights.level), float(np.mean(chances))
        tally.add("prior_gap", name, whole, chance=chance, reference=floor)

    def _keep_curves(self, name: str, own: Floats, score: Floats) -> None:
        """The class densities for a figure, with the prior where the code is one column."""
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
        if isinstance(self.subject.model, HasConditionalPrior) and view is not score:
            prior = self.subject.prior_of(name)
            for k in drawn:
                if float(prior.scale[k, 0]) > 0:
                    density = norm.pdf(grid, float(prior.loc[k, 0]), float(prior.scale[k, 0]))
                    self.pictures[f"curves/{name}/prior/{label.class_name(k)}"] = density

    def _keep_scatter(self, name: str, own: Floats) -> None:
        """The codes of two columns for a figure, and where p(z_c|y) lies: mean and deviation of each column."""
        label, classes = self.subject.schema[name], self.subject.classes(name).numpy()
        if own.shape[1] != PLANE:
            return
        prior = self.subject.prior_of(name) if isinstance(self.subject.model, HasConditionalPrior) else None
        for k in range(label.cardinality):
            points = own[classes == k][:SCATTERED]
            if not len(points):
                continue
            self.pictures[f"scatter/{name}/{label.class_name(k)}"] = points.astype(np.float32)
            if prior is not None:
                place = np.stack([prior.loc[k].numpy(), prior.scale[k].numpy()]).astype(np.float32)
                self.pictures[f"scatter/{name}/prior/{label.class_name(k)}"] = place


def _of_all(found: Resampled, n: int) -> Resampled:
    """A mean over classes counts the images of all of them."""
    return replace(found, estimate=replace(found.estimate, n=n))
