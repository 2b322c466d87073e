"""The oracle's code: which columns say what, and the laws that they follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from ccvae_eval.core.errors import UnsupportedError
from ccvae_eval.core.types import Codes, Floats
from ccvae_eval.data.interface import Renders
from ccvae_eval.data.quantize import on_lattice
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout

MEAN = 2.0
SPREAD = 0.5
REACH = MEAN / SPREAD
"""Where the noise e is cut, on both sides: u never changes its sign."""

DEVIATION = SPREAD * math.sqrt(
    1 - 2 * REACH * math.exp(-(REACH**2) / 2) / math.sqrt(2 * math.pi) / (1 - 2 * float(ndtr(-REACH)))
)
"""Standard deviation of u within a class: .49973, since e is cut."""

STYLE = "style"

Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """The columns of one label.

    Args:
        label: whose.
        place: its column among the data's labels.
        shown: the columns u: one for a binary label, one for each class of a categorical one.
        variety: the columns v: one for each variety parameter.
        factors: those parameters' places among the data's factors.
    """

    label: Label
    place: int
    shown: tuple[int, ...]
    variety: tuple[int, ...]
    factors: tuple[int, ...]

    @property
    def columns(self) -> tuple[int, ...]:
        return self.shown + self.variety

    def means(self) -> Floats:
        """The mean of u in each class, shape (K, columns of u)."""
        if self.label.kind == "binary":
            return np.array([[-MEAN], [MEAN]])
        return MEAN * (2 * np.eye(self.label.cardinality) - 1)


@dataclass(frozen=True)
class Coding:
    """Factors and classes to codes and back.

    Args:
        blocks: one for each label of the data.
        style: the columns of the remaining factors.
        style_factors: their places among the data's factors.
        count: how many labels the data have.
    """

    blocks: tuple[Block, ...]
    style: tuple[int, ...]
    style_factors: tuple[int, ...]

    @classmethod
    def of(cls, data: Renders, schema: LabelSchema) -> Coding:
        """The coding of a drawn data set."""
        names = list(data.factor_names)
        blocks, column = [], 0
        for place, label in enumerate(schema):
            if label.kind == "continuous":
                raise UnsupportedError("the oracle has no columns for a continuous label", where=label.name)
            shown = 1 if label.kind == "binary" else label.cardinality
            factors = tuple(names.index(f"{label.name}.{name}") for name in data.variety_names(label.name))
            middle, end = column + shown, column + shown + len(factors)
            blocks.append(Block(label, place, tuple(range(column, middle)), tuple(range(middle, end)), factors))
            column = end
        taken = {factor for block in blocks for factor in block.factors}
        style = tuple(factor for factor in range(len(names)) if factor not in taken)
        return cls(tuple(blocks), tuple(range(column, column + len(style))), style)

    @property
    def dim(self) -> int:
        return len(self.style) + sum(len(block.columns) for block in self.blocks)

    @property
    def noise_size(self) -> int:
        """How many draws of e one image needs."""
        return sum(len(block.shown) for block in self.blocks)

    def layout(self, labels: LabelSchema) -> LatentLayout:
        """The characteristics of some of the labels; the columns of the others count as style."""
        columns = {block.label.name: block.columns for block in self.blocks}
        return LatentLayout(self.dim, MappingProxyType({name: columns[name] for name in labels.names}))

    def codes(self, factors: Floats, classes: Classes, noise: Floats) -> Codes:
        """The code of each row.

        Args:
            factors: on the lattice, shape (N, F).
            classes: shape (N, L).
            noise: uniform draws, shape (N, ``noise_size``).
        """
        codes = np.empty((len(factors), self.dim))
        low, high = float(ndtr(-REACH)), float(ndtr(REACH))
        e = ndtri(low + (high - low) * noise)
        first = 0
        for block in self.blocks:
            width = len(block.shown)
            codes[:, list(block.shown)] = block.means()[classes[:, block.place]] + SPREAD * e[:, first : first + width]
            codes[:, list(block.variety)] = ndtri(factors[:, list(block.factors)])
            first += width
        codes[:, list(self.style)] = ndtri(factors[:, list(self.style_factors)])
        return torch.from_numpy(codes.astype(np.float32))

    def factors(self, codes: Codes) -> Floats:
        """The factors that a code says, on the lattice, shape (N, F)."""
        z = codes.double().cpu().numpy()
        factors = np.empty((len(z), len(self.style) + sum(len(block.variety) for block in self.blocks)))
        for block in self.blocks:
            factors[:, list(block.factors)] = ndtr(z[:, list(block.variety)])
        factors[:, list(self.style_factors)] = ndtr(z[:, list(self.style)])
        return on_lattice(factors)

    def classes(self, codes: Codes) -> Classes:
        """The classes that a code says, shape (N, L): [u > 0], or the class of the greatest u."""
        told = [self.log_probabilities(block, codes).argmax(1) for block in self.blocks]
        return torch.stack(told, 1).cpu().numpy().astype(np.int64)

    def log_probabilities(self, block: Block, codes: Codes) -> Tensor:
        r"""Bayes' rule for one label with equal classes and the Gaussians that were cut, shape (N, K).

        .. math:: \log p(y = k | u) = 4 m u_k / (2 s^2) + const, \quad m = 2, s = .5
        """
        u = codes[:, list(block.shown)] * (2 * MEAN / SPREAD**2)
        return torch.log_softmax(torch.cat([-u / 2, u / 2], 1) if block.label.kind == "binary" else u, 1)
