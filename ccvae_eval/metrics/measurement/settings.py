"""Settings, values and presentation of the metric ``measurement``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ccvae_eval.core.results import COUNT, ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import LAWS, MORE_IMAGES, Accumulator, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

CHANCE_NAME = "labels permuted"


@dataclass(frozen=True, slots=True)
class MeasurementTests:
    r"""Conditional dependence of each characteristic's latent dimensions on its own label, and on no other label.

    The layout of a model states which latent dimensions z_c *measure* which label y_c. That is a testable claim: given
    all other labels, z_c depends on y_c, and on no other label y_j. For each characteristic c and label j, z_c and y_j
    are regressed on all labels but j (z linearly, y by logistic regression, cross-fitted). Their residuals give

        T = sqrt(n) mean(R) / sd(R),   R_i = (z_i - E[z|y_-j]) (y_ij - p(y_j|y_-j)),

    which is standard normal under independence (generalised covariance measure). Several latent dimensions, or the
    K - 1 indicators of a categorical label, are tested by the largest |T|, with the null distribution of the Gaussian
    multiplier bootstrap. All p-values are adjusted together by Holm's method, and a dependence is found at ``alpha``.

    - ``missing``: own labels whose dependence is not found;
    - ``extra``: dependences on foreign labels that are found;
    - ``distance`` = missing + extra: the Hamming distance between the matrix of dependences found and the layout's;
    - ``p_value``: adjusted p-value of each test, at judged=j.

    Range: counts from 0, p-values from 0 to 1. The row without a characteristic is the total, not a mean.
    Direction: lower is better.
    Chance: labels permuted: every own label is missing and no foreign one is found; none for p_value.
    Cost: no image is decoded.
    Confidence intervals contain the expected count on as many other images (docs/metrics/measurement.md).
    Pitfalls: a dependence that is not found may exist: more images find weaker ones, so compare models at the same
    number of images. The residuals are tested for correlation, so a nonlinear dependence with no linear part is missed;
    ``probe="quadratic"`` adds squares of the latent dimensions. Images without one of the labels are left out.
    Reference: docs/metrics.md, section 1b; Yao et al. 2025 (T-MEX), Shah and Peters 2020, Holm 1979.

    Args:
        code: one sample of q(z|x) for each image, or its mean.
        least: images that each class needs.
        alpha: largest probability of any false dependence.
        probe: latent dimensions alone (linear), or also their squares (quadratic).
        strength: penalty of the logistic regressions.
    """

    name: ClassVar[str] = "measurement"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "distance"
    reading: ClassVar[str] = (
        "0 = every label is found in its own latents and in no other label's; the number of\n"
        "labels = chance; higher if labels are found in many foreign latents.\n"
        "Typical of a CCVAE: 3 for nine labels, on 2,000 synthetic faces."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "no label can be tested": f"every label is missing, or rare on one side; {MORE_IMAGES}",
    }  # fmt: skip
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS
    order: ClassVar[int] = 1
    default: ClassVar[bool] = True
    question: ClassVar[str] = "Do each label's latent dimensions measure that label and no other?"
    sentence: ClassVar[str] = (
        "The labels found in the latents differ from the model's layout in {value} places (chance {chance})"
    )
    number_format: ClassVar[str] = ".0f"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "distance": ValueSpec(
            "dependences between latent dimensions and labels that differ from the layout: missing and extra ones",
            COUNT, False, (0.0, None), CHANCE_NAME, dials=("mix",),
        ),
        "missing": ValueSpec(
            "own labels on which a characteristic's latent dimensions do not depend, given all other labels", COUNT,
            False, (0.0, None), CHANCE_NAME, dials=("shuffle",),
        ),
        "extra": ValueSpec(
            "foreign labels on which a characteristic's latent dimensions depend, given all other labels", COUNT,
            False, (0.0, None), CHANCE_NAME, dials=("mix",),
        ),
        "p_value": ValueSpec(
            "adjusted p-value of the dependence on one label, given all other labels", "", None, (0.0, 1.0),
            no_chance="it is a comparison with chance itself",
        ),
    }  # fmt: skip

    code: Literal["sample", "mean"] = "sample"
    least: Annotated[int, Range(least=5)] = 20
    alpha: Annotated[float, Range(above=0, below=1)] = 0.05
    probe: Literal["linear", "quadratic"] = "linear"
    strength: Annotated[float, Range(above=0)] = 1.0

    def __post_init__(self) -> None:
        check(self, self.name)

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.measurement.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.measurement.metric import MeasurementAccumulator

        return MeasurementAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.measurement.figures import figures

        return figures(measurement)
