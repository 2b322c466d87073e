"""Perturbed models with a fault in their codes, in their prior p(z_c|y) or in their predictions of labels.

Faults of codes and prior need no renderer, so that they apply to trained models too; only :class:`Correlated` needs the
oracle. Faults of predictions leave codes and images as those of the oracle.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm, logm
from scipy.special import ndtr, ndtri
from scipy.stats import special_ortho_group
from torch import Tensor

from ccvae_eval.calibration.reference_images import ReferenceImages
from ccvae_eval.core.errors import DataError
from ccvae_eval.core.random_streams import numpy_stream, uniforms
from ccvae_eval.core.types import Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.model.interface import (
    HasConditionalPrior,
    Label,
    LabelledVAE,
    LatentLayout,
    Predicts,
    Proxy,
)
from ccvae_eval.oracle.model import MEAN, REACH, SPREAD, image_digests
from ccvae_eval.statistics.ratios import class_frequencies


class FullModel(LabelledVAE, Predicts, HasConditionalPrior, Protocol):
    """A model that supports every metric."""


class Recoded(Proxy[Any]):
    """Base class of models with another code: every method translates the codes that it takes or returns."""

    @abstractmethod
    def recode(self, found: Gaussian) -> Gaussian:
        """The distribution of the own codes, for one of the inner model's codes."""

    @abstractmethod
    def inner_codes(self, codes: Codes) -> Codes:
        """The inner model's codes of own codes."""

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        return self.recode(self.inner.encode(images, labels))

    def decode(self, codes: Codes) -> Images:
        images: Images = self.inner.decode(self.inner_codes(codes))
        return images

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return dict(self.inner.predict(images, self.inner_codes(codes)))

    def intervene(self, images: Images, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes:
        found = self.inner.intervene(images, self.inner_codes(codes), assignment, noise)
        return self.recode(Gaussian(found, torch.zeros_like(found))).loc

    def log_likelihood(self, images: Images, codes: Codes) -> Tensor:
        found: Tensor = self.inner.log_likelihood(images, self.inner_codes(codes))
        return found


@dataclass(eq=False, repr=False)
class LinearlyMixed(Recoded):
    r"""Mixes latent dimensions linearly, :math:`z' = z M^T`, and decodes with the inverse.

    The code keeps all information, in other dimensions than the layout states; entanglement must rise. Posterior and
    prior keep the standard deviations of the mixed distribution and drop its correlations.

    Args:
        inner: the model.
        mix, back: M and its inverse, shape (D, D), float64.
    """

    mix: Tensor
    back: Tensor

    def inner_codes(self, codes: Codes) -> Codes:
        return (codes.double() @ self.back.T.to(codes.device)).to(codes.dtype)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y) of the mixed dimensions; style dimensions enter as standard normal."""
        own = self.inner.conditional_prior(labels)
        order = list(self.layout.characteristic_columns)
        loc = torch.zeros(len(labels), self.layout.dim, dtype=own.loc.dtype, device=own.loc.device)
        scale = torch.ones_like(loc)
        loc[:, order], scale[:, order] = own.loc, own.scale
        return self.recode(Gaussian(loc, scale)).columns(order)

    def recode(self, found: Gaussian) -> Gaussian:
        mix = self.mix.to(found.loc.device)
        loc = (found.loc.double() @ mix.T).to(found.loc.dtype)
        scale = (found.scale.double().square() @ mix.square().T).sqrt().to(found.scale.dtype)
        return Gaussian(loc, scale)


class RotatedPairs(LinearlyMixed):
    """Rotates pairs of latent dimensions in their plane; entanglement of the pairs must rise up to 45 degrees.

    Args:
        inner: the model.
        pairs: latent dimensions, each in one pair at most.
        degrees: angle of the rotation.
    """

    def __init__(self, inner: FullModel, pairs: Sequence[tuple[int, int]], degrees: float) -> None:
        rotation = torch.eye(inner.layout.dim, dtype=torch.float64)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        for a, b in pairs:
            rotation[a, a] = rotation[b, b] = cos
            rotation[a, b], rotation[b, a] = -sin, sin
        super().__init__(inner, rotation, rotation.T)


def partial_rotation(dim: int, share: float, generator: np.random.Generator) -> Floats:
    """Random rotation to the power of ``share``: the identity at 0, the whole rotation at 1; shape (D, D).

    >>> whole, none = (partial_rotation(3, share, np.random.default_rng(0)) for share in (1.0, 0.0))
    >>> np.allclose(whole @ whole.T, np.eye(3)), np.allclose(none, np.eye(3))
    (True, True)
    """
    whole = special_ortho_group.rvs(dim, random_state=generator) if dim > 1 else np.eye(1)
    # the logarithm of a rotation is real and skew-symmetric up to rounding
    skew = np.real(logm(whole))
    return np.asarray(expm(share * (skew - skew.T) / 2))


def characteristic_pairs(layout: LatentLayout, names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of the first latent dimensions of consecutive characteristics; an odd last one stays alone.

    >>> characteristic_pairs(LatentLayout(5, {"a": (0, 1), "b": (2,), "c": (3,)}), ["a", "b", "c"])
    [(0, 2)]
    """
    firsts = [layout[name][0] for name in names]
    return list(zip(firsts[::2], firsts[1::2], strict=False))


def style_pairs(layout: LatentLayout, names: Sequence[str]) -> list[tuple[int, int]]:
    """The first latent dimension of each characteristic, paired with a style dimension while there are any left."""
    return list(zip((layout[name][0] for name in names), layout.style, strict=False))


def variety_pairs(dimensions: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of consecutive latent dimensions of the same characteristic.

    >>> variety_pairs({"a": (1, 2, 3), "b": (7,)})
    [(1, 2)]
    """
    return [pair for own in dimensions.values() for pair in zip(own[::2], own[1::2], strict=False)]


class Shuffled(Proxy[FullModel]):
    """Permutes the codes of a share of the images; information about labels must fall to chance.

    An image is chosen if its random number, a function of its id, lies below the share, so that a larger share
    includes a smaller one. The codes of the chosen images are permuted in one cycle: none keeps its code.

    Args:
        inner: the model.
        posterior: posterior of all images.
        digests: digests of the images, from :func:`ccvae_eval.oracle.model.image_digests`.
        ids: ids of the images.
        share: from 0 to 1.
        seed: seed of the cycle's order.
    """

    def __init__(
        self, inner: FullModel, posterior: Gaussian, digests: Sequence[bytes], ids: Ids, share: float, seed: int = 0
    ) -> None:
        super().__init__(inner)
        self.posterior = posterior
        self._row = {digest: row for row, digest in enumerate(digests)}
        self.source = shuffled_rows(ids, share, seed)

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """The posterior of another image for the chosen images.

        Raises:
            DataError: an image is not among the images of the calibration.
        """
        del labels
        rows = [self._row.get(digest, -1) for digest in image_digests(images)]
        if -1 in rows:
            hint = "A model with shuffled codes encodes only these."
            raise DataError("an image is not among the images of the calibration", hint=hint)
        found = self.posterior.rows(torch.from_numpy(self.source[np.array(rows)]))
        return Gaussian(found.loc.to(images.device), found.scale.to(images.device))


def shuffled_rows(ids: Ids, share: float, seed: int) -> NDArray[np.int64]:
    """Row whose code each image gets, shape (N,): its own, or for chosen images the previous one's in the cycle.

    >>> shuffled_rows(np.arange(3), 0.0, 0).tolist(), sorted(shuffled_rows(np.arange(3), 1.0, 0).tolist())
    ([0, 1, 2], [0, 1, 2])
    """
    rows = np.arange(len(ids))
    chosen = np.flatnonzero(uniforms(seed, "shuffle", ids, 1)[:, 0] < share)
    cycle = chosen[numpy_stream(seed, "shuffle/order").permutation(len(chosen))]
    rows[cycle] = np.roll(cycle, 1)
    return rows


@dataclass(eq=False, repr=False)
class Shifted(Proxy[FullModel]):
    """Shifts p(z_c|y) in every latent dimension; ``prior_gap`` and ``kl`` must rise.

    Args:
        inner: the model.
        deviations: shift in standard deviations of p(z_c|y).
    """

    deviations: float

    def conditional_prior(self, labels: Labels) -> Gaussian:
        own = self.inner.conditional_prior(labels)
        return Gaussian(own.loc + self.deviations * own.scale, own.scale)


@dataclass(eq=False, repr=False)
class Collapsed(Proxy[FullModel]):
    """Shrinks p(z_c|y) around its mean; the diversity of its samples must fall to 0.

    Args:
        inner: the model.
        share: from 0 (unchanged) to 1 (a point mass).
    """

    share: float

    def conditional_prior(self, labels: Labels) -> Gaussian:
        own = self.inner.conditional_prior(labels)
        return Gaussian(own.loc, own.scale * (1 - self.share))


EPSILON = 1e-9


class Correlated(Recoded):
    r"""Correlates pairs of latent dimensions of binary labels; dependence between dimensions must rise.

    .. math:: g = \Phi^{-1}(F(u)), \quad z_a = g_a, \quad z_b = \rho g_a + \sqrt{1 - \rho^2} g_b

    F is the distribution function of u over both classes, so that g is standard normal and encodes the label as well
    as u. The pairs are jointly normal, and their dependence has a closed form.

    Args:
        references: the reference images, with the oracle.
        pairs: pairs of labels.
        correlation: rho, below 1.
    """

    def __init__(self, references: ReferenceImages, pairs: Sequence[tuple[str, str]], correlation: float) -> None:
        super().__init__(references.oracle)
        self.correlation, self.rest = correlation, math.sqrt(1 - correlation**2)
        self.dimension, self.present = {}, {}
        for name in (name for pair in pairs for name in pair):
            block = references.block(name)
            self.dimension[name] = block.shown[0]
            self.present[name] = float((references.classes[:, block.place] == 1).mean())
        self.pairs = [(self.dimension[a], self.dimension[b]) for a, b in pairs]

    def recode(self, found: Gaussian) -> Gaussian:
        loc = found.loc.double()
        for name, dimension in self.dimension.items():
            normal = gaussianized(loc[:, dimension].cpu().numpy(), self.present[name])
            loc[:, dimension] = torch.from_numpy(normal).to(loc.device)
        for a, b in self.pairs:
            loc[:, b] = self.correlation * loc[:, a] + self.rest * loc[:, b]
        return Gaussian(loc.to(found.loc.dtype), found.scale)

    def inner_codes(self, codes: Codes) -> Codes:
        """Codes that the oracle decodes to the same images; of u they keep the class only."""
        z = codes.double()
        for a, b in self.pairs:
            z[:, b] = (z[:, b] - self.correlation * z[:, a]) / self.rest
        for name, dimension in self.dimension.items():
            absent = float(ndtri(np.clip(1 - self.present[name], EPSILON, 1 - EPSILON)))
            z[:, dimension] = torch.where(z[:, dimension] > absent, MEAN, -MEAN)
        return z.to(codes.dtype)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y) with the mean and deviation of the truncated normal distribution of each class."""
        own = self.inner.conditional_prior(labels)
        order = self.layout.characteristic_columns
        loc, scale = own.loc.clone(), own.scale.clone()
        moments: dict[int, tuple[Tensor, Tensor]] = {}
        for name, dimension in self.dimension.items():
            known = labels[:, self.labels.index(name)]
            means, deviations = (torch.from_numpy(x).to(loc) for x in truncated_normal_moments(self.present[name]))
            classes = known.nan_to_num().long()
            moments[dimension] = torch.where(known.isnan(), torch.nan, means[classes]), deviations[classes]
        for a, b in self.pairs:
            for dimension, share in ((a, 0.0), (b, self.correlation)):
                rest = math.sqrt(1 - share**2)
                mean, deviation = moments[dimension]
                place = order.index(dimension)
                loc[:, place] = share * moments[a][0] + rest * mean
                scale[:, place] = ((share * moments[a][1]) ** 2 + (rest * deviation) ** 2).sqrt()
        return Gaussian(loc, scale)


def gaussianized(u: Floats, present: float) -> Floats:
    """u transformed to a standard normal variable, for a share ``present`` around +2 and the rest around -2.

    >>> gaussianized(np.array([-2.0, 2.0]), 0.5).round(3).tolist()
    [-0.674, 0.674]
    """
    low, high = float(ndtr(-REACH)), float(ndtr(REACH))
    absent, there = (np.clip((ndtr((u - mean) / SPREAD) - low) / (high - low), 0.0, 1.0) for mean in (-MEAN, MEAN))
    return np.asarray(ndtri(np.clip((1 - present) * absent + present * there, EPSILON, 1 - EPSILON)))


def truncated_normal_moments(present: float) -> tuple[Floats, Floats]:
    """Mean and deviation of a standard normal variable below and above its quantile 1 - ``present``, shapes (2,).

    >>> [x.round(3).tolist() for x in truncated_normal_moments(0.5)]
    [[-0.798, 0.798], [0.603, 0.603]]
    """
    share = float(np.clip(present, EPSILON, 1 - EPSILON))
    cut = float(ndtri(1 - share))
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    means = np.array([-density / (1 - share), density / share])
    squares = 1 + cut * means
    return means, np.sqrt(np.maximum(squares - means**2, EPSILON))


CERTAIN_LOG_ODDS = 20.0
"""Log-odds of a certain prediction."""


class PerturbedPredictions(Proxy[FullModel]):
    """The oracle with perturbed predictions.

    Args:
        references: the reference images, with the oracle.
        strength: strength of the perturbation.
        seed: seed of the random numbers of each (label, image).
    """

    def __init__(self, references: ReferenceImages, strength: float, seed: int = 0) -> None:
        super().__init__(references.oracle)
        self.references, self.strength, self.seed = references, strength, seed

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        scene, found = self.references.scene(codes), {}
        for label in self.labels:
            classes = scene.classes[:, self.references.block(label.name).place]
            odds = self.log_odds(label, classes, self.references.original_ids(scene))
            found[label.name] = torch.log_softmax(torch.from_numpy(odds), 1).to(codes.device)
        return found

    @abstractmethod
    def log_odds(self, label: Label, classes: NDArray[np.int64], ids: Ids) -> NDArray[np.floating]:
        """Log-probabilities of the classes of one label up to a constant, shape (N, K), from the true classes."""


class Mislabelled(PerturbedPredictions):
    r"""Predicts a random wrong class with certainty for a share of the images; ``accuracy`` must fall to 1/K.

    Its strength t runs from 0 (always right) to 1 (a random class): a share :math:`t (1 - 1/K)` is wrong.
    """

    def log_odds(self, label: Label, classes: NDArray[np.int64], ids: Ids) -> NDArray[np.floating]:
        k, draw = label.cardinality, uniforms(self.seed, f"mislabel/{label.name}", ids, 2)
        wrong = draw[:, 0] < self.strength * (1 - 1 / k)
        step = 1 + np.minimum((draw[:, 1] * (k - 1)).astype(np.int64), k - 2)
        predicted = np.where(wrong, (classes + step) % k, classes)
        return np.where(predicted[:, None] == np.arange(k), 0.0, -CERTAIN_LOG_ODDS).astype(np.float32)


class Tempered(PerturbedPredictions):
    r"""Predicts labels from a noisy observation with overconfident probabilities; ``calibration_error`` must rise.

    It observes :math:`o_k = [y = k] + n_k` with standard normal noise and multiplies the log-probabilities of Bayes'
    rule, with the labels' frequencies as prior, by its strength T: calibrated at T = 1. (The oracle itself is certain
    and right, so that it cannot be overconfident.)
    """

    def log_odds(self, label: Label, classes: NDArray[np.int64], ids: Ids) -> NDArray[np.floating]:
        noise = ndtri(uniforms(self.seed, f"temper/{label.name}", ids, label.cardinality))
        labels = self.references.classes[:, self.references.block(label.name).place]
        shares = class_frequencies(labels, label.cardinality)
        return self.strength * noisy_log_posterior(classes, noise, shares)


def noisy_log_posterior(classes: NDArray[np.int64], noise: Floats, shares: Floats) -> Floats:
    r"""Log-probabilities of the classes given one noisy observation, up to a constant, shape (N, K).

    .. math:: \log p(y = k | o) = o_k + \log \pi_k + const
    """
    observed = (classes[:, None] == np.arange(noise.shape[1])) + noise
    return np.asarray(observed + np.log(np.maximum(shares, 1e-12)))
