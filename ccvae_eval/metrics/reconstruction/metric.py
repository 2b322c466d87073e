"""Reconstruction: what is left of an image after its code, and what the code costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Codes, Floats, Gaussian, Images
from ccvae_eval.data.labels.match import label_columns
from ccvae_eval.evaluation.interventions import PosteriorMean, why_not
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import At, ImageStatistic, Mean, ResultTable, mean_of
from ccvae_eval.evaluation.subject import Chunk, Subject, read_images
from ccvae_eval.metrics.shared.likelihood import (
    POINT_MASS,
    Generate,
    Prior,
    gaussian_divergence,
    likelihood_of,
    log_likelihood,
    mixture_divergence,
    own_bound,
    standard_divergence,
)
from ccvae_eval.metrics.shared.ssim import likeness
from ccvae_eval.model.fixed_batches import CHUNK
from ccvae_eval.model.interface import HasBound, StatesLikelihood
from ccvae_eval.statistics.intervals import difference_of_means
from ccvae_eval.statistics.resampling import ResampleWeights

STYLE = {"columns": "style"}
LABELLED, UNLABELLED = {"labels": "given"}, {"labels": "missing"}
MEAN = PosteriorMean()
PRIOR_CODES = "codes drawn from the prior"


@dataclass(frozen=True, slots=True)
class Reconstruction:
    r"""How much of an image its code brings back, and the terms of the bound on its likelihood.

    With r = decode(mean of q(z|x)) (``code="sample"``: of one sample): ``mse`` = mean over pixels and channels of
    (x - r)^2; ``psnr`` = -10 log10 mse in dB, an error below that of rounding to 8 bits counting as that (58.9 dB);
    ``ssim`` = structural similarity, mean over pixels and channels. ``reconstruction`` = -log p(x|z) at that code, in
    nats, summed over pixels and channels.

    The likelihood is the model's own where it states one, constants included, else the Bernoulli cross-entropy of
    pixels in [0, 1]; each row that depends on it says which (``likelihood=``).

    Formula: kl = KL(q(z|x) || p(z)), elbo = log p(x|z) - kl with one sample of q(z|x), and, with K samples z_k,

    .. math:: iwae = \log \frac1K \sum_k \frac{p(x|z_k) p(z_k)}{q(z_k|x)}

    p(z) is N(0, I); the columns of a characteristic c of a model that has p(z_c|y) follow sum_y p(y) p(z_c|y), summed
    exactly, p(y) as trained. Against such a mixture kl is the mean over ``draws`` samples of log q - log p, else it is
    in closed form. ``kl`` has a row for all columns, one for each characteristic, one for the style columns, and at
    ``labels=given`` those of KL(q(z_c|x) || p(z_c|y)) with the image's own label. A model with a bound of its own has
    it as ``bound``, at ``labels=given`` (on log p(x, y), the supervised one) and ``labels=missing`` (on log p(x)).

    ``gap`` = mean of mse (and of reconstruction, at ``of=``) over these images, less that over images that the model
    was trained on, where the checkpoint says that it learnt from the split train of the same data: 0 if it has not
    learnt its images by heart.

    Range: 0 and up for mse, -1 to 1 for ssim; the others have no bounds.
    Direction: lower is better for mse and reconstruction, higher for psnr, ssim, elbo, iwae and bound; kl has none.
    Chance: for mse, psnr and ssim, the mean of these images in place of each; for nats, codes drawn from p(z), which
    say nothing of the image (K of them for iwae, with equal weights; 0 for kl); for gap 0.
    Undefined: psnr and ssim of points; kl, elbo and iwae where an encoder gives point masses (kl: in that part, and in
    all).
    Cost: 2 images decoded for each image (its mean and its sample), ``importance`` more for iwae, and 2 more where the
    model states a likelihood, 2 where it has a bound; on the first ``chance_images``, ``importance`` more for chance.
    Pitfalls: nats compare only within one likelihood, and only where images have the same size; with few samples iwae
    is a loose bound, and it grows with K: compare at the same K. A small error says nothing of the labels.
    Reference: docs/metrics.md, section 7; Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016; Wang, Bovik,
    Sheikh and Simoncelli 2004.

    Args:
        code: the code that is decoded for mse, psnr, ssim and reconstruction: the mean of q(z|x), or one sample.
        likelihood: the model's own p(x|z) where it states one, or always the Bernoulli cross-entropy.
        importance: K, samples of iwae; 0 leaves it out.
        draws: samples behind a kl that has no closed form.
        window: the side of the window of SSIM, in pixels.
        gap_images: training images behind ``gap``, where it is known which those are; 0 leaves it out.
        chance_images: on how many images, from the first, chance levels are measured (but that of mse, which is exact).
    """

    name: ClassVar[str] = "reconstruction"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "mse"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label", "rescaled latent"}
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "mse": ValueSpec(
            "mean squared error of a pixel", "", False, (0.0, None), "the mean image", dials=("fade",)
        ),
        "psnr": ValueSpec(
            "peak signal-to-noise ratio", "dB", True, (None, None), "the mean image", dials=("fade",)
        ),
        "ssim": ValueSpec(
            "structural similarity of image and reconstruction", "", True, (-1.0, 1.0), "the mean image",
            dials=("fade",),
        ),
        "reconstruction": ValueSpec(
            "minus the log-likelihood of the image at its code", "nats", False, (None, None), PRIOR_CODES,
            dials=("fade",),
        ),
        "kl": ValueSpec(
            "divergence of q(z|x) from p(z)", "nats", None, (None, None), "codes that say nothing of the image",
            dials=("shift",),
        ),
        "elbo": ValueSpec(
            "bound on log p(x) from one sample of q(z|x)", "nats", True, (None, None), PRIOR_CODES,
            dials=("fade",),
        ),
        "iwae": ValueSpec(
            "tighter bound on log p(x) from K weighted samples", "nats", True, (None, None), PRIOR_CODES,
            dials=("fade",),
        ),
        "bound": ValueSpec(
            "the model's own bound, with and without labels", "nats", True,
            no_chance="only the model can compute it, and it takes no other code",
        ),
        "gap": ValueSpec(
            "mse or reconstruction of these images, less that of training images", "", None, (None, None),
            "nothing learnt by heart",
        ),
    }  # fmt: skip

    code: Literal["mean", "sample"] = "mean"
    likelihood: Literal["model", "bernoulli"] = "model"
    importance: int = 16
    draws: int = 64
    window: int = 11
    gap_images: int = 256
    chance_images: int = 64

    def __post_init__(self) -> None:
        least_of = {"importance": 0, "draws": 1, "window": 1, "gap_images": 0, "chance_images": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UsageError(f"{getattr(self, name)} is less than {least}", where=f"reconstruction.{name}")
        if self.window % 2 == 0:
            raise UsageError(f"a window of {self.window} pixels has no middle", where="reconstruction.window")
        for name, choices in (("code", ("mean", "sample")), ("likelihood", ("model", "bernoulli"))):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{getattr(self, name)!r} is none of {', '.join(choices)}", where=f"reconstruction.{name}"
                )

    def needs(self, subject: Subject) -> Needs:
        stated = isinstance(subject.model, StatesLikelihood) and self.likelihood == "model"
        samples = self.importance if _without_density(subject, Prior.of(subject)) == "" else 0
        own = samples + (2 if stated else 0) + 2 * isinstance(subject.model, HasBound)
        own += -(-min(self.chance_images, len(subject)) * max(samples, 1) // max(len(subject), 1))
        return Needs((MEAN,), reconstruction=True, images=False, characteristics=False, own=own)

    def start(self, subject: Subject) -> ReconstructionAccumulator:
        return ReconstructionAccumulator(self, subject)


def _without_density(subject: Subject, prior: Prior) -> str:
    """Why q(z|x) or p(z) has no density; "" if both have one."""
    if prior.undefined:
        name, why = next(iter(prior.undefined.items()))
        return f"{name}: {why}"
    return "" if bool((subject.posterior.scale > 0).all()) else "the encoder gives point masses"


def _in_rows(chunk: Chunk) -> Chunk:
    """The chunk with each pixel's channels side by side in memory, as decoders give theirs."""
    if chunk.images.ndim != 4:
        return chunk
    return replace(chunk, images=chunk.images.contiguous(memory_format=torch.channels_last))


@dataclass
class ReconstructionAccumulator:
    """The accumulator: one number of each image for each value, and the sums behind the mean image."""

    metric: Reconstruction
    subject: Subject
    seen: dict[str, Floats] = field(default_factory=dict)
    pictures: MeanPictures = field(default_factory=MeanPictures)

    def __post_init__(self) -> None:
        self.prior = Prior.of(self.subject)
        self.no_density = _without_density(self.subject, self.prior)
        self.likelihood, self.no_likelihood = "", ""
        try:
            self.likelihood = likelihood_of(self.subject, self.metric.likelihood)
        except UndefinedError as error:
            self.no_likelihood = error.what
        self._total: Tensor | float = 0.0
        self._square = 0.0

    def update(self, batch: Decoded) -> None:
        chunk, sampled = _in_rows(batch.chunk), self.metric.code == "sample"
        means, of_sample = batch.images[MEAN], batch.reconstruction
        assert of_sample is not None, "asked for in needs()"
        rebuilt = of_sample if sampled else means
        found = self._errors(chunk.images, rebuilt)
        if not self.no_likelihood:
            at_sample = log_likelihood(self.subject, chunk, chunk.codes, of_sample, self.likelihood)
            at_mean = log_likelihood(self.subject, chunk, chunk.posterior.loc, means, self.likelihood)
            found["reconstruction"] = -(at_sample if sampled else at_mean)
            found["likelihood"] = at_sample
            if self.metric.importance and not self.no_density:
                found["iwae"] = self._importance(chunk)
            found |= self._blind(chunk)
        if isinstance(self.subject.model, HasBound):
            found["bound/given"] = own_bound(self.subject, chunk, labelled=True)
            found["bound/missing"] = own_bound(self.subject, chunk, labelled=False)
        for key, column in found.items():
            self.seen.setdefault(key, np.full(len(self.subject), np.nan))[chunk.rows] = column
        self._keep_pictures(chunk, rebuilt)

    def _errors(self, images: Images, rebuilt: Images) -> dict[str, Floats]:
        x = images.double()
        self._total = self._total + x.sum(0).cpu()
        self._square += float(x.square().flatten(1).mean(1).cpu().sum())
        return likeness(images, rebuilt, self.metric.window)

    def _blind(self, chunk: Chunk) -> dict[str, Floats]:
        """The likelihood of the chunk's images at codes from the prior, one and, for iwae, K; on the first images."""
        if chunk.rows.start >= self.metric.chance_images or why_not(Generate(), self.subject):
            return {}
        told = []
        for draw in range(max(self.metric.importance if not self.no_density else 0, 1)):
            codes = Generate(draw=draw).codes(self.subject, chunk)
            told.append(torch.from_numpy(log_likelihood(self.subject, chunk, codes, None, self.likelihood)))
        mean = torch.logsumexp(torch.stack(told), 0) - np.log(len(told))
        return {"blind": told[0].numpy(), "blind/iwae": mean.numpy()}

    def _importance(self, chunk: Chunk) -> Floats:
        """log of the mean weight of each image, shape (n,)."""
        subject, draws = self.subject, range(self.metric.importance)
        q = Gaussian(chunk.posterior.loc.double(), chunk.posterior.scale.double())
        codes: list[Codes] = [
            chunk.posterior.at(subject.noise(f"iwae/{k}", chunk.ids, subject.layout.dim)) for k in draws
        ]
        told = np.stack([log_likelihood(subject, chunk, z, None, self.likelihood) for z in codes])
        every = torch.stack(codes)
        known = self.prior.log_density(every.flatten(0, 1)).reshape(told.shape) - q.log_prob(every.double()).sum(2)
        found: Floats = (torch.logsumexp(torch.from_numpy(told) + known, 0) - np.log(len(codes))).numpy()
        return found

    def _keep_pictures(self, chunk: Chunk, rebuilt: Images) -> None:
        wanted = PICTURED - chunk.rows.start
        if rebuilt.ndim == 4:
            self.pictures.add("error", (chunk.images - rebuilt).square().mean(1))
            if wanted > 0:
                self.pictures.keep("pairs", torch.stack([as_bytes(x[:wanted]) for x in (chunk.images, rebuilt)]))

    def compute(self, weights: ResampleWeights) -> Measurement:
        tally = ResultTable(self.metric, self.subject, weights)
        tally.add("mse", None, Mean(self.seen["mse"]), chance=self._mean_image())
        points = (
            "points have no pixels"
            if len(self.subject.data.input_shape) == 1
            else "the images are smaller than the window"
        )
        usual = self._likeness_of_the_mean() if "psnr" in self.seen else {}
        for value in ("psnr", "ssim"):
            what = Mean(self.seen[value]) if value in self.seen else points
            tally.add(value, None, what, chance=usual.get(value))
        kl = self._enter_divergences(tally)
        at: At = {"likelihood": self.likelihood} if self.likelihood else {}
        blind = self._usual("blind")
        cost = None if blind is None else -blind
        self._enter(tally, "reconstruction", self.seen.get("reconstruction"), self.no_likelihood, at, cost)
        elbo = None if kl is None or self.no_likelihood else self.seen["likelihood"] - kl
        self._enter(tally, "elbo", elbo, self.no_likelihood or self.no_density, at, blind)
        if self.metric.importance:
            iwae_at: At = {**at, "K": self.metric.importance}
            why, blind = self.no_likelihood or self.no_density, self._usual("blind/iwae")
            self._enter(tally, "iwae", self.seen.get("iwae"), why, iwae_at, blind)
        if isinstance(self.subject.model, HasBound):
            labelled = ~torch.isnan(self.subject.labels).all(1).numpy()
            given = np.where(labelled, self.seen["bound/given"], np.nan)
            self._enter(tally, "bound", given, "no image has a label", {**at, **LABELLED})
            self._enter(tally, "bound", self.seen["bound/missing"], "", {**at, **UNLABELLED})
        self._enter_gap(tally)
        notes = [f"likelihood: {self.likelihood}"] if self.likelihood else []
        return tally.measurement(notes, self.pictures.arrays())

    def _enter(
        self, tally: ResultTable, name: str, column: Floats | None, why: str, at: At, chance: float | None = None
    ) -> None:
        what: ImageStatistic | str = why if column is None else Mean(column)
        tally.add(name, None, what, at, chance=chance, why=why)

    def _usual(self, key: str) -> float | None:
        """The mean of a chance level over the images on which it was measured."""
        column = self.seen.get(key)
        return None if column is None else mean_of(column, ~np.isnan(column))

    def _enter_gap(self, tally: ResultTable) -> None:
        """How much worse these images come back than training images do, from posterior means."""
        subject, metric = self.subject, self.metric
        if subject.trained_on is None or not metric.gap_images or metric.code != "mean":
            return
        count = min(metric.gap_images, len(subject.trained_on))
        stream = numpy_stream(subject.seed, "reconstruction/gap")
        ids = np.sort(stream.choice(subject.trained_on, count, replace=False))
        labels = torch.from_numpy(label_columns(subject.data, subject.schema, ids))
        found: dict[str, list[Floats]] = {"mse": [], "reconstruction": []}
        for first in range(0, count, CHUNK):
            rows = slice(first, first + CHUNK)
            images = read_images(subject.data, ids[rows]).to(subject.device)
            posterior = subject.encode(images, labels[rows])
            seen = Chunk(rows, ids[rows], images, posterior, posterior.loc)
            rebuilt = subject.decode(posterior.loc)
            errors = (images.double() - rebuilt.double()).square().flatten(1).mean(1)
            found["mse"].append(errors.cpu().numpy())
            if self.likelihood:
                nats = log_likelihood(subject, seen, posterior.loc, rebuilt, self.likelihood)
                found["reconstruction"].append(-nats)
        for name, parts in found.items():
            if parts:
                gap = difference_of_means(self.seen[name], np.concatenate(parts), tally.weights)
                tally.add("gap", None, gap, {"of": name}, chance=0.0)

    def _mean_image(self) -> float:
        """The error of giving the mean of these images for each of them."""
        mean = torch.as_tensor(self._total) / len(self.subject)
        return max(self._square / len(self.subject) - float(mean.square().mean()), 0.0)

    def _likeness_of_the_mean(self) -> dict[str, float]:
        """What the mean of these images scores in the place of each of the first ones."""
        mean = (torch.as_tensor(self._total) / len(self.subject)).float().to(self.subject.device)
        parts: list[dict[str, Floats]] = []
        for chunk in self.subject.chunks():
            if chunk.rows.start >= self.metric.chance_images:
                break
            parts.append(likeness(chunk.images, mean.expand_as(chunk.images), self.metric.window))
        return {key: float(np.concatenate([part[key] for part in parts]).mean()) for key in (parts or [{}])[0]}

    def _enter_divergences(self, tally: ResultTable) -> Floats | None:
        """The rows of kl; returns that of all columns, None where it does not exist."""
        subject, posterior = self.subject, self.subject.posterior
        noiseless = (posterior.scale == 0).any(0)
        parts: dict[str, Floats | str] = {}
        for name, mixture in self.prior.mixtures.items():
            still = bool(noiseless[list(mixture.columns)].any())
            parts[name] = POINT_MASS if still else mixture_divergence(subject, name, mixture, self.metric.draws)
        parts |= self.prior.undefined
        columns = self.prior.standard
        if columns:
            still = bool(noiseless[list(columns)].any())
            parts[""] = POINT_MASS if still else standard_divergence(posterior, columns)
        known = [part for part in parts.values() if not isinstance(part, str)]
        total = np.sum(known, axis=0) if len(known) == len(parts) else None
        tally.add("kl", None, Mean(total) if total is not None else self.no_density, chance=0.0)
        for name, part in parts.items():
            what = part if isinstance(part, str) else Mean(part)
            if name:
                tally.add("kl", name, what, mean_at=None, chance=0.0)
                tally.add("kl", name, self._given(name), LABELLED, mean_at=None, chance=0.0)
            elif len(parts) > 1:
                tally.add("kl", None, what, STYLE, chance=0.0)
        return total

    def _given(self, name: str) -> ImageStatistic | str:
        """The divergence of one characteristic's columns from the prior of the image's own label."""
        mixture = self.prior.mixtures.get(name)
        if mixture is None:
            return self.prior.undefined[name]
        q = self.subject.posterior.columns(list(mixture.columns))
        if not bool((q.scale > 0).all()):
            return POINT_MASS
        classes = self.subject.classes(name)
        prior = mixture.given.rows(classes.clamp_min(0))
        known = (classes >= 0).numpy()
        if not known.any():
            return "every label is missing"
        return Mean(np.where(known, gaussian_divergence(q, prior), np.nan))
