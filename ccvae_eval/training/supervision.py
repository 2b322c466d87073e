"""Which images are trained on, which are held out, and which labels are shown.

Batches of training images: rendered or read once, kept in memory where they fit, the next one made in advance.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, LabelMismatchError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Ids, Images, Points
from ccvae_eval.data.interface import DataSet
from ccvae_eval.model.interface import Batch, Label, LabelSchema
from ccvae_eval.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Supervision:
    """The train split as a training sees it.

    Args:
        schema: the labels that are learnt from.
        train: ids of the images of the training part.
        validation: ids of the held-out part.
        labels: the labels shown of the training part, shape (len(train), L), NaN = not shown or missing.
        label_prior: p(y) from the labels shown; uniform where none is, empty for a continuous label.
    """

    schema: LabelSchema
    train: Ids
    validation: Ids
    labels: NDArray[np.float32]
    label_prior: tuple[tuple[float, ...], ...]

    @property
    def labelled(self) -> Bools:
        """Which images of the training part have any label shown."""
        return np.asarray(~np.isnan(self.labels).all(axis=1), dtype=np.bool_)

    @property
    def digest(self) -> str:
        """Which images were seen and which labels were shown, as a hexadecimal digest."""
        content = blake2b(self.train.tobytes(), digest_size=16)
        content.update(self.labels.tobytes())
        return content.hexdigest()


def supervise(data: DataSet, schema: LabelSchema, settings: TrainingSettings) -> Supervision:
    """Draws the held-out part and the labelled images, from the seed alone.

    The images labelled at one rate are among those labelled at any higher rate of the same seed.

    Raises:
        DataError: the train split is empty, or too small for the held-out part.
        LabelMismatchError: the data lacks a label, or has it in another kind.
    """
    columns = _columns(data, schema)
    ids = data.split("train")
    order = numpy_stream(settings.seed, "validation").permutation(len(ids))
    held = round(settings.validation * len(ids))
    if settings.validation and len(ids):
        held = max(held, 1)
    validation, train = np.sort(ids[order[:held]]), np.sort(ids[order[held:]])
    if not len(train):
        raise DataError(
            f"{len(ids)} training images leave none to train on",
            where=data.spec,
            hint="More images, or a smaller validation part.",
        )
    labels = data.labels_of(train)[:, columns].copy()
    shown = numpy_stream(settings.seed, "labelled").permutation(len(train))[: _count(settings.rate, len(train))]
    hidden = np.ones(len(train), dtype=bool)
    hidden[shown] = False
    labels[hidden] = np.nan
    _add_noise(labels, schema, settings)
    return Supervision(schema, train, validation, labels, _prior(labels, schema))


def _count(rate: float, images: int) -> int:
    return max(1, round(rate * images)) if rate > 0 else 0


def _columns(data: DataSet, schema: LabelSchema) -> list[int]:
    """The model's labels among the data's columns."""
    for label in schema:
        if data.schema[label.name] != label:
            theirs = data.schema[label.name]
            raise LabelMismatchError(
                f"the model learns a {label.kind} label of classes {label.classes}, the data has a {theirs.kind} one "
                f"of classes {theirs.classes}",
                where=f"{data.spec}: {label.name}",
            )
    return [data.schema.index(label.name) for label in schema]


def _add_noise(labels: NDArray[np.float32], schema: LabelSchema, settings: TrainingSettings) -> None:
    if not settings.label_noise:
        return
    for column, label in enumerate(schema):
        if label.kind == "continuous":
            continue
        random = numpy_stream(settings.seed, "label noise", label.name)
        wrong = random.random(len(labels)) < settings.label_noise
        shift = random.integers(1, label.cardinality, len(labels))
        moved = (labels[:, column] + shift) % label.cardinality  # NaN stays NaN
        labels[wrong, column] = moved[wrong]


def _prior(labels: NDArray[np.float32], schema: LabelSchema) -> tuple[tuple[float, ...], ...]:
    return tuple(_frequencies(labels[:, column], label) for column, label in enumerate(schema))


def _frequencies(values: NDArray[np.float32], label: Label) -> tuple[float, ...]:
    if label.kind == "continuous":
        return ()
    observed = values[~np.isnan(values)].astype(np.int64)
    if not len(observed):
        return (1 / label.cardinality,) * label.cardinality
    return tuple(float(n) / len(observed) for n in np.bincount(observed, minlength=label.cardinality))


def refuse_constant_labels(supervision: Supervision) -> None:
    """A label with one value only, or none, among the labels shown cannot be learnt: a ``DataError``."""
    for column, label in enumerate(supervision.schema):
        values = supervision.labels[:, column]
        observed = values[~np.isnan(values)]
        if len(np.unique(observed)) < 2:
            found = f"is {observed[0]:g} in all {len(observed)}" if len(observed) else "is missing in all"
            raise DataError(
                f"label {label.name!r} {found} labelled training images",
                hint="Leave it out (--labels), or show more labels (--rate).",
            )


def refuse_incomplete_labels(supervision: Supervision, model: str) -> None:
    """A model that learns from images with all labels needs one: else a ``DataError``."""
    shown = ~np.isnan(supervision.labels)
    if not shown.all(axis=1).any():
        rarest = supervision.schema.names[int(shown.sum(axis=0).argmin())]
        raise DataError(
            f"{model} learns from images that have all {len(supervision.schema)} labels, and none has",
            hint=f"Leave labels out (--labels); {rarest!r} is shown least.",
        )


STEPS = 255
"""Pixels are whole multiples of 1/255 in data that come from 8-bit files; such images are kept as bytes."""

ROUNDING = 1e-3
"""How far, in 1/255, a pixel may lie from a whole multiple: float32 rounding, nothing more."""


class BatchFeed:
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
