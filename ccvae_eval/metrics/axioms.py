"""Axioms of counterfactuals, taken through the image: f(x, c, v) = decode(do(c = v) on encode(x)).

Monteiro, De Sousa Ribeiro, Pawlowski, Castro and Glocker, "Measuring axiomatic soundness of counterfactual image
models" (ICLR 2023): composition asks that nothing happens where nothing is changed, reversibility that there and back
is where one was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ccvae_eval.interventions import Do, by_model
from ccvae_eval.metrics.counterfactuals import distance
from ccvae_eval.model import Intervenes
from ccvae_eval.subject import Chunk, Subject
from ccvae_eval.types import Floats, Images


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
    now, then = subject.now(name)[chunk.rows], subject.targets(name)[chunk.rows]
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
