"""Settings, values and presentation of the metric ``generation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ccvae_eval.core.results import ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import INTERVENED, LAWS, MORE_IMAGES, Accumulator, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures


def _feature_spec(
    summary: str, unit: str, better: bool, ends: tuple[float | None, float | None], dials: tuple[str, ...]
) -> ValueSpec:
    """The spec of a value that compares features."""
    chance, reference = "pixels permuted among the images", "as many other real images"
    return ValueSpec(summary, unit, better, ends, chance, dials=dials, reference=reference)


@dataclass(frozen=True, slots=True)
class Generation:
    r"""Distance between images sampled from the model's prior and real images, and agreement with requested labels.

    One image is sampled for each real one: z_s from N(0, I), y from p(y) and z_c from p(z_c|y); a model without
    p(z_c|y) samples all of z from N(0, I). ``obeyed`` = share of images that the judge classifies as the requested
    class, for each class (at ``class=``) with all other labels sampled; with ``assign="Male=1,Heavy_Makeup=0"`` for
    each assigned label and for all together (at ``do=``). Its reference is the judged share in real images of the
    class.

    Formula: on features f of N real and N sampled images, ``frechet`` = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of
    their means and covariances; ``kernel`` = unbiased squared MMD with the kernel (f.f'/F + 1)^3. With a ball around
    each image that reaches to its k-th nearest neighbour of the same set, ``prdc_precision`` = share of sampled images
    inside a real image's ball, ``prdc_recall`` = share of real images inside a sampled image's ball, ``prdc_density`` =
    mean number of real images' balls around a sampled image, over k, ``prdc_coverage`` = share of real images whose
    ball contains a sampled image. Features are the judge's last layer, averaged over positions, or pixels pooled to
    8 x 8; ``features=`` and ``N=`` name them. They are not Inception features: the values are not FID and are not
    comparable between judges.

    Range: 0 to 1; frechet and prdc_density 0 and up; kernel has no bounds.
    Direction: higher is better for obeyed and prdc, lower for frechet and kernel.
    Chance: for obeyed, images sampled without the request; for distances and prdc, the first ``chance_images`` real
    images with each pixel permuted among 32 of them.
    References: for distances and prdc, as many other real images in place of the sampled ones.
    Cost: 1 image decoded for each image, and on the first ``asked_images`` one for each class of each label.
    Pitfalls: the judge was trained on these labels and is insensitive to much else. frechet is biased upwards for
    small N. Confidence intervals of prdc are conditional on the balls.
    Reference: docs/metrics.md, section 7; Heusel et al. 2017; Binkowski et al. 2018; Kynkaanniemi et al. 2019; Naeem
    et al. 2020.

    Args:
        assign: labels to set together, as LABEL=CLASS,LABEL=VALUE.
        features: judge, pixels, edges, a registered extractor, or auto: the judge's if there is a judge, else pixels.
        neighbour: k, the neighbour that sets the radius of a ball.
        asked_images: images for each requested class.
        neighbour_images: real and sampled images for prdc and the kernel distance.
        chance_images: images for the chance levels of distances and prdc, from the first.
    """

    name: ClassVar[str] = "generation"
    version: ClassVar[int] = 3
    headline: ClassVar[str] = "obeyed"
    reading: ClassVar[str] = (
        "chance = samples that ignore the request, 1 = every sample shows the requested label.\n"
        "Typical of a CCVAE: 0.73 on photographs of faces (chance 0.50), 0.96 on synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "N has no p(z_c|y)": INTERVENED["N has no p(z_c|y)"],
        "needs a judge": INTERVENED["needs a judge"],
        "the model cannot generate it on request": "the label has no p(z_c|y) of its own",
        "needs more than N images, got N": f"{MORE_IMAGES}, or lower neighbour",
    }  # fmt: skip
    default_sample: ClassVar[int] = 10_000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label", "rescaled latent"}
    order: ClassVar[int] = 7
    question: ClassVar[str] = "Do samples from the prior look real, and show the requested class?"
    sentence: ClassVar[str] = (
        "The judge recognises the requested class in {value} of the generated images "
        "(generated without a request: {chance})"
    )
    number_format: ClassVar[str] = ".0%"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "obeyed": ValueSpec(
            "share of sampled images that the judge classifies as requested", "share", True, (0.0, 1.0),
            "sampled without the request", True, ("idle",), reference="real images of the class",
        ),
        "frechet": _feature_spec(
            "Fréchet distance between the features of sampled and real images", "", False, (0.0, None), dials=("fade",),
        ),
        "kernel": _feature_spec(
            "unbiased kernel distance (MMD^2) between the features of sampled and real images", "", False, (None, None),
            dials=("fade",),
        ),
        "prdc_precision": _feature_spec(
            "share of sampled images inside the neighbourhood of a real one", "share", True, (0.0, 1.0), dials=("dim",),
        ),
        "prdc_recall": _feature_spec(
            "share of real images inside the neighbourhood of a sampled one", "share", True, (0.0, 1.0),
            dials=("fade",),
        ),
        "prdc_density": _feature_spec(
            "mean number of real neighbourhoods around a sampled image, over k", "", True, (0.0, None), dials=("dim",),
        ),
        "prdc_coverage": _feature_spec(
            "share of real images with a sampled one inside their neighbourhood", "share", True, (0.0, 1.0),
            dials=("fade",),
        ),
    }  # fmt: skip

    assign: str = ""
    features: str = "auto"
    neighbour: Annotated[int, Range(least=1)] = 5
    asked_images: Annotated[int, Range(least=0)] = 512
    neighbour_images: Annotated[int, Range(least=2)] = 2000
    chance_images: Annotated[int, Range(least=0)] = 256

    def __post_init__(self) -> None:
        check(self, self.name)
        if self.features not in (own := ("auto", "judge", "pixels")):
            from ccvae_eval.metrics.shared.features import require_features

            require_features(self.features, own, "generation.features")

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.generation.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.generation.metric import GenerationAccumulator

        return GenerationAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.generation.figures import figures

        return figures(measurement)
