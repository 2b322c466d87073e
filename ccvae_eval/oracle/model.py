r"""The oracle: the renderer of a synthetic data set as a perfectly disentangled model (docs/metrics.md, section 9).

Its code (``Coding``) consists of the factors of the picture. A binary label has latent dimensions (u, v, ...):
u | y = +-2 + 0.5 e, with e standard normal, truncated at +-4 so that u > 0 if and only if the attribute is present; v
are the normal scores of its variety parameters, whether or not the attribute is visible. A categorical label has one u
for each class, +2 + 0.5 e for the image's class and -2 + 0.5 e for the others, and the greatest u is its class: all
classes are equally far apart, and no path between two of them passes through a third. The style dimensions are the
normal scores of all other factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from ccvae_eval.core.errors import DataError, UnsupportedError
from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Bools, Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import QUANTIZATION_LEVELS, DataSet, Renders, quantize
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout, supports

MEAN = 2.0
SPREAD = 0.5
REACH = MEAN / SPREAD
"""Bound at which the noise e is truncated on both sides, so that u keeps its sign."""

DEVIATION = SPREAD * math.sqrt(
    1 - 2 * REACH * math.exp(-(REACH**2) / 2) / math.sqrt(2 * math.pi) / (1 - 2 * float(ndtr(-REACH)))
)
"""Standard deviation of u within a class: 0.49973, since e is truncated."""

STYLE = "style"

Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """The latent dimensions of one label.

    Args:
        label: the label.
        place: its column among the data's labels.
        shown: the dimensions u: one for a binary label, one for each class of a categorical label.
        variety: the dimensions v: one for each variety parameter.
        factors: columns of these parameters among the data's factors.
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
        """Mean of u in each class, shape (K, 1) for a binary label, else (K, K)."""
        if self.label.kind == "binary":
            return np.array([[-MEAN], [MEAN]])
        return MEAN * (2 * np.eye(self.label.cardinality) - 1)


@dataclass(frozen=True)
class Coding:
    """Bijection between codes and the factors, classes and noise that they encode.

    Args:
        blocks: one for each label of the data.
        style: latent dimensions of the remaining factors.
        style_factors: columns of these among the data's factors.
    """

    blocks: tuple[Block, ...]
    style: tuple[int, ...]
    style_factors: tuple[int, ...]

    @classmethod
    def of(cls, data: Renders, schema: LabelSchema) -> Coding:
        """The coding of a synthetic data set.

        Raises:
            UnsupportedError: a label is continuous.
        """
        names = list(data.factor_names)
        blocks, start = [], 0
        for place, label in enumerate(schema):
            if label.kind == "continuous":
                raise UnsupportedError("the oracle supports no continuous labels", where=label.name)
            shown = 1 if label.kind == "binary" else label.cardinality
            factors = tuple(names.index(f"{label.name}.{name}") for name in data.variety_names(label.name))
            middle, end = start + shown, start + shown + len(factors)
            blocks.append(Block(label, place, tuple(range(start, middle)), tuple(range(middle, end)), factors))
            start = end
        taken = {factor for block in blocks for factor in block.factors}
        style = tuple(factor for factor in range(len(names)) if factor not in taken)
        return cls(tuple(blocks), tuple(range(start, start + len(style))), style)

    @property
    def dim(self) -> int:
        return len(self.style) + sum(len(block.columns) for block in self.blocks)

    @property
    def noise_size(self) -> int:
        """Number of draws of e for one image."""
        return sum(len(block.shown) for block in self.blocks)

    def layout(self, labels: LabelSchema) -> LatentLayout:
        """The layout with some of the labels as characteristics; the dimensions of the others count as style."""
        columns = {block.label.name: block.columns for block in self.blocks}
        return LatentLayout(self.dim, MappingProxyType({name: columns[name] for name in labels.names}))

    def codes(self, factors: Floats, classes: Classes, noise: Floats) -> Codes:
        """Codes of factors and classes, float32, shape (N, D).

        Args:
            factors: quantized factors, shape (N, F).
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
        """Quantized factors that the codes encode, shape (N, F)."""
        z = codes.double().cpu().numpy()
        factors = np.empty((len(z), len(self.style) + sum(len(block.variety) for block in self.blocks)))
        for block in self.blocks:
            factors[:, list(block.factors)] = ndtr(z[:, list(block.variety)])
        factors[:, list(self.style_factors)] = ndtr(z[:, list(self.style)])
        return quantize(factors)

    def classes(self, codes: Codes) -> Classes:
        """Classes that the codes encode, shape (N, L): [u > 0], or the class with the greatest u."""
        predicted = [self.log_probabilities(block, codes).argmax(1) for block in self.blocks]
        return torch.stack(predicted, 1).cpu().numpy().astype(np.int64)

    def log_probabilities(self, block: Block, codes: Codes) -> Tensor:
        r"""Log-probabilities of one label by Bayes' rule with equal classes, shape (N, K).

        .. math:: \log p(y = k | u) = 4 m u_k / (2 s^2) + const, \quad m = 2, s = 0.5

        (The likelihoods are those of the Gaussians without truncation.)
        """
        u = codes[:, list(block.shown)] * (2 * MEAN / SPREAD**2)
        return torch.log_softmax(torch.cat([-u / 2, u / 2], 1) if block.label.kind == "binary" else u, 1)


VERSION = 1
"""Version of the oracle's code, part of the names of its references."""

MAX_RENDERED = 2**16
"""Pictures of its own rendering that the oracle can encode: the latest ones."""

READ_AT_ONCE = 512
PROBE_IMAGES = 4
BYTE = 255


class DrawnImages(DataSet, Renders, Protocol):
    """A synthetic data set, which renders its images."""


class Oracle:
    """The perfectly disentangled model of a synthetic data set; create it with :func:`oracle`.

    It satisfies ``LabelledVAE``, ``Predicts`` and ``HasConditionalPrior``. Decoding renders the picture of a code.
    Encoding looks the picture up by its digest, among the images of the data set that it was given and the latest
    pictures that it rendered, so ``decode(encode(x).loc)`` equals x in every pixel.

    A code depends on the picture alone, not on earlier calls. The noise of u is seeded by the picture's digest. The
    variety of an attribute that is not visible (the glasses of a face without glasses) is that of the given image with
    the same style; without such an image it is seeded by the digest, too.

    Posteriors are point masses. ``conditional_prior`` is the Gaussian with the mean and standard deviation of u,
    without the truncation: six in a hundred thousand of its draws lie outside the range of u.

    Attributes:
        coding: the meaning of the latent dimensions.
        hidden: for each label of the data and each of its classes, True if its variety is not visible.
    """

    def __init__(self, data: DrawnImages, ids: Ids, labels: LabelSchema) -> None:
        self.data, self.labels = data, labels
        self.coding = Coding.of(data, data.schema)
        self.layout = self.coding.layout(labels)
        self.hidden = _hidden_varieties(data, self.coding, ids[:PROBE_IMAGES])
        self._rendered: dict[bytes, bytes] = {}
        self._given: dict[bytes, bytes] = {}
        self._by_style: dict[bytes, bytes] = {}
        for first in range(0, len(ids), READ_AT_ONCE):
            self._register(ids[first : first + READ_AT_ONCE])

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """The code that each picture was rendered from, as a point mass, shape (N, D).

        Raises:
            DataError: a picture is neither an image that the oracle was given nor one that it rendered.
        """
        del labels
        digests = image_digests(images)
        rows = [self._given.get(digest) or self._rendered.get(digest) for digest in digests]
        if None in rows:
            raise DataError(
                "the oracle cannot encode an unknown picture",
                where=self.data.spec,
                hint="It encodes only the images that it was given and pictures that it rendered itself.",
            )
        steps, classes = self._unpacked([row for row in rows if row is not None])
        keys = [int.from_bytes(digest, "little") for digest in digests]
        factors = self._with_hidden(steps, classes, keys)
        noise = uniforms(0, "oracle/u", keys, self.coding.noise_size)
        loc = self.coding.codes(factors, classes, noise).to(images.device)
        return Gaussian(loc, torch.zeros_like(loc))

    def decode(self, codes: Codes) -> Images:
        """The picture of each code: the attributes with u > 0 in their variety v, rendered in the code's style."""
        factors, classes = self.coding.factors(codes), self.coding.classes(codes)
        images = self.data.render(factors, classes.astype(np.float32))
        self.remember(images, factors, classes)
        return images.to(codes.device)

    def remember(self, images: Images, factors: Floats, classes: Classes) -> None:
        """Stores the factors and classes of rendered pictures, so that they can be encoded later."""
        for digest, row in zip(image_digests(images), _packed(factors, classes), strict=True):
            self._rendered.pop(digest, None)
            self._rendered[digest] = row
        while len(self._rendered) > MAX_RENDERED:
            del self._rendered[next(iter(self._rendered))]

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """Log-probabilities of each label by Bayes' rule on u with equal classes, shape (N, K)."""
        del images
        return {block.label.name: self.coding.log_probabilities(block, codes) for block in self._blocks}

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y): u around its class mean, v standard normal; the mean of u is NaN where the label is missing."""
        loc, scale = [], []
        for block in self._blocks:
            known = labels[:, self.labels.index(block.label.name)]
            means = torch.from_numpy(block.means()).to(labels)[known.nan_to_num().long()]
            zeros = labels.new_zeros(len(labels), len(block.variety))
            loc += [torch.where(known.isnan()[:, None], torch.nan, means), zeros]
            scale += [torch.full_like(means, DEVIATION), torch.ones_like(zeros)]
        return Gaussian(torch.cat(loc, 1), torch.cat(scale, 1))

    @property
    def _blocks(self) -> list[Block]:
        """The blocks of the characteristics, in the layout's order."""
        by_name = {block.label.name: block for block in self.coding.blocks}
        return [by_name[name] for name in self.labels.names]

    def _register(self, ids: Ids) -> None:
        """Stores the factors and classes of images of the data set."""
        factors = quantize(self.data.factors(ids))
        classes = self.data.labels_of(ids).astype(np.int64)
        rows = _packed(factors, classes)
        self._given.update(zip(image_digests(self.data.batch(ids).images), rows, strict=True))
        self._by_style.update(zip(self._styles(_steps(factors)), rows, strict=True))

    def _styles(self, steps: NDArray[np.uint32]) -> list[bytes]:
        return [row.tobytes() for row in np.ascontiguousarray(steps[:, list(self.coding.style_factors)])]

    def _unpacked(self, rows: list[bytes]) -> tuple[NDArray[np.uint32], Classes]:
        table = np.frombuffer(b"".join(rows), np.uint32).reshape(len(rows), -1)
        count = len(self.coding.blocks)
        return table[:, :-count], table[:, -count:].astype(np.int64)

    def _with_hidden(self, steps: NDArray[np.uint32], classes: Classes, keys: list[int]) -> Floats:
        """The factors, with an invisible variety replaced by one that depends on the picture alone."""
        same_style = [self._by_style.get(style) for style in self._styles(steps)]
        known = np.array([row is not None for row in same_style])
        invisible = quantize(uniforms(0, "oracle/hidden", keys, steps.shape[1]))
        if known.any():
            invisible[known] = _factors(self._unpacked([row for row in same_style if row is not None])[0])
        factors = _factors(steps)
        for block, hidden in zip(self.coding.blocks, self.hidden, strict=True):
            rows = np.flatnonzero(hidden[classes[:, block.place]])
            place = rows[:, None], np.array(block.factors, np.int64)  # may be empty
            factors[place] = invisible[place]
        return factors


def oracle(data: DataSet, ids: Ids | None = None, labels: LabelSchema | None = None) -> Oracle:
    """The oracle of a synthetic data set.

    Args:
        data: a data set that renders its images (``Renders``).
        ids: the images that it can encode; None = the ``test`` split. They are rendered once.
        labels: the labels that become characteristics, in this order; None = all labels of the data.

    Raises:
        UnsupportedError: the data set does not render its images, or has a continuous label.
        LabelMismatchError: the data set lacks one of the labels.
    """
    if not supports(data, Renders):
        raise UnsupportedError("an oracle needs synthetic data", where=data.spec)
    assert supports(data, DataSet)
    schema = data.schema if labels is None else data.schema.select(labels.names)
    return Oracle(data, data.split("test") if ids is None else ids, schema)


def _steps(factors: Floats) -> NDArray[np.uint32]:
    return np.floor(factors * QUANTIZATION_LEVELS).astype(np.uint32)


def _factors(steps: NDArray[np.uint32]) -> Floats:
    return (steps + 0.5) / QUANTIZATION_LEVELS


def _packed(factors: Floats, classes: Classes) -> list[bytes]:
    table = np.concatenate([_steps(factors), classes.astype(np.uint32)], axis=1)
    return [row.tobytes() for row in table]


def image_digests(images: Images) -> list[bytes]:
    """Digest of eight bytes of each picture, in steps of 1/255."""
    pixels = (images * BYTE).round().to(torch.uint8).cpu().contiguous().numpy()
    return [blake2b(picture.tobytes(), digest_size=8).digest() for picture in pixels]


def _hidden_varieties(data: DrawnImages, coding: Coding, ids: Ids) -> list[Bools]:
    """For each label and class, True if its variety is not visible: two varieties render the same picture."""
    factors, labels = quantize(data.factors(ids)), data.labels_of(ids)
    cases = [(block, k) for block in coding.blocks for k in range(block.label.cardinality)]
    before = np.tile(factors, (len(cases), 1))
    after, chosen = before.copy(), np.tile(labels, (len(cases), 1))
    for case, (block, k) in enumerate(cases):
        rows = slice(case * len(ids), (case + 1) * len(ids))
        after[rows, list(block.factors)] = quantize((factors[:, list(block.factors)] + 0.5) % 1)
        chosen[rows, block.place] = k
    same = (data.render(before, chosen) == data.render(after, chosen)).flatten(1).all(1).numpy()
    hidden = same.reshape(len(cases), len(ids)).all(1)
    return np.split(hidden, np.cumsum([block.label.cardinality for block in coding.blocks])[:-1])
