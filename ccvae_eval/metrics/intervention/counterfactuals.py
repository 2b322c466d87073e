"""Comparison of edited images with rendered counterfactuals, and the axioms of counterfactuals.

With f(x, c, v) = decode(do(c = v) on encode(x)), composition states that setting c to its own value leaves x unchanged,
and reversibility that setting c to v and back to its own value does (Monteiro, De Sousa Ribeiro, Pawlowski, Castro and
Glocker, "Measuring axiomatic soundness of counterfactual image models", ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Floats, Images
from ccvae_eval.data.interface import HasCounterfactuals, HasVariety
from ccvae_eval.evaluation.interventions import Do, donor_rows, model_intervention
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.shared.image_change import absolute_change
from ccvae_eval.model.fixed_batches import Chunk
from ccvae_eval.model.interface import Intervenes, supports
from ccvae_eval.statistics.ratios import safe_ratio


def distance(before: Images, after: Images, where: Bools | None = None) -> Floats:
    r"""Mean absolute difference of two images over pixels and channels, shape :math:`(N,)`, intensity.

    Args:
        before, after: shape :math:`(N, C, H, W)`.
        where: mask of the pixels to average over, shape :math:`(N, H W)`; None = all.

    Returns:
        NaN where the mask is empty.

    >>> one, other = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    >>> distance(one, other), distance(one, other, np.array([[True, False]]))
    (array([0.5]), array([1.]))
    """
    change = absolute_change(before, after).double().cpu().numpy()
    if where is None:
        return np.asarray(change.mean(1))
    return safe_ratio((change * where).sum(1), where.sum(1))


def energy_distance(drawn: Sequence[Images], true: Sequence[Images], where: Bools) -> Floats:
    r"""Energy distance of two sets of samples of each image, shape :math:`(N,)`.

    .. math:: \frac{1}{ST} \sum_{s,t} d(x_s, y_t) - \frac{1}{2 S (S-1)} \sum_{s \ne s'} d(x_s, x_{s'})
        - \frac{1}{2 T (T-1)} \sum_{t \ne t'} d(y_t, y_{t'})

    with d of :func:`distance`. It is unbiased, so it may be negative; its expectation is 0 if both sets are samples of
    the same distribution (Székely and Rizzo 2013).

    Args:
        drawn, true: S and T samples of each image, each of shape :math:`(N, C, H, W)`.
        where: mask of the pixels to compare, shape :math:`(N, H W)`.
    """
    across = np.mean([distance(x, y, where) for x in drawn for y in true], axis=0)
    return np.asarray(across - (_within(drawn, where) + _within(true, where)) / 2)


def _within(images: Sequence[Images], where: Bools) -> Floats:
    pairs = [distance(images[i], images[j], where) for i in range(len(images)) for j in range(i)]
    return np.asarray(np.mean(pairs, axis=0))


def render_swap(subject: Subject, name: str, chunk: Chunk, rows: Bools) -> Images:
    """Render the recipients with their donors' class (or value) and variety of a label; on the subject's device."""
    data = subject.data
    assert supports(data, HasVariety)
    donors = donor_rows(subject, name)[chunk.rows].numpy()[rows]
    known = subject.classes(name) if subject.schema[name].kind != "continuous" else subject.current_value(name)
    value = known.numpy()[donors].astype(np.float32)
    variety = data.variety(subject.ids[donors], name)
    return data.with_variety(chunk.ids[rows], {name: value}, {name: variety}).to(subject.device)


def render_with(subject: Subject, name: str, chunk: Chunk, rows: Bools, values: Tensor) -> Images:
    """Render some images of a chunk with other values of a label, shape (n,); on the subject's device."""
    data = subject.data
    assert supports(data, HasCounterfactuals)
    return data.with_attribute(chunk.ids[rows], name, values.float().numpy()).to(subject.device)


def reconstruct(subject: Subject, name: str, chunk: Chunk, rows: Bools, images: Images, values: Tensor) -> Images:
    """Encode and decode images in place of some rows of a chunk, with the posterior noise of those rows.

    An encoder that takes labels is given ``values`` for the label ``name``.
    """
    chosen = torch.from_numpy(np.flatnonzero(rows))
    labels = subject.labels[chunk.rows][chosen].clone()
    labels[:, subject.schema.index(name)] = values
    noise = subject.noise("posterior", chunk.ids[rows], subject.layout.dim)
    return subject.decode(subject.encode(images, labels).at(noise))


def composition(subject: Subject, chunk: Chunk, repeats: Sequence[int]) -> Mapping[int, Floats]:
    """Distance between x and x encoded and decoded m times, for each m in ``repeats``; shape (n,) each.

    Transport to the image's own class is the identity on codes, so the result is the same for every characteristic.
    """
    found, image = {}, chunk.images
    for turn in range(1, max(repeats) + 1):
        image = subject.decode(subject.encode(image, subject.labels[chunk.rows]).loc)
        if turn in repeats:
            found[turn] = distance(chunk.images, image)
    return found


def reversibility(subject: Subject, chunk: Chunk, do: Do, repeats: Sequence[int]) -> Mapping[int, Floats]:
    """Distance between x and x after m edits to its target class and back, re-encoding after each edit; shape (n,)."""
    name, found, image = do.characteristic, {}, chunk.images
    now, then = subject.current_class(name)[chunk.rows], subject.target_class(name)[chunk.rows]
    for turn in range(1, max(repeats) + 1):
        image = _edit(subject, chunk, do, _edit(subject, chunk, do, image, now, then), then, now)
        if turn in repeats:
            found[turn] = distance(chunk.images, image)
    return found


def _edit(subject: Subject, chunk: Chunk, do: Do, images: Images, now: Tensor, then: Tensor) -> Images:
    """Edit images in place of a chunk's from the classes ``now`` to the classes ``then``."""
    labels = subject.labels[chunk.rows].clone()
    column = subject.schema.index(do.characteristic)
    known = subject.class_values(do.characteristic, now, chunk.rows).to(labels.dtype)
    labels[:, column] = torch.where(now >= 0, known, labels[:, column])
    posterior = subject.encode(images, labels)
    seen = Chunk(chunk.rows, chunk.ids, images, posterior, posterior.loc)
    if supports(subject.model, Intervenes):
        target = {do.characteristic: subject.class_values(do.characteristic, then, chunk.rows).double()}
        return subject.decode(model_intervention(subject, seen, target))
    return subject.decode(do.between(subject, seen, now, then)[0])
