"""Settings, values and presentation of the metric ``diversity``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ANOTHER_IMAGE, ValueSpec
from ccvae_eval.core.typed import check
from ccvae_eval.evaluation.metric import INTERVENED, LAWS, Accumulator, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.interventions import PriorDraw
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

REDRAWN = "as many redraws of the data"
NO_VARIATION = "no variation"


@dataclass(frozen=True, slots=True)
class Diversity:
    r"""Variation of a characteristic's appearance within one class.

    S codes z_c are sampled from p(z_c|y_c=v), with all other latent dimensions fixed, and decoded. With the unbiased
    variance of each pixel over the S images, ``spread`` is the root mean squared difference of two of them, per pixel,
    inside the region A of the characteristic:

    .. math:: spread = \sqrt{\frac{2}{|A|} \sum_{p \in A} \operatorname{var}_s x_{s,p}}

    which equals the root mean square over all pairs s != s'. ``spread_outside`` is the same outside A. Rows at
    ``where=image`` cover the whole image and need no region.

    With the judge: ``obeyed`` = share of samples classified as v; ``kept`` = share of (sample, other label) classified
    as in the reconstruction, without labels that also change in the data's own redraws; ``spread_valid`` = (spread over
    the obeyed samples) x (share obeyed), image by image, so that noise that destroys the characteristic does not count
    as variation. With fewer than two obeyed samples it is 0.

    If the data set can redraw a characteristic's variety (faces), on the first ``redrawn`` images: ``spread_ratio`` =
    sum of the spreads / sum of the spreads of as many true redraws; ``spread_score`` = min(r, 1/r) of it; ``recall`` =
    share of true redraws that lie closer, inside A, to some sample than to their third nearest true redraw.

    ``features="edges"``, ``"variety"`` or an extractor of a plugin (``--plugin FILE``): ``feature_spread``, the same in
    features, each divided by its standard deviation over 256 real images; pixels outside the region are the
    reconstruction's. "edges" are colours and oriented gradients of 8 x 8 cells, for any images; "variety" are the
    variety parameters of drawn images as predicted by a regression. The judge's features are not offered, because a
    classifier discards variation within classes.

    A point mass p(z_c|y), as in a latent dimension that equals the label, scores 0.
    Range: 0 to 1; spread_ratio and feature_spread 0 and up. Direction: higher is better for spread_valid, obeyed, kept,
    spread_score and recall. Chance: 0, no variation; for obeyed, the share of reconstructions classified as v; for
    kept, how often two reconstructions are classified alike; none for recall (a single good sample may lie near many
    redraws).
    Cost: ``draws`` images decoded for each image and characteristic.
    Pitfalls: a shift changes pixels more than a new colour does; without a region, the spread may lie anywhere. A
    spread above that of the data is not better: compare spread_score, whose expectation is slightly below 1 (by 0.8
    standard errors of the ratio) if the true ratio is 1.
    Reference: docs/metrics.md, section 4; Joy et al. (ICLR 2021), figure of per-pixel variance.

    Args:
        draws: number S of samples, at least 2 and more than ``neighbour``.
        value: class to sample: present (categorical labels: another class than the image's) or now (the image's own).
        redrawn: number of images for which the data set redraws the variety.
        neighbour: index k of the nearest true redraw that recall compares with.
        largest_region: largest share of an image that a region may cover; larger regions are ignored.
        allowed_change: share of the data's redraws above which a label that the judge sees change is left out of kept.
        features: "edges", "variety" or a registered extractor; "" for pixels only.
    """

    name: ClassVar[str] = "diversity"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "spread_valid"
    reading: ClassVar[str] = (
        "0 = all samples of a label look alike; there is no upper limit but the variety of the data.\n"
        "Typical of a CCVAE: 0.02 on photographs of faces, 0.09 on synthetic faces, whose own variety is 0.17."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        **INTERVENED,
        "the data set cannot redraw a variety": "only the data set faces draws other images of the same content",
        "the data's redraws do not differ": "the data have no variety within this class",
        "by construction: p(z_c|y) is a point mass": "the label is its latent dimension, so all samples are alike",
    }  # fmt: skip
    default_sample: ClassVar[int] = 500
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label"}
    order: ClassVar[int] = 4
    default: ClassVar[bool] = True
    question: ClassVar[str] = "Does the model capture variation within one characteristic?"
    sentence: ClassVar[str] = (
        "Resampling a characteristic's latents changes its region by {value} RMS pixel intensity (valid samples only)"
    )
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "spread_valid": ValueSpec(
            "spread of the samples that the judge assigns to the sampled class, times their share", "intensity", True,
            (0.0, 1.0), NO_VARIATION, True, ("collapse",),
        ),
        "spread": ValueSpec(
            "root mean squared difference of two samples inside the region", "intensity", None, (0.0, 1.0),
            NO_VARIATION, dials=("collapse",), reference=REDRAWN,
        ),
        "spread_outside": ValueSpec(
            "root mean squared difference of two samples outside the region", "intensity", None, (0.0, 1.0),
            NO_VARIATION,
        ),
        "obeyed": ValueSpec(
            "share of samples that the judge assigns to the sampled class", "share", True, (0.0, 1.0),
            "the reconstruction", True, ("idle",),
        ),
        "kept": ValueSpec(
            "share of samples in which the judge sees another label unchanged", "share", True, (0.0, 1.0),
            ANOTHER_IMAGE, True, ("leak",), reference=REDRAWN,
        ),
        "spread_ratio": ValueSpec(
            "spread divided by that of the data's redraws", "", None, (0.0, None), NO_VARIATION, dials=("collapse",),
        ),
        "spread_score": ValueSpec(
            "spread_ratio or its inverse, whichever is below 1", "", True, (0.0, 1.0), NO_VARIATION,
            dials=("collapse",),
        ),
        "recall": ValueSpec(
            "share of the data's redraws that lie near a sample", "share", True, (0.0, 1.0), dials=("collapse",),
            no_chance="a single good sample may lie near many redraws",
        ),
        "feature_spread": ValueSpec(
            "root mean squared difference of two samples in features; only with features=", "standard deviations", None,
            (0.0, None), NO_VARIATION, dials=("collapse",), reference=REDRAWN,
        ),
    }  # fmt: skip

    draws: int = 8
    value: Literal["present", "now"] = "present"
    redrawn: int = 64
    neighbour: int = 3
    largest_region: float = 0.6
    allowed_change: float = 0.05
    features: str = ""

    def __post_init__(self) -> None:
        check(self, self.name)
        if self.features:
            from ccvae_eval.metrics.shared.features import require_features

            require_features(self.features, (), "diversity.features")
        if self.draws <= max(self.neighbour, 1):
            least = max(self.neighbour, 1) + 1
            hint = f"recall with neighbour={self.neighbour} needs more draws than that."
            raise UsageError(f"draws must be at least {least}, got {self.draws}", where="diversity.draws", hint=hint)

    def draws_of(self, characteristic: str) -> tuple[PriorDraw, ...]:
        """Return the interventions on one characteristic."""
        from ccvae_eval.evaluation.interventions import PriorDraw

        return tuple(PriorDraw(characteristic, draw, self.value) for draw in range(self.draws))

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.diversity.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.diversity.metric import DiversityAccumulator

        return DiversityAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.diversity.figures import figures

        return figures(measurement)
