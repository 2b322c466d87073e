"""State of a metric during the pass over the images, which can be merged with the state of other images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Bools, Ids, Images
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.evaluation.judge_scores import JudgeReliability
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.pictures import PICTURED, MeanPictures, as_bytes
from ccvae_eval.evaluation.result_table import ColumnStore
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.model.fixed_batches import Chunk
from ccvae_eval.model.interface import supports
from ccvae_eval.statistics.resampling import ResampleWeights

M = TypeVar("M")


class ImageAccumulator(ABC, Generic[M]):
    """Columns with one row for each image, pictures, and the judge's reliability.

    A metric derives its accumulator from this class. ``update`` fills ``columns`` and ``pictures``, and ``compute``
    turns them into a measurement. Both depend on nothing else that ``update`` leaves behind. Then accumulators of
    disjoint blocks of images, merged in any order, give the measurement of all images in every bit (the law "merged
    blocks"): a sum over images belongs into ``compute``, not into ``update``.

    Args:
        metric, subject: the metric and what it evaluates.
    """

    def __init__(self, metric: M, subject: Subject) -> None:
        self.metric, self.subject = metric, subject
        self.columns = ColumnStore(len(subject))
        self.pictures = MeanPictures()
        self.reliability = JudgeReliability(subject, self.columns)

    def update(self, batch: Decoded) -> None:
        """Adds one chunk; never called for a metric that decodes no image."""

    @abstractmethod
    def compute(self, weights: ResampleWeights) -> Measurement:
        """The measurement. ``weights`` resample the subject's images in their order, equally for all metrics."""

    def merge(self, other: ImageAccumulator[M]) -> None:
        """Adds the images of another accumulator of the same metric and subject.

        Raises:
            UsageError: the metric, its settings or the subject's images differ, or an image is in both accumulators.
        """
        if self.metric != other.metric or not np.array_equal(self.subject.ids, other.subject.ids):
            raise UsageError("blocks must belong to the same metric, settings and images", where=str(self.metric))
        self.columns.merge(other.columns)
        self.pictures.merge(other.pictures)

    def keep_images(self, name: str, chunk: Chunk, images: Sequence[Images], axis: int = 0) -> None:
        """Keeps the first images of the sample for a figure, stacked along an axis, uint8."""
        wanted = PICTURED - chunk.rows.start
        if wanted > 0:
            self.pictures.keep(name, torch.stack([as_bytes(x[:wanted]) for x in images], axis))

    def region(self, ids: Ids, name: str) -> Bools | None:
        """Region of a characteristic in some images, shape (n, H, W); None if the data set has no region of it."""
        data = self.subject.data
        return data.region(ids, name) if supports(data, HasRegions) and name in data.schema else None


def first_chunks(subject: Subject, images: int) -> Iterator[Chunk]:
    """The first ``images`` images in fixed batches; see :meth:`Chunk.within`."""
    parts = (chunk.within(images) for chunk in subject.chunks())
    for part in parts:
        if part is None:
            return
        yield part
