"""What an image and its code cost in nats: likelihoods, priors, and divergences from them.

Codes drawn from the prior: nothing of the image in whose place they stand is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from ccvae_eval.core.errors import NonFiniteError, UndefinedError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Codes, Floats, Gaussian, Ids, Images
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.metrics.shared.image_change import rows_of
from ccvae_eval.model.checks import asked
from ccvae_eval.model.fixed_batches import padded
from ccvae_eval.model.interface import HasBound, HasConditionalPrior, Rebuildable, StatesLikelihood

BERNOULLI = "bernoulli"
LEAST_LOG = -100.0
POINT_MASS = "a point mass has no density"
SLICE = 4
"""Images whose likelihoods are worked out at once; no number depends on it."""
ROWS = 1024
"""Images whose divergences are worked out at once; no number depends on it."""


@torch.inference_mode()
def bernoulli_log_likelihood(images: Images, means: Images) -> Tensor:
    r"""Minus the cross-entropy of pixels in [0, 1], summed over pixels and channels, shape :math:`(N,)`, float64.

    .. math:: \sum_p x_p \log m_p + (1 - x_p) \log (1 - m_p)

    Logarithms below -100 count as -100, as in torch: a pixel that is certain and wrong costs 100 nats. Quickest where
    both are channels_last.

    >>> found = bernoulli_log_likelihood(torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 0.5))
    >>> bool(abs(found - 2 * np.log(0.5)) < 1e-6)
    True
    """
    found = []
    # a few rows at a time stay in the processor's cache: a fifth of the time
    for x, m in zip(torch.split(rows_of(images), SLICE), torch.split(rows_of(means), SLICE), strict=True):
        bright, dark = (part.clamp_min_(LEAST_LOG) for part in _logarithms(m))
        nats = dark.lerp_(bright, x)
        # a line in float32, all lines in float64: of twelve thousand pixels each is small beside the sum
        found.append(nats.reshape(len(x), images.shape[2], -1).sum(2).sum(1, dtype=torch.float64))
    return torch.cat(found)


def _logarithms(means: Tensor) -> tuple[Tensor, Tensor]:
    """log m and log (1 - m).

    On the CPU NumPy's, which take a third of the time of torch's; those of torch's own loss are not vectorised at all.
    """
    if means.device.type != "cpu" or means.dtype != torch.float32:
        return means.log(), means.neg().log1p_()
    with np.errstate(divide="ignore", invalid="ignore"):
        values = means.detach().numpy()
        return torch.from_numpy(np.log(values)), torch.from_numpy(np.log1p(-values))


def likelihood_of(subject: Subject, choice: str) -> str:
    """The name of p(x|z): the model's own where it states one and none other is asked for, else Bernoulli.

    Raises:
        UndefinedError: points, and a model that states no likelihood.
    """
    if choice == "model" and isinstance(subject.model, StatesLikelihood):
        return subject.model.likelihood_name
    if len(subject.data.input_shape) == 1:
        raise UndefinedError("the model states no p(x|z), and points have no Bernoulli likelihood")
    return BERNOULLI


def log_likelihood(subject: Subject, chunk: Chunk, codes: Codes, means: Images | None, name: str) -> Floats:
    """log p(x|z) of a chunk's images at some codes, shape (n,), float64.

    Args:
        subject, chunk: whose images.
        codes: shape (n, D).
        means: their decodings, where these are known; only a Bernoulli likelihood is a function of them.
        name: as :func:`likelihood_of` gives it.
    """
    model = subject.model
    if isinstance(model, StatesLikelihood) and name != BERNOULLI:
        with asked(model, "log_likelihood(images, codes)"):
            found = model.log_likelihood(padded(chunk.images), padded(codes).to(subject.device))[: len(chunk)]
    else:
        found = bernoulli_log_likelihood(chunk.images, subject.decode(codes) if means is None else means)
    nats: Floats = found.double().cpu().numpy()
    if not np.isfinite(nats).all():
        raise NonFiniteError("the likelihood is NaN or infinite", where=type(model).__name__)
    return nats


def own_bound(subject: Subject, chunk: Chunk, *, labelled: bool) -> Floats:
    """The model's own bound of a chunk's images, with their labels or without any, shape (n,), float64.

    The generator belongs to the chunk's first image.
    """
    model = subject.model
    assert isinstance(model, HasBound)
    labels = subject.labels[chunk.rows]
    given = padded(labels if labelled else torch.full_like(labels, torch.nan)).to(subject.device)
    generator = torch_stream(subject.seed, f"bound/{labelled}", int(chunk.ids[0]))
    with asked(model, "bound(images, labels, generator)"):
        found = model.bound(padded(chunk.images), given, generator)[: len(chunk)]
    nats: Floats = found.double().cpu().numpy()
    return nats


def label_frequencies(subject: Subject, name: str) -> Floats:
    """p(y) over the classes of a label as trained, or of the evaluated labels where no training is known."""
    model = subject.model
    if isinstance(model, Rebuildable) and name in model.context.labels:
        prior = np.array(model.context.label_prior[model.context.labels.index(name)])
        if len(prior):
            return prior
    classes = subject.classes(name).numpy()
    counts = np.bincount(classes[classes >= 0], minlength=subject.schema[name].cardinality)
    return np.asarray(counts / max(counts.sum(), 1))


@dataclass(frozen=True, slots=True)
class Mixture:
    r"""p(z_c) of one characteristic: :math:`\sum_y p(y) p(z_c|y)`.

    Args:
        columns: of z.
        given: p(z_c|y) of each class, shape (K, d), float64.
        log_p: log p(y), shape (K,), -inf for a class that no image had.
    """

    columns: tuple[int, ...]
    given: Gaussian
    log_p: Tensor

    def log_density(self, codes: Tensor) -> Tensor:
        """log p(z_c) of codes, shape (N, D), as (N,); the sum over y is exact."""
        return self.log_density_of(codes[:, list(self.columns)].double())

    def log_density_of(self, own: Tensor) -> Tensor:
        """The same of the characteristic's columns alone, shape (N, d), float64."""
        parts = [Gaussian(m, s).log_prob(own).sum(1) for m, s in zip(self.given.loc, self.given.scale, strict=True)]
        return torch.logsumexp(torch.stack(parts, 1) + self.log_p, 1)


@dataclass(frozen=True, slots=True)
class Prior:
    """p(z): N(0, I) but for the characteristics of a model that has p(z_c|y).

    Args:
        mixtures: by characteristic.
        undefined: the characteristics that have no density, and why.
        standard: the columns with a N(0, I) prior.
    """

    mixtures: dict[str, Mixture]
    undefined: dict[str, str]
    standard: tuple[int, ...]

    @classmethod
    def of(cls, subject: Subject) -> Prior:
        """The prior of a subject's model. A model without p(z_c|y) has N(0, I) in every column."""
        mixtures, undefined = {}, {}
        layout = subject.model.layout
        names = tuple(layout.characteristics) if isinstance(subject.model, HasConditionalPrior) else ()
        for name in names:
            if subject.schema[name].kind == "continuous":
                undefined[name] = "p(y) of a continuous label is not known"
                continue
            given = subject.prior_of(name)
            if not bool((given.scale > 0).all()):
                undefined[name] = POINT_MASS
                continue
            double = Gaussian(given.loc.double(), given.scale.double())
            mixtures[name] = Mixture(layout[name], double, torch.from_numpy(label_frequencies(subject, name)).log())
        taken = {column for name in names for column in layout[name]}
        return cls(mixtures, undefined, tuple(c for c in range(layout.dim) if c not in taken))

    def log_density(self, codes: Codes) -> Tensor:
        """log p(z) of codes, shape (N, D), as (N,), float64; only where no characteristic is without a density."""
        own = codes.double()
        standard = -0.5 * (own[:, list(self.standard)].square() + np.log(2 * np.pi))
        density: Tensor = standard.sum(1)
        for mixture in self.mixtures.values():
            density = density + mixture.log_density(own)
        return density


def standard_divergence(posterior: Gaussian, columns: Sequence[int]) -> Floats:
    r"""KL(q(z|x) || N(0, I)) over some columns in nats, shape :math:`(N,)`; infinite for a point mass.

    .. math:: \tfrac12 \sum_j (m_j^2 + s_j^2 - 1) - \log s_j

    >>> standard_divergence(Gaussian(torch.ones(1, 2), torch.ones(1, 2)), (0, 1))
    array([1.])
    """
    q = posterior.columns(list(columns))
    loc, scale = q.loc.double(), q.scale.double()
    nats: Floats = (0.5 * (loc.square() + scale.square() - 1) - scale.log()).sum(1).numpy()
    return nats


def gaussian_divergence(posterior: Gaussian, prior: Gaussian) -> Floats:
    """KL between diagonal Gaussians, row by row, summed over the columns, shape (N,); in nats."""
    ratio = posterior.scale.double() / prior.scale.double()
    offset = (posterior.loc.double() - prior.loc.double()) / prior.scale.double()
    nats: Floats = (0.5 * (ratio.square() + offset.square() - 1) - ratio.log()).sum(1).numpy()
    return nats


def mixture_divergence(subject: Subject, name: str, mixture: Mixture, draws: int) -> Floats:
    """KL(q(z_c|x) || p(z_c)) against a mixture, shape (N,): the mean over draws of log q - log p, in nats.

    A single draw of it may be negative. The draws of an image are half of them the mirror images of the others.
    """
    columns = list(mixture.columns)
    nats = np.empty(len(subject))
    for rows, ids in _blocks(subject.ids):
        q = subject.posterior.rows(rows).columns(columns)
        q = Gaussian(q.loc.double(), q.scale.double())
        half = subject.noise(f"kl/{name}", ids, -(-draws // 2) * len(columns)).double()
        half = half.reshape(len(ids), -1, len(columns))
        every = Gaussian(q.loc[:, None], q.scale[:, None])
        z = every.at(torch.cat([half, -half], 1))
        prior = mixture.log_density_of(z.flatten(0, 1)).reshape(z.shape[:2])
        nats[rows] = (every.log_prob(z).sum(2) - prior).mean(1).numpy()
    return nats


def _blocks(ids: Ids) -> Iterator[tuple[slice, Ids]]:
    for first in range(0, len(ids), ROWS):
        rows = slice(first, min(first + ROWS, len(ids)))
        yield rows, ids[rows]


@dataclass(frozen=True, slots=True)
class Generate:
    """A code from the prior for each image: style from N(0, I), z_c from p(z_c|y).

    Args:
        assignment: (label, class index) of the labels that are set; all others are drawn from p(y).
        draw: which draw; draws of different numbers are independent.
    """

    assignment: tuple[tuple[str, int], ...] = ()
    draw: int = 0

    @property
    def characteristic(self) -> str:
        return ""

    def codes(self, subject: Subject, chunk: Chunk) -> Codes:
        codes = subject.noise(f"generate/{self.draw}", chunk.ids, subject.layout.dim)
        if not isinstance(subject.model, HasConditionalPrior):
            return codes
        ranks = self._ranks(subject, chunk)
        for name in subject.model.layout.characteristics:
            columns, classes = list(subject.model.layout[name]), self._classes(name, subject, ranks)
            codes[:, columns] = subject.prior_of(name).rows(classes).at(codes[:, columns])
        return codes

    def classes(self, name: str, subject: Subject, chunk: Chunk) -> Tensor:
        """The class of one label for each image, shape (n,): as it is set, else drawn from p(y).

        Raises:
            UndefinedError: a continuous label.
        """
        return self._classes(name, subject, self._ranks(subject, chunk))

    def _ranks(self, subject: Subject, chunk: Chunk) -> Floats:
        """Uniform draws for all labels, shape (n, L): a stream for each of them would cost more than a decoding."""
        return np.asarray(ndtr(subject.noise(f"generate/{self.draw}/labels", chunk.ids, len(subject.schema)).numpy()))

    def _classes(self, name: str, subject: Subject, ranks: Floats) -> Tensor:
        if subject.schema[name].kind == "continuous":
            raise UndefinedError("p(y) of a continuous label is not known", where=name)
        chosen = dict(self.assignment).get(name)
        if chosen is not None:
            return torch.full((len(ranks),), chosen)
        below = subject.cached(("cumulated p(y)", name), lambda: np.cumsum(label_frequencies(subject, name)))
        place = (ranks[:, [subject.schema.index(name)]] >= below).sum(axis=1)
        return torch.from_numpy(np.minimum(place, len(below) - 1))
