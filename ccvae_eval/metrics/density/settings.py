"""Settings, values and presentation of the metric ``density``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ccvae_eval.core.results import ORACLE, ValueSpec
from ccvae_eval.core.typed import check
from ccvae_eval.evaluation.metric import LAWS, MORE_IMAGES, Accumulator, Needs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.metrics.density.leakage import NeighbourSettings
    from ccvae_eval.rendering.figures import Figures

Probe = Literal["linear", "quadratic"]

CHANCE_NAME = "labels permuted"
NO_CHANCE = "permuted codes predict no parameter, so their concentration is undefined"


@dataclass(frozen=True, slots=True)
class Density:
    r"""Separation of a label's classes in its own latent dimensions, and predictability of labels from the others.

    Codes z are one posterior sample per image (``code="mean"``: posterior means; the two differ greatly for wide
    posteriors). A characteristic with one latent dimension is compared directly; one with several by its cross-fitted
    linear score, a logistic regression on standardised codes fitted to the other four fifths of the images. Categorical
    labels are compared one-vs-rest and averaged over the classes, continuous labels on both sides of their median
    and by ``rank_correlation``.

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

    Leakage in one number: ``ois`` = 2/K ||A(z, y) - A(y, y)||_F, with A[i, j] the area of label j over all images from
    the latent dimensions of i, or from label i itself; ``icl`` = mean over i != j of max(0, N(z_i, z_j) - N(y_i, y_j)),
    with N the mutual information over sqrt(H H).

    Data with variety parameters: ``beyond`` = cross-fitted R2 of the parameters (shape, size, colour of the glasses)
    from z_c among the images with the attribute; ``components`` = the same from each latent dimension alone, with D
    (one parameter per dimension) and C (one dimension per parameter) of that matrix.

    Range: 0 to 1 for areas, overlap, js, D and C; 0 and up for dprime, wasserstein and prior_gap; -1 to 1 for
    rank_correlation; at most 1 for beyond and components; nearest-neighbour divergences are unbounded.
    Direction: higher is better for own latent dimensions, nearer 0.5 for leakage. Chance: 0.5 for areas, otherwise
    labels permuted.
    Cost: no image is decoded. Confidence intervals: bootstrap over images, conditional on fits and bandwidths; of many
    areas at once to first order ("projected bootstrap"); of nearest neighbours by subsampling. Areas are those of
    probes fitted to this number of images, slightly below those of the best probe.
    Pitfalls: a code that equals the label (M2) has no density: overlap and js compare point masses, and nearest
    neighbours are undefined. Unconditional leakage confuses label correlation with entanglement. Raw Wasserstein
    distances depend on the scale of the latent space. The linear probe does not detect nonlinear leakage.
    Reference: docs/metrics.md, section 1; k-NN divergence: Wang, Kulkarni and Verdu 2009; D and C: Eastwood and
    Williams 2018; OIS: Espinosa Zarlenga et al. 2023; ICL: Parisini et al. 2025.

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
    reading: ClassVar[str] = (
        "0.5 = the label's own latents say nothing about it, 1 = they always predict it.\n"
        "Typical of a CCVAE: 0.92 on photographs of faces, 1.00 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "a constant parameter": "the variety parameter is the same in every image",
        "one latent dimension": "concentration compares dimensions, and the label has one",
        "one parameter": "concentration compares parameters of the variety, and the label has one",
        "only N images show it, N are needed": f"the label is rare; {MORE_IMAGES}",
        "an area is undefined": f"a label is too rare to be predicted from the dimensions of another; {MORE_IMAGES}",
        "there is no other label to compare": "leakage between labels needs two labels",
        "p(z_c|y) is a point mass": "the label is its latent dimension, which has no density",
    }  # fmt: skip
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS
    order: ClassVar[int] = 1
    default: ClassVar[bool] = True
    question: ClassVar[str] = "Is each label predictable from its own latent dimensions?"
    sentence: ClassVar[str] = "Each label is predicted from its own latents with an AUC of {value} (chance {chance})"
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
        "ois": ValueSpec(
            "distance of the ROC areas of all labels from all codes to those from the labels (oracle impurity)", "",
            False, (0.0, None), CHANCE_NAME, dials=("mix",),
        ),
        "icl": ValueSpec(
            "normalised information of codes about each other beyond that of their labels (inter-concept leakage)", "",
            False, (0.0, None), no_chance="that of unrelated codes is already subtracted", dials=("mix",),
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

    def __post_init__(self) -> None:
        check(self, self.name)

    @property
    def nearest(self) -> NeighbourSettings:
        """The settings of the nearest-neighbour divergences."""
        from ccvae_eval.metrics.density.leakage import NeighbourSettings

        return NeighbourSettings(self.neighbours, self.neighbour_scale == "pooled")

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.density.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.density.metric import DensityAccumulator

        return DensityAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.density.figures import figures

        return figures(measurement)

    @staticmethod
    def tables(
        measurement: Measurement, specs: Mapping[str, ValueSpec], *, verbose: bool, ascii_only: bool
    ) -> RenderableType:
        from ccvae_eval.metrics.density.tables import tables

        return tables(measurement, specs, verbose=verbose, ascii_only=ascii_only)
