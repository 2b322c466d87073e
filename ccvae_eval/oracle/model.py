r"""The oracle: a model that is perfectly disentangled because it is the drawing programme itself.

See docs/metrics.md, section 9.

Its code is what the picture was drawn from. A binary label owns the columns (u, v...): u | y = +-2 + .5 e, with e
standard normal and cut at +-4 so that sign(u) = sign(y), and v the normal scores of its variety, drawn whether or not
the attribute shows. A categorical label has one u for each class, +2 + .5 e for its own and -2 + .5 e for the others,
and its class is the greatest of them: classes lie at equal distances from each other, and the way from one to another
leads past no third. Style columns are the normal scores of all other factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.errors import DataError, UnsupportedError
from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Bools, Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import DataSet, Renders
from ccvae_eval.data.quantize import LATTICE, on_lattice
from ccvae_eval.model.interface import LabelSchema, LatentLayout
from ccvae_eval.oracle.code import DEVIATION, Block, Classes, Coding

VERSION = 1
REMEMBERED = 2**16
"""How many pictures of its own drawing it knows again: the last ones. Those it is bound to it never forgets."""
READ_AT_ONCE = 512
PROBES = 4
BYTE = 255


class DrawnImages(DataSet, Renders, Protocol):
    """A data set that draws its images."""


class Oracle:
    """The model of perfect disentanglement on a drawn data set; make it with :func:`oracle`.

    It satisfies ``LabelledVAE``, ``Predicts`` and ``HasConditionalPrior``. Decoding draws; encoding recognises a
    picture, by its digest, among those it was bound to and those it has drawn. So ``decode(encode(x).loc)`` is x in
    every pixel, and a code is a function of the picture alone: u's noise belongs to its digest, and a variety that
    does not show (the glasses of a face without) is that of the image with the same style, or else belongs to the
    digest too. Nothing depends on what was drawn before.

    Posteriors are point masses. ``conditional_prior`` is the Gaussian with mean and deviation of the law of u; what it
    lacks is the cut: six in a hundred thousand of its draws lie where u never does.
    """

    def __init__(self, data: DrawnImages, ids: Ids, labels: LabelSchema) -> None:
        self.data, self.labels = data, labels
        self.coding = Coding.of(data, data.schema)
        self._layout = self.coding.layout(labels)
        self._own: dict[bytes, bytes] = {}
        self._bound: dict[bytes, bytes] = {}
        self._of_style: dict[bytes, bytes] = {}
        self._hidden = _hidden(data, self.coding, ids[:PROBES])
        for first in range(0, len(ids), READ_AT_ONCE):
            self._bind(ids[first : first + READ_AT_ONCE])

    @property
    def layout(self) -> LatentLayout:
        return self._layout

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """The code that each picture was drawn from, as a point mass.

        Raises:
            DataError: a picture that is neither bound nor drawn.
        """
        del labels
        digests = _digests(images)
        rows = [self._bound.get(digest) or self._own.get(digest) for digest in digests]
        if None in rows:
            raise DataError(
                "the oracle does not know a picture",
                where=self.data.spec,
                hint="It reads only what it was bound to or has drawn.",
            )
        steps, classes = self._unpacked([row for row in rows if row is not None])
        keys = [int.from_bytes(digest, "little") for digest in digests]
        factors = self._with_hidden(steps, classes, keys)
        noise = uniforms(0, "oracle/u", keys, self.coding.noise_size)
        loc = self.coding.codes(factors, classes, noise).to(images.device)
        return Gaussian(loc, torch.zeros_like(loc))

    def decode(self, codes: Codes) -> Images:
        """The picture of each code: the attributes with u > 0 in the variety v, on the face that the style says."""
        factors, classes = self.coding.factors(codes), self.coding.classes(codes)
        images = self.data.render(factors, classes.astype(np.float32))
        self.remember(images, factors, classes)
        return images.to(codes.device)

    def remember(self, images: Images, factors: Floats, classes: Classes) -> None:
        """Takes note of pictures and of what each was made from, so that it can read them later."""
        for digest, row in zip(_digests(images), _packed(factors, classes), strict=True):
            self._own.pop(digest, None)
            self._own[digest] = row
        while len(self._own) > REMEMBERED:
            del self._own[next(iter(self._own))]

    @property
    def hidden(self) -> list[Bools]:
        """For each label of the data, for each of its classes: whether its variety stays out of sight."""
        return self._hidden

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """Bayes' rule on u, with equal classes: log-probabilities (N, K) of each label."""
        del images
        return {block.label.name: self.coding.log_probabilities(block, codes) for block in self._blocks}

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y): u around the mean of its class, v standard normal; NaN in u where the label is missing."""
        loc, scale = [], []
        for block in self._blocks:
            known = labels[:, self.labels.index(block.label.name)]
            means = torch.from_numpy(block.means()).to(labels)[known.nan_to_num().long()]
            loc += [
                torch.where(known.isnan()[:, None], torch.nan, means),
                labels.new_zeros(len(labels), len(block.variety)),
            ]
            scale += [torch.full_like(means, DEVIATION), labels.new_ones(len(labels), len(block.variety))]
        return Gaussian(torch.cat(loc, 1), torch.cat(scale, 1))

    @property
    def _blocks(self) -> list[Block]:
        """The blocks of the labels that count, in the layout's order."""
        by_name = {block.label.name: block for block in self.coding.blocks}
        return [by_name[name] for name in self.labels.names]

    def _bind(self, ids: Ids) -> None:
        factors = on_lattice(self.data.factors(ids))
        classes = self.data.labels_of(ids).astype(np.int64)
        rows = _packed(factors, classes)
        self._bound.update(zip(_digests(self.data.batch(ids).images), rows, strict=True))
        self._of_style.update(zip(self._styles(_steps(factors)), rows, strict=True))

    def _styles(self, steps: NDArray[np.uint32]) -> list[bytes]:
        return [row.tobytes() for row in np.ascontiguousarray(steps[:, list(self.coding.style_factors)])]

    def _unpacked(self, rows: list[bytes]) -> tuple[NDArray[np.uint32], Classes]:
        table = np.frombuffer(b"".join(rows), np.uint32).reshape(len(rows), -1)
        count = len(self.coding.blocks)
        return table[:, :-count], table[:, -count:].astype(np.int64)

    def _with_hidden(self, steps: NDArray[np.uint32], classes: Classes, keys: list[int]) -> Floats:
        """The factors, with a variety that no picture shows taken from where it does not depend on the past."""
        own = [self._of_style.get(style) for style in self._styles(steps)]
        known = np.array([row is not None for row in own])
        elsewhere = on_lattice(uniforms(0, "oracle/hidden", keys, steps.shape[1]))
        if known.any():
            elsewhere[known] = _factors(self._unpacked([row for row in own if row is not None])[0])
        factors = _factors(steps)
        for block, hidden in zip(self.coding.blocks, self._hidden, strict=True):
            rows = np.flatnonzero(hidden[classes[:, block.place]])
            place = rows[:, None], np.array(block.factors)
            factors[place] = elsewhere[place]
        return factors


def oracle(data: DataSet, ids: Ids | None = None, labels: LabelSchema | None = None) -> Oracle:
    """The oracle of a drawn data set.

    Args:
        data: a data set that draws its images (``Renders``).
        ids: the images that it will be shown; the ``test`` split, if None. They are drawn once, 2,500 a second.
        labels: the labels that are its characteristics, in this order; all of the data's, if None.

    Raises:
        UnsupportedError: the data cannot be drawn, or have a continuous label.
        LabelMismatchError: the data lack one of the labels.
    """
    if not isinstance(data, Renders):
        raise UnsupportedError("there is no oracle for data that cannot be drawn", where=data.spec)
    assert isinstance(data, DataSet)
    schema = data.schema if labels is None else data.schema.select(labels.names)
    return Oracle(data, data.split("test") if ids is None else ids, schema)


def _steps(factors: Floats) -> NDArray[np.uint32]:
    return np.floor(factors * LATTICE).astype(np.uint32)


def _factors(steps: NDArray[np.uint32]) -> Floats:
    return (steps + 0.5) / LATTICE


def _packed(factors: Floats, classes: Classes) -> list[bytes]:
    table = np.concatenate([_steps(factors), classes.astype(np.uint32)], axis=1)
    return [row.tobytes() for row in table]


def _digests(images: Images) -> list[bytes]:
    """Eight bytes that stand for each picture, in steps of 1/255."""
    pixels = (images * BYTE).round().to(torch.uint8).cpu().contiguous().numpy()
    return [blake2b(picture.tobytes(), digest_size=8).digest() for picture in pixels]


def _hidden(data: DrawnImages, coding: Coding, ids: Ids) -> list[Bools]:
    """For each label and class whether its variety stays out of sight, found by drawing two varieties of each."""
    factors, labels = on_lattice(data.factors(ids)), data.labels_of(ids)
    cases = [(block, k) for block in coding.blocks for k in range(block.label.cardinality)]
    before = np.tile(factors, (len(cases), 1))
    after, chosen = before.copy(), np.tile(labels, (len(cases), 1))
    for case, (block, k) in enumerate(cases):
        rows = slice(case * len(ids), (case + 1) * len(ids))
        after[rows, list(block.factors)] = on_lattice((factors[:, list(block.factors)] + 0.5) % 1)
        chosen[rows, block.place] = k
    same = (data.render(before, chosen) == data.render(after, chosen)).flatten(1).all(1).numpy()
    hidden = same.reshape(len(cases), len(ids)).all(1)
    return np.split(hidden, np.cumsum([block.label.cardinality for block in coding.blocks])[:-1])
