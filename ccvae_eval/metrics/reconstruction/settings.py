"""Settings, values and presentation of the metric ``reconstruction``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ValueSpec
from ccvae_eval.core.typed import Range, check
from ccvae_eval.evaluation.metric import LAWS, Accumulator, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures

PRIOR_CODES = "codes sampled from the prior"


@dataclass(frozen=True, slots=True)
class Reconstruction:
    r"""Errors of images decoded from their codes, and the terms of the bounds on their likelihood.

    With r = decode(mean of q(z|x)) (``code="sample"``: of one sample): ``mse`` = mean over pixels and channels of
    (x - r)^2; ``psnr`` = -10 log10 mse in dB, with an error of at least that of rounding to 8 bits (58.9 dB); ``ssim``
    = structural similarity, mean over pixels and channels. ``reconstruction`` = -log p(x|z) at that code, in nats,
    summed over pixels and channels.

    The likelihood is the model's own where it defines one, constants included, else the Bernoulli cross-entropy of
    pixels in [0, 1]; each row that depends on it names it (``likelihood=``).

    Formula: kl = KL(q(z|x) || p(z)), elbo = log p(x|z) - kl with one sample of q(z|x), and, with K samples z_k,

    .. math:: iwae = \log \frac1K \sum_k \frac{p(x|z_k) p(z_k)}{q(z_k|x)}

    p(z) is N(0, I), except that the latent dimensions of a characteristic c of a model with p(z_c|y) follow sum_y p(y)
    p(z_c|y), summed exactly, with the label frequencies p(y) of the training (of a continuous label, 64 equally likely
    values of the images). For such a mixture kl is the mean over ``draws`` samples of log q - log p, else it has a
    closed form. ``kl`` has a row for all latent dimensions, one for each characteristic, one for style, and at
    ``labels=given`` those of KL(q(z_c|x) || p(z_c|y)) with the image's own label. The bound that a model defines is
    ``bound``, at ``labels=given`` (on log p(x, y), supervised) and ``labels=missing`` (on log p(x)).

    ``gap`` = mean of mse (and of reconstruction, at ``of=``) over these images, minus that over training images, where
    the checkpoint states that the model was trained on the train split of the same data; 0 without overfitting.

    Range: 0 and up for mse, -1 to 1 for ssim; the others have no bounds.
    Direction: lower is better for mse and reconstruction, higher for psnr, ssim, elbo, iwae and bound; none for kl.
    Chance: for mse, psnr and ssim, the mean of these images in place of each reconstruction; for likelihoods and
    bounds, codes sampled from p(z), which are independent of the image (K of them for iwae, with equal weights); 0 for
    kl and gap.
    Undefined: psnr and ssim for points; kl, elbo and iwae for point-mass posteriors (kl: of those dimensions, and the
    total).
    Cost: 2 images decoded for each image (posterior mean and sample), ``importance`` more for iwae, 2 more where the
    model defines a likelihood, 2 where it defines a bound; on the first ``chance_images``, ``importance`` more for
    chance levels.
    Pitfalls: nats are comparable only for the same likelihood and image size; iwae grows with K, so compare it at the
    same K, and with few samples it is loose. A small error does not imply that labels are encoded.
    Reference: docs/metrics.md, section 7; Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016; Wang, Bovik,
    Sheikh and Simoncelli 2004.

    Args:
        code: code behind mse, psnr, ssim and reconstruction: the mean of q(z|x), or one sample.
        likelihood: the model's own p(x|z) where it defines one, or always the Bernoulli cross-entropy.
        importance: K, importance samples of iwae; 0 omits it.
        draws: samples of a kl without closed form.
        window: side of the SSIM window in pixels, odd.
        gap_images: training images behind ``gap``; 0 omits it.
        chance_images: images for the chance levels, from the first (that of mse is exact).
    """

    name: ClassVar[str] = "reconstruction"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "mse"
    reading: ClassVar[str] = (
        "0 = perfect; the error of the mean image of the data is that of no model at all.\n"
        "Typical of a CCVAE: 0.013 on photographs of faces (mean image 0.064), 0.006 on synthetic faces (0.037)."
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "p(z_c|y) is a point mass and has no density": "the rate of a label that is its latent dimension is infinite",
        "the model states no p(x|z), and points have no Bernoulli likelihood": "give the class a method log_likelihood",
    }  # fmt: skip
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label", "rescaled latent"}
    order: ClassVar[int] = 8
    default: ClassVar[bool] = True
    question: ClassVar[str] = (
        "How close are reconstructions to the images, and how much information do the codes carry?"
    )
    sentence: ClassVar[str] = "The reconstruction MSE is {value} (of the mean image: {chance})"
    number_format: ClassVar[str] = ".3f"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "mse": ValueSpec("mean squared error per pixel", "", False, (0.0, None), "the mean image", dials=("fade",)),
        "psnr": ValueSpec("peak signal-to-noise ratio", "dB", True, (None, None), "the mean image", dials=("fade",)),
        "ssim": ValueSpec(
            "structural similarity of image and reconstruction", "", True, (-1.0, 1.0), "the mean image",
            dials=("fade",),
        ),
        "reconstruction": ValueSpec(
            "negative log-likelihood of the image given its code", "nats", False, (None, None), PRIOR_CODES,
            dials=("fade",),
        ),
        "kl": ValueSpec(
            "KL divergence of q(z|x) from p(z)", "nats", None, (None, None), "codes independent of the image",
            dials=("shift",),
        ),
        "elbo": ValueSpec(
            "evidence lower bound on log p(x), one sample of q(z|x)", "nats", True, (None, None), PRIOR_CODES,
            dials=("fade",),
        ),
        "iwae": ValueSpec(
            "importance-weighted bound on log p(x), K samples of q(z|x)", "nats", True, (None, None), PRIOR_CODES,
            dials=("fade",),
        ),
        "bound": ValueSpec(
            "bound defined by the model, with and without labels", "nats", True,
            no_chance="the model computes it from its own codes only",
        ),
        "gap": ValueSpec(
            "mse or reconstruction of these images minus that of training images", "", None, (None, None),
            "no overfitting",
        ),
    }  # fmt: skip

    code: Literal["mean", "sample"] = "mean"
    likelihood: Literal["model", "bernoulli"] = "model"
    importance: Annotated[int, Range(least=0)] = 16
    draws: Annotated[int, Range(least=1)] = 64
    window: Annotated[int, Range(least=1)] = 11
    gap_images: Annotated[int, Range(least=0)] = 256
    chance_images: Annotated[int, Range(least=0)] = 64

    def __post_init__(self) -> None:
        check(self, self.name)
        if self.window % 2 == 0:
            raise UsageError(f"window must be odd, got {self.window}", where="reconstruction.window")

    def needs(self, subject: Subject) -> Needs:
        from ccvae_eval.metrics.reconstruction.metric import needs

        return needs(self, subject)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.reconstruction.metric import ReconstructionAccumulator

        return ReconstructionAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.reconstruction.figures import figures

        return figures(measurement)
