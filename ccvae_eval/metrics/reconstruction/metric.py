"""Reconstruction: errors of decoded images, and the terms of the bounds on their likelihood."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Codes, Floats, Gaussian
from ccvae_eval.data.labels.relabel import label_columns
from ccvae_eval.evaluation.accumulator import ImageAccumulator, first_chunks
from ccvae_eval.evaluation.interventions import PosteriorMean, why_not
from ccvae_eval.evaluation.metric import Decoded, Needs
from ccvae_eval.evaluation.result_table import (
    NO_CHARACTERISTIC,
    NO_CONDITION,
    NO_LABEL,
    At,
    Mean,
    ResultTable,
    Undefined,
    mean_of,
)
from ccvae_eval.evaluation.subject import Subject, read_images
from ccvae_eval.metrics.reconstruction.settings import Reconstruction
from ccvae_eval.metrics.shared.image_change import similarity_scores
from ccvae_eval.metrics.shared.likelihood import (
    POINT_MASS,
    Generate,
    Prior,
    gaussian_divergence,
    likelihood_of,
    log_likelihood,
    log_likelihoods,
    mixture_divergence,
    model_bound,
    standard_divergence,
)
from ccvae_eval.model.fixed_batches import FIXED_BATCH, Chunk
from ccvae_eval.model.interface import HasBound, StatesLikelihood, supports
from ccvae_eval.statistics.intervals import difference_of_means
from ccvae_eval.statistics.resampling import ResampleWeights

STYLE = {"columns": "style"}
LABELLED, UNLABELLED = {"labels": "given"}, {"labels": "missing"}
MEAN = PosteriorMean()


def needs(metric: Reconstruction, subject: Subject) -> Needs:
    stated = supports(subject.model, StatesLikelihood) and metric.likelihood == "model"
    samples = metric.importance if _without_density(subject, Prior.of(subject)) == "" else 0
    own = samples + (2 if stated else 0) + 2 * supports(subject.model, HasBound)
    own += -(-min(metric.chance_images, len(subject)) * max(samples, 1) // max(len(subject), 1))
    return Needs((MEAN,), reconstruction=True, images=False, characteristics=False, own=own)


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


class ReconstructionAccumulator(ImageAccumulator[Reconstruction]):
    """One score per image and value, and the mean image."""

    def __init__(self, metric: Reconstruction, subject: Subject) -> None:
        super().__init__(metric, subject)
        self.prior = Prior.of(self.subject)
        self.no_density = _without_density(self.subject, self.prior)
        self.likelihood, self.no_likelihood = "", ""
        try:
            self.likelihood = likelihood_of(self.subject, self.metric.likelihood)
        except UndefinedError as error:
            self.no_likelihood = error.what

    def update(self, batch: Decoded) -> None:
        chunk, sampled = _channels_last(batch.chunk), self.metric.code == "sample"
        means, of_sample = batch.images[MEAN], batch.reconstruction
        assert of_sample is not None, "asked for in needs()"
        rebuilt = of_sample if sampled else means
        found = similarity_scores(chunk.images, rebuilt, self.metric.window)
        found["square"] = chunk.images.double().square().flatten(1).mean(1).cpu().numpy()
        if not self.no_likelihood:
            at_sample = log_likelihood(self.subject, chunk, chunk.codes, of_sample, self.likelihood)
            at_mean = log_likelihood(self.subject, chunk, chunk.posterior.loc, means, self.likelihood)
            found["reconstruction"] = -(at_sample if sampled else at_mean)
            found["likelihood"] = at_sample
            if self.metric.importance and not self.no_density:
                found["iwae"] = self._importance(chunk)
            self._add_prior_likelihood(chunk)
        if supports(self.subject.model, HasBound):
            found["bound/given"] = model_bound(self.subject, chunk, labelled=True)
            found["bound/missing"] = model_bound(self.subject, chunk, labelled=False)
        if rebuilt.ndim == 4:
            self.pictures.add("image", chunk.images)
            self.pictures.add("error", (chunk.images - rebuilt).square().mean(1))
            self.keep_images("pairs", chunk, (chunk.images, rebuilt))
        else:
            found["point"] = chunk.images.double().cpu().numpy()
        self.columns.put(NO_CHARACTERISTIC, chunk.rows, found)

    def _add_prior_likelihood(self, chunk: Chunk) -> None:
        """Store the log-likelihoods of the first images given codes sampled from the prior: one, and for iwae K."""
        first = chunk.within(self.metric.chance_images)
        if first is None or why_not(Generate(), self.subject):
            return
        draws = range(max(self.metric.importance if not self.no_density else 0, 1))
        codes = [Generate(draw=draw).codes(self.subject, first) for draw in draws]
        log_p = torch.from_numpy(log_likelihoods(self.subject, first, codes, self.likelihood))
        mean = torch.logsumexp(log_p, 0) - np.log(len(log_p))
        found = {"chance": log_p[0].numpy(), "chance/iwae": mean.numpy()}
        self.columns.put(NO_CHARACTERISTIC, first.rows, found)

    def _importance(self, chunk: Chunk) -> Floats:
        """Log of the mean importance weight of each image, shape (n,)."""
        subject, draws = self.subject, range(self.metric.importance)
        q = Gaussian(chunk.posterior.loc.double(), chunk.posterior.scale.double())
        noise = (subject.noise(f"iwae/{k}", chunk.ids, subject.layout.dim) for k in draws)
        codes: list[Codes] = [chunk.posterior.at(each) for each in noise]
        log_p = log_likelihoods(subject, chunk, codes, self.likelihood)
        z = torch.stack(codes)
        log_ratio = self.prior.log_density(z.flatten(0, 1)).reshape(log_p.shape) - q.log_prob(z.double()).sum(2)
        found: Floats = (torch.logsumexp(torch.from_numpy(log_p) + log_ratio, 0) - np.log(len(codes))).numpy()
        return found

    def compute(self, weights: ResampleWeights) -> Measurement:
        table, columns = ResultTable(self.metric, self.subject, weights), self.columns.under(NO_CHARACTERISTIC, "")
        table.add("mse", None, Mean(columns["mse"]), chance=self._mean_image_error())
        is_image = len(self.subject.data.input_shape) > 1
        points = "the images are smaller than the window" if is_image else "undefined for points"
        chance = self._mean_image_similarity() if "psnr" in columns else {}
        for value in ("psnr", "ssim"):
            self._add(table, value, columns.get(value), points, chance=chance.get(value))
        kl = self._add_divergences(table)
        at: At = {"likelihood": self.likelihood} if self.likelihood else {}
        log_p = self._mean_of("chance")
        negative = None if log_p is None else -log_p
        self._add(table, "reconstruction", columns.get("reconstruction"), self.no_likelihood, at, negative)
        elbo = None if kl is None or self.no_likelihood else columns["likelihood"] - kl
        self._add(table, "elbo", elbo, self.no_likelihood or self.no_density, at, log_p)
        if self.metric.importance:
            iwae_at: At = {**at, "K": self.metric.importance}
            why, log_p = self.no_likelihood or self.no_density, self._mean_of("chance/iwae")
            self._add(table, "iwae", columns.get("iwae"), why, iwae_at, log_p)
        if supports(self.subject.model, HasBound):
            labelled = ~torch.isnan(self.subject.labels).all(1).numpy()
            given = np.where(labelled, columns["bound/given"], np.nan)
            self._add(table, "bound", given, "no image has a label", {**at, **LABELLED})
            self._add(table, "bound", columns["bound/missing"], "", {**at, **UNLABELLED})
        self._add_gap(table)
        notes = [f"likelihood: {self.likelihood}"] if self.likelihood else []
        return table.measurement(notes, self.pictures.arrays())

    def _add(
        self, table: ResultTable, name: str, column: Floats | None, why: str, at: At = NO_CONDITION,
        chance: float | None = None,
    ) -> None:  # fmt: skip
        table.add(name, None, Undefined(why) if column is None else Mean(column), at, chance=chance, why=why)

    def _mean_of(self, key: str) -> float | None:
        return mean_of(self.columns.get(NO_CHARACTERISTIC, key))

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
        for first in range(0, count, subject.fixed_batch):
            rows = slice(first, min(first + subject.fixed_batch, count))
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
                own = self.columns.get(NO_CHARACTERISTIC, name)
                gap = difference_of_means(own, np.concatenate(parts), table.weights)
                table.add("gap", None, gap, {"of": name}, chance=0.0)

    def _mean_image(self) -> Tensor:
        if "image" in self.pictures.sums:
            return torch.from_numpy(self.pictures.mean("image"))
        return self._mean_over_images("point")

    def _mean_over_images(self, key: str) -> Tensor:
        # added batch by batch, which keeps the bits of earlier versions
        batches = torch.split(torch.from_numpy(self.columns.get(NO_CHARACTERISTIC, key)), FIXED_BATCH)
        return torch.as_tensor(sum(batch.sum(0) for batch in batches)) / len(self.subject)

    def _mean_image_error(self) -> float:
        """Error of the mean image in place of each reconstruction."""
        return max(float(self._mean_over_images("square") - self._mean_image().square().mean()), 0.0)

    def _mean_image_similarity(self) -> dict[str, float]:
        """Mean psnr and ssim of the mean image in place of the reconstructions of the first images."""
        mean = self._mean_image().float().to(self.subject.device)
        first = first_chunks(self.subject, self.metric.chance_images)
        window = self.metric.window
        parts = [similarity_scores(chunk.images, mean.expand_as(chunk.images), window) for chunk in first]
        return {key: float(np.concatenate([part[key] for part in parts]).mean()) for key in parts[0]} if parts else {}

    def _add_divergences(self, table: ResultTable) -> Floats | None:
        """Add the rows of kl; returns the total of each image, None where it is undefined."""
        subject, posterior = self.subject, self.subject.posterior
        point_mass = (posterior.scale == 0).any(0)
        parts: dict[str, Floats | Undefined] = {}
        for name, mixture in self.prior.mixtures.items():
            parts[name] = Undefined(POINT_MASS)
            if not bool(point_mass[list(mixture.columns)].any()):
                parts[name] = mixture_divergence(subject, name, mixture, self.metric.draws)
        parts |= {name: Undefined(why) for name, why in self.prior.undefined.items()}
        columns = self.prior.standard
        if columns:
            degenerate = bool(point_mass[list(columns)].any())
            parts[""] = Undefined(POINT_MASS) if degenerate else standard_divergence(posterior, columns)
        defined = [part for part in parts.values() if not isinstance(part, Undefined)]
        total = np.sum(defined, axis=0) if len(defined) == len(parts) else None
        self._add(table, "kl", total, self.no_density, chance=0.0)
        for name, part in parts.items():
            what = part if isinstance(part, Undefined) else Mean(part)
            if name:
                table.add("kl", name, what, mean_at=None, chance=0.0)
                table.add("kl", name, self._label_divergence(name), LABELLED, mean_at=None, chance=0.0)
            elif len(parts) > 1:
                table.add("kl", None, what, STYLE, chance=0.0)
        return total

    def _label_divergence(self, name: str) -> Mean | Undefined:
        """Divergence of q(z_c|x) from p(z_c|y) with the image's own label."""
        mixture = self.prior.mixtures.get(name)
        if mixture is None:
            return Undefined(self.prior.undefined[name])
        q = self.subject.posterior.columns(list(mixture.columns))
        if not bool((q.scale > 0).all()):
            return Undefined(POINT_MASS)
        classes, column = self.subject.classes(name), self.subject.column(name)
        known = (classes >= 0).numpy()
        if not known.any():
            return Undefined(NO_LABEL)
        if self.subject.schema[name].kind == "continuous":
            prior = self.subject.prior_at(name, column.nan_to_num())
        else:
            prior = mixture.given.rows(classes.clamp_min(0))
        return Mean(np.where(known, gaussian_divergence(q, prior), np.nan))
