"""Likelihoods, priors and divergences in nats, and codes sampled from the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from ccvae_eval.core.errors import NonFiniteError, UndefinedError
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Codes, Floats, Gaussian, Images
from ccvae_eval.evaluation.result_table import NO_LABEL
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.shared.image_change import pixel_rows
from ccvae_eval.model.checks import model_call
from ccvae_eval.model.fixed_batches import FIXED_BATCH, Chunk, padded
from ccvae_eval.model.interface import (
    HasBound,
    HasConditionalPrior,
    Rebuildable,
    StatesLikelihood,
    supports,
    type_name,
    unwrapped,
)
from ccvae_eval.statistics.ratios import class_frequencies

BERNOULLI = "bernoulli"
LEAST_LOG = -100.0
"""Least logarithm of a probability, as in torch's cross-entropy: a certain but wrong pixel costs 100 nats."""
POINT_MASS = "p(z_c|y) is a point mass and has no density"
VALUES = 64
"""Equally likely values in place of p(y) of a continuous label."""
SLICE = 4
"""Images whose likelihoods are computed at once, to stay in the processor's cache; no number depends on it."""
ROWS = 1024
"""Images whose divergences are computed at once; no number depends on it."""


@torch.inference_mode()
def bernoulli_log_likelihood(images: Images, means: Images) -> Tensor:
    r"""Return the Bernoulli log-likelihood of pixels in [0, 1], summed over pixels and channels.

    .. math:: \sum_p x_p \log m_p + (1 - x_p) \log (1 - m_p)

    Logarithms below -100 count as -100, as in torch. Fastest if both arguments are channels_last.

    Args:
        images, means: x and m, shape :math:`(N, C, H, W)`.

    Returns:
        Shape :math:`(N,)`, float64, in nats.

    >>> found = bernoulli_log_likelihood(torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 0.5))
    >>> bool(abs(found - 2 * np.log(0.5)) < 1e-6)
    True
    """
    found = []
    for x, m in zip(torch.split(pixel_rows(images), SLICE), torch.split(pixel_rows(means), SLICE), strict=True):
        bright, dark = (part.clamp_min_(LEAST_LOG) for part in _logarithms(m))
        nats = dark.lerp_(bright, x)
        # rows of pixels are summed in float32 and the rows in float64: a pixel is small beside the whole sum
        found.append(nats.reshape(len(x), images.shape[2], -1).sum(2).sum(1, dtype=torch.float64))
    return torch.cat(found)


def _logarithms(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return log m and log (1 - m), on the CPU by NumPy, which is faster there than torch."""
    if means.device.type != "cpu" or means.dtype != torch.float32:
        return means.log(), means.neg().log1p_()
    with np.errstate(divide="ignore", invalid="ignore"):
        values = means.detach().numpy()
        return torch.from_numpy(np.log(values)), torch.from_numpy(np.log1p(-values))


def likelihood_of(subject: Subject, choice: str) -> str:
    """Return the name of p(x|z): the model's own if it states one and ``choice`` is "model", else "bernoulli".

    Raises:
        UndefinedError: if the data are points and the model states no likelihood.
    """
    if choice == "model" and supports(subject.model, StatesLikelihood):
        return subject.model.likelihood_name
    if len(subject.data.input_shape) == 1:
        raise UndefinedError("the model states no p(x|z), and points have no Bernoulli likelihood")
    return BERNOULLI


def log_likelihood(subject: Subject, chunk: Chunk, codes: Codes, means: Images | None, name: str) -> Floats:
    """Return log p(x|z) of a chunk's images at given codes, shape (n,), float64, in nats.

    Args:
        subject: provides the model.
        chunk: the images.
        codes: shape (n, D).
        means: the decoded codes, if already computed; used by the Bernoulli likelihood only.
        name: the likelihood, as returned by :func:`likelihood_of`.

    Raises:
        NonFiniteError: if a value is NaN or infinite.
    """
    found: Floats = log_likelihoods(subject, chunk, [codes], name, means)[0]
    return found


def log_likelihoods(
    subject: Subject, chunk: Chunk, codes: Sequence[Codes], name: str, means: Images | None = None
) -> Floats:
    """:func:`log_likelihood` for each of K batches of codes, shape (K, n), which waits for the device once."""
    model, size, found = subject.model, subject.fixed_batch, []
    for z in codes:
        if supports(model, StatesLikelihood) and name != BERNOULLI:
            with model_call(model, "log_likelihood(images, codes)"):
                each = model.log_likelihood(padded(chunk.images, size), padded(z, size).to(subject.device))[
                    : len(chunk)
                ]
        else:
            decoded = subject.decode(z, check=False) if means is None else means
            each = bernoulli_log_likelihood(chunk.images, decoded)
        found.append(each.double())
    nats: Floats = torch.stack(found).cpu().numpy()
    if not np.isfinite(nats).all():
        raise NonFiniteError("the likelihood is NaN or infinite", where=type_name(model))
    return nats


def model_bound(subject: Subject, chunk: Chunk, *, labelled: bool) -> Floats:
    """Return the model's own bound (ELBO) of a chunk's images, with or without labels, shape (n,), float64.

    The random generator depends on the seed and the id of the first of 32 images, on every device: the model draws as
    many numbers as it is given rows.
    """
    model, found = subject.model, []
    assert supports(model, HasBound)
    labels = subject.labels[chunk.rows]
    given = (labels if labelled else torch.full_like(labels, torch.nan)).to(subject.device)
    for first in range(0, len(chunk), FIXED_BATCH):
        images, known = chunk.images[first : first + FIXED_BATCH], given[first : first + FIXED_BATCH]
        generator = torch_stream(subject.seed, f"bound/{labelled}", int(chunk.ids[first]))
        with model_call(model, "bound(images, labels, generator)"):
            each = model.bound(padded(images, FIXED_BATCH), padded(known, FIXED_BATCH), generator)
        found.append(each[: len(images)])
    nats: Floats = torch.cat(found).double().cpu().numpy()
    return nats


def label_frequencies(subject: Subject, name: str) -> Floats:
    """Return p(y) of a label, shape (K,): class frequencies in training, or in the evaluated images if unknown."""
    model = unwrapped(subject.model)  # a proxy cannot be rebuilt, but its training data are known
    if supports(model, Rebuildable) and name in model.context.labels:
        prior = np.array(model.context.label_prior[model.context.labels.index(name)])
        if len(prior):
            return prior
    return class_frequencies(subject.classes(name).numpy(), subject.schema[name].cardinality)


def _equally_likely_values(subject: Subject, name: str) -> Tensor:
    """Return quantiles of a continuous label in the images that stand for p(y), shape (K,); empty without a value."""
    known = subject.known_values(name)
    count = min(VALUES, len(known))
    return known[(torch.arange(count) * len(known) + len(known) // 2) // max(count, 1)]


@dataclass(frozen=True, slots=True)
class Mixture:
    r"""p(z_c) of one characteristic: :math:`\sum_y p(y) p(z_c|y)`.

    Args:
        columns: latent dimensions of the characteristic.
        given: p(z_c|y) of each class (continuous label: of equally likely values), shape (K, d), float64.
        log_p: log p(y), shape (K,), -inf for a class without images.
    """

    columns: tuple[int, ...]
    given: Gaussian
    log_p: Tensor

    def log_density(self, codes: Tensor) -> Tensor:
        """Return log p(z_c) of codes of shape (N, D), as (N,); the sum over y is exact."""
        return self.log_density_of(codes[:, list(self.columns)].double())

    def log_density_of(self, own: Tensor) -> Tensor:
        """Return the same for the characteristic's latent dimensions alone, shape (N, d), float64."""
        parts = [Gaussian(m, s).log_prob(own).sum(1) for m, s in zip(self.given.loc, self.given.scale, strict=True)]
        return torch.logsumexp(torch.stack(parts, 1) + self.log_p, 1)


@dataclass(frozen=True, slots=True)
class Prior:
    """p(z) of a model: a mixture for each characteristic with a p(z_c|y), N(0, I) in all other latent dimensions.

    Args:
        mixtures: p(z_c) by characteristic.
        undefined: reason for each characteristic without a density.
        standard: latent dimensions with a N(0, I) prior.
    """

    mixtures: dict[str, Mixture]
    undefined: dict[str, str]
    standard: tuple[int, ...]

    @classmethod
    def of(cls, subject: Subject) -> Prior:
        """Return the prior of a subject's model; N(0, I) throughout if the model has no p(z_c|y)."""
        mixtures, undefined = {}, {}
        layout = subject.model.layout
        names = tuple(layout.characteristics) if supports(subject.model, HasConditionalPrior) else ()
        for name in names:
            if subject.schema[name].kind == "continuous":
                values = _equally_likely_values(subject, name)
                given, p = subject.prior_at(name, values), np.full(len(values), 1 / max(len(values), 1))
            else:
                given, p = subject.prior_of(name), label_frequencies(subject, name)
            if not len(p):
                undefined[name] = NO_LABEL
                continue
            if not bool((given.scale > 0).all()):
                undefined[name] = POINT_MASS
                continue
            double = Gaussian(given.loc.double(), given.scale.double())
            mixtures[name] = Mixture(layout[name], double, torch.from_numpy(p).log())
        owned = {column for name in names for column in layout[name]}
        return cls(mixtures, undefined, tuple(c for c in range(layout.dim) if c not in owned))

    def log_density(self, codes: Codes) -> Tensor:
        """Return log p(z) of codes of shape (N, D), as (N,), float64; valid only if ``undefined`` is empty."""
        own = codes.double()
        standard = -0.5 * (own[:, list(self.standard)].square() + np.log(2 * np.pi))
        density: Tensor = standard.sum(1)
        for mixture in self.mixtures.values():
            density = density + mixture.log_density(own)
        return density


def standard_divergence(posterior: Gaussian, columns: Sequence[int]) -> Floats:
    r"""Return KL(q(z|x) || N(0, I)) over some latent dimensions, in nats, shape :math:`(N,)`.

    .. math:: \tfrac12 \sum_j (m_j^2 + s_j^2 - 1) - \log s_j

    Infinite for a point mass.

    >>> standard_divergence(Gaussian(torch.ones(1, 2), torch.ones(1, 2)), (0, 1))
    array([1.])
    """
    q = posterior.columns(list(columns))
    return gaussian_divergence(q, Gaussian(torch.zeros(()).expand_as(q.loc), torch.ones(()).expand_as(q.scale)))


def gaussian_divergence(posterior: Gaussian, prior: Gaussian) -> Floats:
    """Return the KL divergence between diagonal Gaussians, row by row, in nats, shape (N,)."""
    nats = np.empty(len(posterior.loc))
    for first in range(0, len(nats), MAX_IN_MEMORY):
        rows = slice(first, first + MAX_IN_MEMORY)
        q, p = posterior.rows(rows), prior.rows(rows)
        ratio = q.scale.double() / p.scale.double()
        offset = (q.loc.double() - p.loc.double()) / p.scale.double()
        nats[rows] = (0.5 * (ratio.square() + offset.square() - 1) - ratio.log()).sum(1).numpy()
    return nats


def mixture_divergence(subject: Subject, name: str, mixture: Mixture, draws: int) -> Floats:
    """Return a Monte Carlo estimate of KL(q(z_c|x) || p(z_c)) for a mixture prior, in nats, shape (N,).

    The estimate is the mean over antithetic draws of log q - log p and may be negative.
    """
    columns = list(mixture.columns)
    nats = np.empty(len(subject))
    for first in range(0, len(nats), ROWS):
        rows = slice(first, first + ROWS)
        ids = subject.ids[rows]
        q = subject.posterior.rows(rows).columns(columns)
        q = Gaussian(q.loc.double(), q.scale.double())
        half = subject.noise(f"kl/{name}", ids, -(-draws // 2) * len(columns)).double()
        half = half.reshape(len(ids), -1, len(columns))
        every = Gaussian(q.loc[:, None], q.scale[:, None])
        z = every.at(torch.cat([half, -half], 1))
        prior = mixture.log_density_of(z.flatten(0, 1)).reshape(z.shape[:2])
        nats[rows] = (every.log_prob(z).sum(2) - prior).mean(1).numpy()
    return nats


@dataclass(frozen=True, slots=True)
class Generate:
    """Intervention that replaces the whole code by a sample of the prior: style from N(0, I), z_c from p(z_c|y).

    Args:
        assignment: (label, class index or value) of the labels that are set; the classes of all others are sampled from
            p(y), the values of continuous labels from those of the images.
        draw: index of the sample; different indices give independent samples.
    """

    assignment: tuple[tuple[str, float], ...] = ()
    draw: int = 0

    @property
    def characteristic(self) -> str:
        return ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        codes = subject.noise(f"generate/{self.draw}", chunk.ids, subject.layout.dim)
        if not supports(subject.model, HasConditionalPrior):
            return codes
        ranks = self._ranks(subject, chunk)
        for name in subject.model.layout.characteristics:
            columns = list(subject.model.layout[name])
            if subject.schema[name].kind == "continuous":
                given = subject.prior_at(name, self._values(name, subject, ranks))
            else:
                given = subject.prior_of(name).rows(self._classes(name, subject, ranks))
            codes[:, columns] = given.at(codes[:, columns])
        return codes

    def _values(self, name: str, subject: Subject, ranks: Floats) -> Tensor:
        """Return the value of a continuous label for each image: the assigned one, or that of a random image."""
        chosen, known = dict(self.assignment).get(name), subject.known_values(name)
        if not len(known):
            raise UndefinedError(NO_LABEL, where=name)
        if chosen is not None:
            return torch.full((len(ranks),), chosen)
        place = torch.from_numpy(ranks[:, subject.schema.index(name)] * len(known)).long()
        return known[place.clamp_max(len(known) - 1)]

    def classes(self, name: str, subject: Subject, chunk: Chunk) -> Tensor:
        """Return the class of a label with classes for each image, shape (n,): as assigned, else sampled from p(y)."""
        return self._classes(name, subject, self._ranks(subject, chunk))

    def _ranks(self, subject: Subject, chunk: Chunk) -> Floats:
        """Return uniform numbers for all labels, shape (n, L), from one stream: one stream per label is slow."""
        return np.asarray(ndtr(subject.noise(f"generate/{self.draw}/labels", chunk.ids, len(subject.schema)).numpy()))

    def _classes(self, name: str, subject: Subject, ranks: Floats) -> Tensor:
        chosen = dict(self.assignment).get(name)
        if chosen is not None:
            return torch.full((len(ranks),), int(chosen))
        below = subject.cached(("cumulated p(y)", name), lambda: np.cumsum(label_frequencies(subject, name)))
        index = (ranks[:, [subject.schema.index(name)]] >= below).sum(axis=1)
        return torch.from_numpy(np.minimum(index, len(below) - 1))
