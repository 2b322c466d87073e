"""Batches of training images: rendered or read once, kept in memory where they fit, the next one made in advance."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.data.contract import DataSet
from ccvae_eval.model import Batch
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Bools, Ids, Images, Points

STEPS = 255
"""Pixels are whole multiples of 1/255 in data that come from 8-bit files; such images are kept as bytes."""

ROUNDING = 1e-3
"""How far, in 1/255, a pixel may lie from a whole multiple: float32 rounding, nothing more."""


class Feed:
    """Some images of a data set with labels of one's own, by position.

    Args:
        data: where the images come from.
        ids: which images.
        labels: their labels, shape (len(ids), L).
        cache_megabytes: memory for images already seen; those beyond it are made again each time.
    """

    def __init__(self, data: DataSet, ids: Ids, labels: NDArray[np.float32], cache_megabytes: int) -> None:
        self.data, self.ids = data, ids
        self.labels = torch.from_numpy(labels)
        self.held = np.zeros(len(ids), dtype=bool)
        fits = len(ids) * int(np.prod(data.input_shape)) <= cache_megabytes * 2**20
        pixels = len(data.input_shape) == 3
        self.cache = torch.empty((len(ids), *data.input_shape), dtype=torch.uint8) if fits and pixels else None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, positions: NDArray[np.int64]) -> Batch:
        """The rows at some positions, in that order."""
        if self.cache is not None and bool(self.held[positions].all()):
            images: Images | Points = self.cache[torch.from_numpy(positions)].float().div_(STEPS)
        else:
            images = self._made(positions)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)  # in which convolutions are fastest
        return Batch(images, self.labels[torch.from_numpy(positions)], self.ids[positions])

    def _made(self, positions: NDArray[np.int64]) -> Images | Points:
        images = self.data.batch(self.ids[positions]).images
        if self.cache is None:
            return images
        scaled = images * STEPS
        whole = scaled.round()
        if bool((scaled - whole).abs().max() > ROUNDING):
            return images
        self.cache[torch.from_numpy(positions)] = whole.to(torch.uint8)
        self.held[positions] = True
        return whole.div_(STEPS)  # the same bits as from the cache, whether it was asked before or not

    def batches(self, parts: Sequence[NDArray[np.int64]]) -> Generator[Batch, None, None]:
        """One batch after the other, the next one made by a thread while this one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
            ahead = thread.submit(self.batch, parts[0]) if parts else None
            for following in [*parts[1:], None]:
                if ahead is None:
                    return
                now = ahead.result()
                ahead = None if following is None else thread.submit(self.batch, following)
                yield now


def epoch_parts(labelled: Bools, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The positions of each batch of one epoch: every image once, batches of nearly equal size.

    Labelled and unlabelled images are shuffled apart and then interleaved evenly, so that each batch holds its
    share of labelled ones (at least one where there are as many as batches) and the sum over the epoch is the plain
    sum over both.

    >>> [len(part) for part in epoch_parts(np.array([True] * 4 + [False] * 6), 5, seed=0, epoch=0)]
    [5, 5]
    """
    random = numpy_stream(seed, "order", epoch)
    positions, places = [], []
    for kind in (True, False):
        chosen = np.flatnonzero(labelled == kind)
        positions.append(random.permutation(chosen))
        places.append((np.arange(len(chosen)) + random.random()) / max(len(chosen), 1))
    order = np.concatenate(positions)[np.argsort(np.concatenate(places), kind="stable")]
    return list(np.array_split(order, -(-len(order) // batch)))
