"""Saboteurs that spoil a model's codes or its prior: they need no renderer, so they spoil a trained model as well.

Codes that depend on each other by a known amount.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

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
from ccvae_eval.model.interface import HasConditionalPrior, LabelledVAE, LabelSchema, LatentLayout, Predicts
from ccvae_eval.oracle.code import MEAN, REACH, SPREAD

BYTE = 255


class FullModel(LabelledVAE, Predicts, HasConditionalPrior, Protocol):
    """A model of which every metric can be asked."""


class PerturbedModel:
    """A model seen through a saboteur's hands; as it stands here nothing is spoilt.

    Args:
        inner: the model.
    """

    def __init__(self, inner: FullModel) -> None:
        self.inner = inner

    @property
    def layout(self) -> LatentLayout:
        return self.inner.layout

    @property
    def labels(self) -> LabelSchema:
        return self.inner.labels

    def modules(self) -> list[torch.nn.Module]:
        """The networks inside, for whoever sets their mode."""
        return [self.inner] if isinstance(self.inner, torch.nn.Module) else []

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        return self.inner.encode(images, labels)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(codes)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return self.inner.predict(images, codes)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        return self.inner.conditional_prior(labels)


class Mixed(PerturbedModel):
    r"""A code in other columns: :math:`z' = z M^T`; the decoder takes it back.

    The information is all there, in other columns than the layout says. A posterior and a prior keep the deviations
    of the mixed distribution and lose its correlations.

    Args:
        inner: the model.
        mix: M, shape (D, D), float64.
        back: the inverse of M.
    """

    def __init__(self, inner: FullModel, mix: Tensor, back: Tensor) -> None:
        super().__init__(inner)
        self.mix, self.back = mix, back

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        return self._mixed(self.inner.encode(images, labels))

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(self.unmixed(codes))

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return self.inner.predict(images, self.unmixed(codes))

    def unmixed(self, codes: Codes) -> Codes:
        """The codes as the inner model has them."""
        return (codes.double() @ self.back.T.to(codes.device)).to(codes.dtype)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """Of the mixed columns. A style column that takes part is standard normal."""
        own = self.inner.conditional_prior(labels)
        order = list(self.layout.characteristic_columns)
        loc = torch.zeros(len(labels), self.layout.dim, dtype=own.loc.dtype, device=own.loc.device)
        scale = torch.ones_like(loc)
        loc[:, order], scale[:, order] = own.loc, own.scale
        return self._mixed(Gaussian(loc, scale)).columns(order)

    def _mixed(self, found: Gaussian) -> Gaussian:
        mix = self.mix.to(found.loc.device)
        loc = (found.loc.double() @ mix.T).to(found.loc.dtype)
        scale = (found.scale.double().square() @ mix.square().T).sqrt().to(found.scale.dtype)
        return Gaussian(loc, scale)


class Turned(Mixed):
    """Pairs of columns turned in their plane.

    Args:
        inner: the model.
        pairs: columns, each in one pair at most.
        degrees: the angle.
    """

    def __init__(self, inner: FullModel, pairs: Sequence[tuple[int, int]], degrees: float) -> None:
        turn = torch.eye(inner.layout.dim, dtype=torch.float64)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        for a, b in pairs:
            turn[a, a] = turn[b, b] = cos
            turn[a, b], turn[b, a] = -sin, sin
        super().__init__(inner, turn, turn.T)


def part_of_a_turn(dim: int, share: float, generator: np.random.Generator) -> Floats:
    """A share of the way from no rotation to one at random, along the straightest way, shape (D, D).

    >>> turn = part_of_a_turn(3, 1.0, np.random.default_rng(0))
    >>> np.allclose(turn @ turn.T, np.eye(3)), np.allclose(part_of_a_turn(3, 0.0, np.random.default_rng(0)), np.eye(3))
    (True, True)
    """
    whole = special_ortho_group.rvs(dim, random_state=generator) if dim > 1 else np.eye(1)
    # of a rotation the logarithm is real and skew; rounding leaves a hair of something else
    skew = np.real(logm(whole))
    return np.asarray(expm(share * (skew - skew.T) / 2))


def own_pairs(layout: LatentLayout, names: Sequence[str]) -> list[tuple[int, int]]:
    """The first columns of the characteristics, two and two in their order; an odd last one stays.

    >>> own_pairs(LatentLayout(5, {"a": (0, 1), "b": (2,), "c": (3,)}), ["a", "b", "c"])
    [(0, 2)]
    """
    firsts = [layout[name][0] for name in names]
    return list(zip(firsts[::2], firsts[1::2], strict=False))


def style_pairs(layout: LatentLayout, names: Sequence[str]) -> list[tuple[int, int]]:
    """The first column of each characteristic with a style column of its own, as far as there are."""
    return list(zip((layout[name][0] for name in names), layout.style, strict=False))


def inner_pairs(columns: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """Columns of the same characteristic, two and two.

    >>> inner_pairs({"a": (1, 2, 3), "b": (7,)})
    [(1, 2)]
    """
    return [pair for own in columns.values() for pair in zip(own[::2], own[1::2], strict=False)]


class Shuffled(PerturbedModel):
    """A share of the images is given the code of another image.

    The images that are given another's code are those whose own number, which belongs to the image, lies below the
    share, so that each step spoils those of the step before and some more. Among them codes go round in a circle, in
    an order that belongs to the seed: no code occurs twice, none stays.

    Args:
        inner: the model.
        posterior: of the images that there are.
        digests: theirs, from :func:`digests_of`.
        ids: theirs.
        share: from 0 to 1.
        seed: of the order.
    """

    def __init__(
        self, inner: FullModel, posterior: Gaussian, digests: Sequence[bytes], ids: Ids, share: float, seed: int = 0
    ) -> None:
        super().__init__(inner)
        self.posterior = posterior
        self._row = {digest: row for row, digest in enumerate(digests)}
        self.source = shuffled_rows(ids, share, seed)

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """Another's posterior for the images that are chosen.

        Raises:
            DataError: an image that is not among those that were shown.
        """
        del labels
        rows = [self._row.get(digest, -1) for digest in digests_of(images)]
        if -1 in rows:
            raise DataError("the saboteur was not shown this image", hint="It reads only what it was bound to.")
        found = self.posterior.rows(torch.from_numpy(self.source[np.array(rows)]))
        return Gaussian(found.loc.to(images.device), found.scale.to(images.device))


def shuffled_rows(ids: Ids, share: float, seed: int) -> NDArray[np.int64]:
    """Whose code each image gets, shape (N,): its own, or among those that are chosen the next one's in a circle.

    >>> shuffled_rows(np.arange(3), 0.0, 0).tolist(), sorted(shuffled_rows(np.arange(3), 1.0, 0).tolist())
    ([0, 1, 2], [0, 1, 2])
    """
    rows = np.arange(len(ids))
    chosen = np.flatnonzero(uniforms(seed, "shuffle", ids, 1)[:, 0] < share)
    circle = chosen[numpy_stream(seed, "shuffle/order").permutation(len(chosen))]
    rows[circle] = np.roll(circle, 1)
    return rows


def digests_of(images: Images) -> list[bytes]:
    """Eight bytes that stand for each picture, in steps of 1/255."""
    pixels = (images * BYTE).round().to(torch.uint8).cpu().contiguous().numpy()
    return [blake2b(picture.tobytes(), digest_size=8).digest() for picture in pixels]


class Shifted(PerturbedModel):
    """p(z_c|y) moved in every column by a number of its own deviations.

    Args:
        inner: the model.
        deviations: how far.
    """

    def __init__(self, inner: FullModel, deviations: float) -> None:
        super().__init__(inner)
        self.deviations = deviations

    def conditional_prior(self, labels: Labels) -> Gaussian:
        own = self.inner.conditional_prior(labels)
        return Gaussian(own.loc + self.deviations * own.scale, own.scale)


class Collapsed(PerturbedModel):
    """p(z_c|y) shrunk around its mean: draws lie closer and closer together, until they are one.

    Args:
        inner: the model.
        share: from 0 (as it was) to 1 (a point).
    """

    def __init__(self, inner: FullModel, share: float) -> None:
        super().__init__(inner)
        self.share = share

    def conditional_prior(self, labels: Labels) -> Gaussian:
        own = self.inner.conditional_prior(labels)
        return Gaussian(own.loc, own.scale * (1 - self.share))


def class_shares(classes: NDArray[np.int64], cardinality: int) -> Floats:
    """How frequent each class is, shape (K,); unknown ones (-1) do not count."""
    counts = np.bincount(classes[classes >= 0], minlength=cardinality)
    return np.asarray(counts / max(counts.sum(), 1))


HAIR = 1e-9


class Correlated(PerturbedModel):
    r"""The first columns of binary labels, each bent into a standard normal one, then correlated two and two.

    .. math:: g = \Phi^{-1}(F(u)), \quad z_a = g_a, \quad z_b = \rho g_a + \sqrt{1 - \rho^2} g_b

    F is u's distribution over both classes, so that each column tells its label as well as before, and two that belong
    together are exactly jointly normal: what their dependence amounts to is known in closed form.

    Args:
        originals: the images, with the oracle.
        pairs: labels, two and two.
        correlation: rho, below 1.
    """

    def __init__(self, originals: ReferenceImages, pairs: Sequence[tuple[str, str]], correlation: float) -> None:
        super().__init__(originals.oracle)
        self.pairs, self.correlation = tuple(pairs), correlation
        self.rest = math.sqrt(1 - correlation**2)
        self.column, self.present = {}, {}
        for name in (name for pair in pairs for name in pair):
            block = originals.block(name)
            self.column[name] = block.shown[0]
            self.present[name] = float((originals.classes[:, block.place] == 1).mean())

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        found = self.inner.encode(images, labels)
        loc = found.loc.double()
        for name, column in self.column.items():
            loc[:, column] = torch.from_numpy(bent(loc[:, column].cpu().numpy(), self.present[name])).to(loc.device)
        for a, b in self._columns():
            loc[:, b] = self.correlation * loc[:, a] + self.rest * loc[:, b]
        return Gaussian(loc.to(found.loc.dtype), found.scale)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(self.straight(codes))

    def predict(self, images: Images, codes: Codes) -> dict[str, Tensor | Gaussian]:
        return dict(self.inner.predict(images, self.straight(codes)))

    def straight(self, codes: Codes) -> Codes:
        """Codes that the oracle decodes to the same picture: of u only the class is left."""
        z = codes.double()
        for a, b in self._columns():
            z[:, b] = (z[:, b] - self.correlation * z[:, a]) / self.rest
        for name, column in self.column.items():
            absent = float(ndtri(np.clip(1 - self.present[name], HAIR, 1 - HAIR)))
            z[:, column] = torch.where(z[:, column] > absent, MEAN, -MEAN)
        return z.to(codes.dtype)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """With the mean and deviation that a column has in its class: a normal one that was cut."""
        own = self.inner.conditional_prior(labels)
        order = self.layout.characteristic_columns
        loc, scale = own.loc.clone(), own.scale.clone()
        moments: dict[int, tuple[Tensor, Tensor]] = {}
        for name, column in self.column.items():
            known = labels[:, self.labels.index(name)]
            means, deviations = (torch.from_numpy(x).to(loc) for x in half_normal(self.present[name]))
            classes = known.nan_to_num().long()
            moments[column] = torch.where(known.isnan(), torch.nan, means[classes]), deviations[classes]
        for a, b in self._columns():
            for column, share in ((a, 0.0), (b, self.correlation)):
                rest = math.sqrt(1 - share**2)
                mean, deviation = moments[column]
                place = order.index(column)
                loc[:, place] = share * moments[a][0] + rest * mean
                scale[:, place] = ((share * moments[a][1]) ** 2 + (rest * deviation) ** 2).sqrt()
        return Gaussian(loc, scale)

    def _columns(self) -> list[tuple[int, int]]:
        return [(self.column[a], self.column[b]) for a, b in self.pairs]


def bent(u: Floats, present: float) -> Floats:
    """u as a standard normal column, if a share of it lies around +2 and the rest around -2; shape as u.

    >>> bent(np.array([-2.0, 2.0]), 0.5).round(3).tolist()
    [-0.674, 0.674]
    """
    low, high = float(ndtr(-REACH)), float(ndtr(REACH))
    absent, there = (np.clip((ndtr((u - mean) / SPREAD) - low) / (high - low), 0.0, 1.0) for mean in (-MEAN, MEAN))
    return np.asarray(ndtri(np.clip((1 - present) * absent + present * there, HAIR, 1 - HAIR)))


def half_normal(present: float) -> tuple[Floats, Floats]:
    """Mean and deviation of a standard normal below and above its quantile 1 - ``present``, shapes (2,).

    >>> [x.round(3).tolist() for x in half_normal(0.5)]
    [[-0.798, 0.798], [0.603, 0.603]]
    """
    share = float(np.clip(present, HAIR, 1 - HAIR))
    cut = float(ndtri(1 - share))
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    means = np.array([-density / (1 - share), density / share])
    squares = 1 + cut * means
    return means, np.sqrt(np.maximum(squares - means**2, HAIR))
