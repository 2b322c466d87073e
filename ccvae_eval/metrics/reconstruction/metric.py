"""Reconstruction: errors of decoded images, and the terms of the bounds on their likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UsageError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Codes, Floats, Gaussian, Images
from ccvae_eval.data.labels.relabel import label_columns
from ccvae_eval.evaluation.interventions import PosteriorMean, why_not
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs, require_at_least
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import At, ImageStatistic, Mean, ResultTable, mean_of
from ccvae_eval.evaluation.subject import Chunk, Subject, read_images
from ccvae_eval.metrics.shared.image_change import similarity_scores
from ccvae_eval.metrics.shared.likelihood import (
    POINT_MASS,
    Generate,
    Prior,
    gaussian_divergence,
    likelihood_of,
    log_likelihood,
    mixture_divergence,
    model_bound,
    standard_divergence,
)
from ccvae_eval.model.fixed_batches import FIXED_BATCH
from ccvae_eval.model.interface import HasBound, StatesLikelihood, supports
from ccvae_eval.statistics.intervals import difference_of_means
from ccvae_eval.statistics.resampling import ResampleWeights

STYLE = {"columns": "style"}
LABELLED, UNLABELLED = {"labels": "given"}, {"labels": "missing"}
MEAN = PosteriorMean()
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

    p(z) is N(0, I), except that the latent dimensions of a characteristic c of a model with p(z_c|y) follow
    sum_y p(y) p(z_c|y), summed exactly, with the label frequencies p(y) of the training. For such a mixture kl is the
    mean over ``draws`` samples of log q - log p, else it has a closed form. ``kl`` has a row for all latent dimensions,
    one for each characteristic, one for style, and at ``labels=given`` those of KL(q(z_c|x) || p(z_c|y)) with the
    image's own label. The bound that a model defines is ``bound``, at ``labels=given`` (on log p(x, y), supervised)
    and ``labels=missing`` (on log p(x)).

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
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS - {"permuted label", "rescaled latent"}
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
    importance: int = 16
    draws: int = 64
    window: int = 11
    gap_images: int = 256
    chance_images: int = 64

    def __post_init__(self) -> None:
        require_at_least(self, importance=0, draws=1, window=1, gap_images=0, chance_images=0)
        if self.window % 2 == 0:
            raise UsageError(f"window must be odd, got {self.window}", where="reconstruction.window")
        for name, choices in (("code", ("mean", "sample")), ("likelihood", ("model", "bernoulli"))):
            if (choice := getattr(self, name)) not in choices:
                message = f"{name} must be {' or '.join(choices)}, got {choice!r}"
                raise UsageError(message, where=f"reconstruction.{name}")

    def needs(self, subject: Subject) -> Needs:
        stated = supports(subject.model, StatesLikelihood) and self.likelihood == "model"
        samples = self.importance if _without_density(subject, Prior.of(subject)) == "" else 0
        own = samples + (2 if stated else 0) + 2 * supports(subject.model, HasBound)
        own += -(-min(self.chance_images, len(subject)) * max(samples, 1) // max(len(subject), 1))
        return Needs((MEAN,), reconstruction=True, images=False, characteristics=False, own=own)

    def start(self, subject: Subject) -> ReconstructionAccumulator:
        return ReconstructionAccumulator(self, subject)


def _without_density(subject: Subject, prior: Prior) -> str:
    """Reason why q(z|x) or p(z) has no density; "" if both have one."""
    if prior.undefined:
        name, why = next(iter(prior.undefined.items()))
        return f"{name}: {why}"
    return "" if bool((subject.posterior.scale > 0).all()) else "q(z|x) is a point mass"


def _channels_last(chunk: Chunk) -> Chunk:
    """The chunk with its images in channels-last layout, as decoders return theirs."""
    if chunk.images.ndim != 4:
        return chunk
    return replace(chunk, images=chunk.images.contiguous(memory_format=torch.channels_last))


@dataclass
class ReconstructionAccumulator:
    """One score per image and value, and the sums behind the mean image."""

    metric: Reconstruction
    subject: Subject
    columns: dict[str, Floats] = field(default_factory=dict)
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
        chunk, sampled = _channels_last(batch.chunk), self.metric.code == "sample"
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
            found |= self._prior_likelihood(chunk)
        if supports(self.subject.model, HasBound):
            found["bound/given"] = model_bound(self.subject, chunk, labelled=True)
            found["bound/missing"] = model_bound(self.subject, chunk, labelled=False)
        for key, column in found.items():
            self.columns.setdefault(key, np.full(len(self.subject), np.nan))[chunk.rows] = column
        self._keep_pictures(chunk, rebuilt)

    def _errors(self, images: Images, rebuilt: Images) -> dict[str, Floats]:
        x = images.double()
        self._total = self._total + x.sum(0).cpu()
        self._square += float(x.square().flatten(1).mean(1).cpu().sum())
        return similarity_scores(images, rebuilt, self.metric.window)

    def _prior_likelihood(self, chunk: Chunk) -> dict[str, Floats]:
        """Log-likelihoods of the first images given codes sampled from the prior: one, and for iwae K."""
        if chunk.rows.start >= self.metric.chance_images or why_not(Generate(), self.subject):
            return {}
        log_p = []
        for draw in range(max(self.metric.importance if not self.no_density else 0, 1)):
            codes = Generate(draw=draw).codes(self.subject, chunk)
            log_p.append(torch.from_numpy(log_likelihood(self.subject, chunk, codes, None, self.likelihood)))
        mean = torch.logsumexp(torch.stack(log_p), 0) - np.log(len(log_p))
        return {"chance": log_p[0].numpy(), "chance/iwae": mean.numpy()}

    def _importance(self, chunk: Chunk) -> Floats:
        """Log of the mean importance weight of each image, shape (n,)."""
        subject, draws = self.subject, range(self.metric.importance)
        q = Gaussian(chunk.posterior.loc.double(), chunk.posterior.scale.double())
        noise = (subject.noise(f"iwae/{k}", chunk.ids, subject.layout.dim) for k in draws)
        codes: list[Codes] = [chunk.posterior.at(each) for each in noise]
        log_p = np.stack([log_likelihood(subject, chunk, z, None, self.likelihood) for z in codes])
        z = torch.stack(codes)
        log_ratio = self.prior.log_density(z.flatten(0, 1)).reshape(log_p.shape) - q.log_prob(z.double()).sum(2)
        found: Floats = (torch.logsumexp(torch.from_numpy(log_p) + log_ratio, 0) - np.log(len(codes))).numpy()
        return found

    def _keep_pictures(self, chunk: Chunk, rebuilt: Images) -> None:
        wanted = PICTURED - chunk.rows.start
        if rebuilt.ndim == 4:
            self.pictures.add("error", (chunk.images - rebuilt).square().mean(1))
            if wanted > 0:
                self.pictures.keep("pairs", torch.stack([as_bytes(x[:wanted]) for x in (chunk.images, rebuilt)]))

    def compute(self, weights: ResampleWeights) -> Measurement:
        table = ResultTable(self.metric, self.subject, weights)
        table.add("mse", None, Mean(self.columns["mse"]), chance=self._mean_image_error())
        is_image = len(self.subject.data.input_shape) > 1
        points = "the images are smaller than the window" if is_image else "undefined for points"
        chance = self._mean_image_similarity() if "psnr" in self.columns else {}
        for value in ("psnr", "ssim"):
            what = Mean(self.columns[value]) if value in self.columns else points
            table.add(value, None, what, chance=chance.get(value))
        kl = self._add_divergences(table)
        at: At = {"likelihood": self.likelihood} if self.likelihood else {}
        log_p = self._mean_of("chance")
        negative = None if log_p is None else -log_p
        self._add(table, "reconstruction", self.columns.get("reconstruction"), self.no_likelihood, at, negative)
        elbo = None if kl is None or self.no_likelihood else self.columns["likelihood"] - kl
        self._add(table, "elbo", elbo, self.no_likelihood or self.no_density, at, log_p)
        if self.metric.importance:
            iwae_at: At = {**at, "K": self.metric.importance}
            why, log_p = self.no_likelihood or self.no_density, self._mean_of("chance/iwae")
            self._add(table, "iwae", self.columns.get("iwae"), why, iwae_at, log_p)
        if supports(self.subject.model, HasBound):
            labelled = ~torch.isnan(self.subject.labels).all(1).numpy()
            given = np.where(labelled, self.columns["bound/given"], np.nan)
            self._add(table, "bound", given, "no image has a label", {**at, **LABELLED})
            self._add(table, "bound", self.columns["bound/missing"], "", {**at, **UNLABELLED})
        self._add_gap(table)
        notes = [f"likelihood: {self.likelihood}"] if self.likelihood else []
        return table.measurement(notes, self.pictures.arrays())

    def _add(
        self, table: ResultTable, name: str, column: Floats | None, why: str, at: At, chance: float | None = None
    ) -> None:
        what: ImageStatistic | str = why if column is None else Mean(column)
        table.add(name, None, what, at, chance=chance, why=why)

    def _mean_of(self, key: str) -> float | None:
        return mean_of(self.columns[key]) if key in self.columns else None

    def _add_gap(self, table: ResultTable) -> None:
        """Add the errors of these images minus those of training images, from posterior means."""
        subject, metric = self.subject, self.metric
        if subject.trained_on is None or not metric.gap_images or metric.code != "mean":
            return
        count = min(metric.gap_images, len(subject.trained_on))
        stream = numpy_stream(subject.seed, "reconstruction/gap")
        ids = np.sort(stream.choice(subject.trained_on, count, replace=False))
        labels = torch.from_numpy(label_columns(subject.data, subject.schema, ids))
        found: dict[str, list[Floats]] = {"mse": [], "reconstruction": []}
        for first in range(0, count, FIXED_BATCH):
            rows = slice(first, first + FIXED_BATCH)
            images = read_images(subject.data, ids[rows]).to(subject.device)
            posterior = subject.encode(images, labels[rows])
            training = Chunk(rows, ids[rows], images, posterior, posterior.loc)
            rebuilt = subject.decode(posterior.loc)
            errors = (images.double() - rebuilt.double()).square().flatten(1).mean(1)
            found["mse"].append(errors.cpu().numpy())
            if self.likelihood:
                log_p = log_likelihood(subject, training, posterior.loc, rebuilt, self.likelihood)
                found["reconstruction"].append(-log_p)
        for name, parts in found.items():
            if parts:
                gap = difference_of_means(self.columns[name], np.concatenate(parts), table.weights)
                table.add("gap", None, gap, {"of": name}, chance=0.0)

    def _mean_image_error(self) -> float:
        """Error of the mean image in place of each reconstruction."""
        mean = torch.as_tensor(self._total) / len(self.subject)
        return max(self._square / len(self.subject) - float(mean.square().mean()), 0.0)

    def _mean_image_similarity(self) -> dict[str, float]:
        """Mean psnr and ssim of the mean image in place of the reconstructions of the first images."""
        mean = (torch.as_tensor(self._total) / len(self.subject)).float().to(self.subject.device)
        first = takewhile(lambda chunk: chunk.rows.start < self.metric.chance_images, self.subject.chunks())
        window = self.metric.window
        parts = [similarity_scores(chunk.images, mean.expand_as(chunk.images), window) for chunk in first]
        return {key: float(np.concatenate([part[key] for part in parts]).mean()) for key in parts[0]} if parts else {}

    def _add_divergences(self, table: ResultTable) -> Floats | None:
        """Add the rows of kl; returns the total of each image, None where it is undefined."""
        subject, posterior = self.subject, self.subject.posterior
        point_mass = (posterior.scale == 0).any(0)
        parts: dict[str, Floats | str] = {}
        for name, mixture in self.prior.mixtures.items():
            degenerate = bool(point_mass[list(mixture.columns)].any())
            parts[name] = POINT_MASS if degenerate else mixture_divergence(subject, name, mixture, self.metric.draws)
        parts |= self.prior.undefined
        columns = self.prior.standard
        if columns:
            degenerate = bool(point_mass[list(columns)].any())
            parts[""] = POINT_MASS if degenerate else standard_divergence(posterior, columns)
        defined = [part for part in parts.values() if not isinstance(part, str)]
        total = np.sum(defined, axis=0) if len(defined) == len(parts) else None
        table.add("kl", None, Mean(total) if total is not None else self.no_density, chance=0.0)
        for name, part in parts.items():
            what = part if isinstance(part, str) else Mean(part)
            if name:
                table.add("kl", name, what, mean_at=None, chance=0.0)
                table.add("kl", name, self._label_divergence(name), LABELLED, mean_at=None, chance=0.0)
            elif len(parts) > 1:
                table.add("kl", None, what, STYLE, chance=0.0)
        return total

    def _label_divergence(self, name: str) -> ImageStatistic | str:
        """Divergence of q(z_c|x) from p(z_c|y) with the image's own label; a text where it is undefined."""
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
