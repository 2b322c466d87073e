"""Codes that depend on each other by a known amount."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from ccvae_eval.calibration.coding import MEAN, REACH, SPREAD
from ccvae_eval.calibration.originals import Originals
from ccvae_eval.calibration.spoilt import Spoilt
from ccvae_eval.types import Codes, Floats, Gaussian, Images, Labels

HAIR = 1e-9


class Correlated(Spoilt):
    r"""The first columns of binary labels, each bent into a standard normal one, then correlated two and two.

    .. math:: g = \Phi^{-1}(F(u)), \quad z_a = g_a, \quad z_b = \rho g_a + \sqrt{1 - \rho^2} g_b

    F is u's distribution over both classes, so that each column tells its label as well as before, and two that belong
    together are exactly jointly normal: what their dependence amounts to is known in closed form.

    Args:
        originals: the images, with the oracle.
        pairs: labels, two and two.
        correlation: rho, below 1.
    """

    def __init__(self, originals: Originals, pairs: Sequence[tuple[str, str]], correlation: float) -> None:
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
