"""Edited images beside those that the data would have drawn: distances inside a mask.

Axioms of counterfactuals, taken through the image: f(x, c, v) = decode(do(c = v) on encode(x)).

Monteiro, De Sousa Ribeiro, Pawlowski, Castro and Glocker, "Measuring axiomatic soundness of counterfactual image
models" (ICLR 2023): composition asks that nothing happens where nothing is changed, reversibility that there and back
is where one was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import HasCounterfactuals, HasVariety
from ccvae_eval.evaluation.interventions import Do, by_model, donor_rows
from ccvae_eval.evaluation.subject import Chunk, Subject
from ccvae_eval.metrics.shared.image_change import absolute_change
from ccvae_eval.model.interface import Intervenes


def distance(before: Images, after: Images, where: Bools | None = None) -> Floats:
    r"""Mean absolute difference of two images over pixels and channels, shape :math:`(N,)`, intensity.

    Args:
        before, after: shape :math:`(N, C, H, W)`.
        where: the pixels that count, shape :math:`(N, H W)`; None = all.

    Returns:
        NaN where no pixel counts.

    >>> one, other = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    >>> distance(one, other), distance(one, other, np.array([[True, False]]))
    (array([0.5]), array([1.]))
    """
    change = absolute_change(before, after).double().cpu().numpy()
    if where is None:
        return np.asarray(change.mean(1))
    size = where.sum(1)
    return np.where(size > 0, (change * where).sum(1) / np.maximum(size, 1), np.nan)


def energy_distance(drawn: Sequence[Images], true: Sequence[Images], where: Bools) -> Floats:
    r"""How far two families of images lie apart, image by image, shape :math:`(N,)`.

    .. math:: \frac{1}{ST} \sum_{s,t} d(x_s, y_t) - \frac{1}{2 S (S-1)} \sum_{s \ne s'} d(x_s, x_{s'})
        - \frac{1}{2 T (T-1)} \sum_{t \ne t'} d(y_t, y_{t'})

    with d of :func:`distance`. Its mean is 0 where both are draws of one law (Székely and Rizzo 2013), and it may be
    negative. The energy score of the draws minus that of true draws of the same law.

    Args:
        drawn, true: S and T images of each row, each of shape :math:`(N, C, H, W)`.
        where: the pixels that count, shape :math:`(N, H W)`.
    """
    across = np.mean([distance(x, y, where) for x in drawn for y in true], axis=0)
    return np.asarray(across - (_within(drawn, where) + _within(true, where)) / 2)


def _within(images: Sequence[Images], where: Bools) -> Floats:
    pairs = [distance(images[i], images[j], where) for i in range(len(images)) for j in range(i)]
    return np.asarray(np.mean(pairs, axis=0))


def with_donors_look(subject: Subject, name: str, chunk: Chunk, rows: Bools) -> Images:
    """The recipients rendered with their donors' class and variety of one label, on the subject's device."""
    data = subject.data
    assert isinstance(data, HasVariety)
    donors = donor_rows(subject, name)[chunk.rows].numpy()[rows]
    ids, theirs = chunk.ids[rows], subject.ids[donors]
    value = subject.classes(name).numpy()[donors].astype(np.float32)
    return data.with_variety(ids, {name: value}, {name: data.variety(theirs, name)}).to(subject.device)


def without(subject: Subject, name: str, chunk: Chunk, rows: Bools) -> Images:
    """Some images of a chunk without a binary attribute, on the subject's device."""
    data = subject.data
    assert isinstance(data, HasCounterfactuals)
    return data.with_attribute(chunk.ids[rows], name, np.zeros(int(rows.sum()), np.float32)).to(subject.device)


def reconstructed(subject: Subject, name: str, chunk: Chunk, rows: Bools, images: Images, value: int) -> Images:
    """Other images in the place of some of a chunk: encoded with the posterior noise of those, and decoded.

    An encoder that takes labels is told that the label has this value.
    """
    chosen = torch.from_numpy(np.flatnonzero(rows))
    labels = subject.labels[chunk.rows][chosen].clone()
    labels[:, subject.schema.index(name)] = value
    noise = subject.noise("posterior", chunk.ids[rows], subject.layout.dim)
    return subject.decode(subject.encode(images, labels).at(noise))


def inside_of(region: Tensor | None, largest: float) -> Bools | None:
    """A region's pixels, shape (N, H W), none for an image whose region is empty or too large; None = no region."""
    if region is None:
        return None
    pixels: Bools = region.flatten(1).numpy()
    share = pixels.mean(1, keepdims=True)
    return np.asarray(pixels & (share > 0) & (share <= largest))


def composition(subject: Subject, chunk: Chunk, repeats: Sequence[int]) -> Mapping[int, Floats]:
    """The distance from x of what m times encoding and decoding makes of it, for each m; shape (n,) each.

    do(c = now) by transport is the identity on codes, whatever c.
    """
    found, image = {}, chunk.images
    for turn in range(1, max(repeats) + 1):
        image = subject.decode(subject.encode(image, subject.labels[chunk.rows]).loc)
        if turn in repeats:
            found[turn] = distance(chunk.images, image)
    return found


def reversibility(subject: Subject, chunk: Chunk, do: Do, repeats: Sequence[int]) -> Mapping[int, Floats]:
    """The distance from x after m times there (to the class drawn for it) and back, re-encoding every time."""
    name, found, image = do.characteristic, {}, chunk.images
    now, then = subject.current_class(name)[chunk.rows], subject.target_class(name)[chunk.rows]
    for turn in range(1, max(repeats) + 1):
        image = _moved(subject, chunk, do, image, now, then)
        image = _moved(subject, chunk, do, image, then, now)
        if turn in repeats:
            found[turn] = distance(chunk.images, image)
    return found


def _moved(subject: Subject, chunk: Chunk, do: Do, images: Images, now: Tensor, then: Tensor) -> Images:
    """f of some images in the place of a chunk's: what they show now, and what they shall show."""
    labels = subject.labels[chunk.rows].clone()
    column = subject.schema.index(do.characteristic)
    labels[:, column] = torch.where(now >= 0, now.to(labels.dtype), labels[:, column])
    posterior = subject.encode(images, labels)
    seen = Chunk(chunk.rows, chunk.ids, images, posterior, posterior.loc)
    if isinstance(subject.model, Intervenes):
        return subject.decode(by_model(subject, seen, {do.characteristic: then}))
    return subject.decode(do.between(subject, seen, now, then)[0])
