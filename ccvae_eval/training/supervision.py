"""The images and labels of a training: the validation split, the supervised images, and batches of both."""

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

PIXEL_MAX = 255
"""Images whose pixels are multiples of 1/255 are cached as bytes."""

ROUNDING = 1e-3
"""Largest distance of a pixel from a multiple of 1/255, in units of 1/255: float32 rounding."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """The train split, divided into training and validation images, and the labels of the training images.

    Args:
        schema: the labels to learn from.
        train: ids of the training images.
        validation: ids of the validation images.
        labels: labels of the training images, shape (len(train), L); NaN = unsupervised or missing.
        label_prior: class frequencies of each label in ``labels``: uniform if there are none, () for a continuous one.
    """

    schema: LabelSchema
    train: Ids
    validation: Ids
    labels: NDArray[np.float32]
    label_prior: tuple[tuple[float, ...], ...]

    @property
    def labelled(self) -> Bools:
        """True for training images with any label, shape (len(train),)."""
        return np.asarray(~np.isnan(self.labels).all(axis=1), dtype=np.bool_)

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the training images and their labels."""
        content = blake2b(self.train.tobytes(), digest_size=16)
        content.update(self.labels.tobytes())
        return content.hexdigest()


def supervise(data: DataSet, schema: LabelSchema, settings: TrainingSettings) -> Supervision:
    """Draws the validation images and the labelled images; both depend on the seed only.

    The images labelled at one rate are a subset of those labelled at any higher rate of the same seed.

    Raises:
        DataError: the train split has no images besides those for validation.
        LabelMismatchError: the data has a label in another kind or with other classes.
        UsageError: the data does not have a label.
    """
    columns = _columns(data, schema)
    ids = data.split("train")
    order = numpy_stream(settings.seed, "validation").permutation(len(ids))
    held_out = round(settings.validation * len(ids))
    if settings.validation and len(ids):
        held_out = max(held_out, 1)
    validation, train = np.sort(ids[order[:held_out]]), np.sort(ids[order[held_out:]])
    if not len(train):
        raise DataError(
            f"{len(ids)} images in the train split, {held_out} of them for validation, leave none to train on",
            where=data.spec,
            hint="Use more images, or a smaller validation share.",
        )
    labels = data.labels_of(train)[:, columns].copy()
    count = max(1, round(settings.rate * len(train))) if settings.rate > 0 else 0
    labels[numpy_stream(settings.seed, "labelled").permutation(len(train))[count:]] = np.nan
    _add_noise(labels, schema, settings)
    prior = tuple(_frequencies(labels[:, column], label) for column, label in enumerate(schema))
    return Supervision(schema, train, validation, labels, prior)


def _columns(data: DataSet, schema: LabelSchema) -> list[int]:
    """Columns of the model's labels in those of the data."""
    for label in schema:
        found = data.schema[label.name]
        if found != label:
            raise LabelMismatchError(
                f"the model needs a {label.kind} label with classes {label.classes}, the data has a {found.kind} one "
                f"with classes {found.classes}",
                where=f"{data.spec}: {label.name}",
            )
    return [data.schema.index(label.name) for label in schema]


def _add_noise(labels: NDArray[np.float32], schema: LabelSchema, settings: TrainingSettings) -> None:
    """Replaces a share ``label_noise`` of the discrete labels by another class, in place."""
    if not settings.label_noise:
        return
    for column, label in enumerate(schema):
        if label.kind == "continuous":
            continue
        random = numpy_stream(settings.seed, "label noise", label.name)
        wrong = random.random(len(labels)) < settings.label_noise
        shift = random.integers(1, label.cardinality, len(labels))
        shifted = (labels[:, column] + shift) % label.cardinality  # NaN stays NaN
        labels[wrong, column] = shifted[wrong]


def _frequencies(values: NDArray[np.float32], label: Label) -> tuple[float, ...]:
    """Frequencies of the classes among the known values; uniform if there are none, () for a continuous label."""
    if label.kind == "continuous":
        return ()
    observed = values[~np.isnan(values)].astype(np.int64)
    if not len(observed):
        return (1 / label.cardinality,) * label.cardinality
    return tuple(float(n) / len(observed) for n in np.bincount(observed, minlength=label.cardinality))


def refuse_constant_labels(supervision: Supervision) -> None:
    """Raises a ``DataError`` for a label without two different values among the labelled training images."""
    for column, label in enumerate(supervision.schema):
        values = supervision.labels[:, column]
        observed = values[~np.isnan(values)]
        if len(np.unique(observed)) < 2:
            found = f"is {observed[0]:g} in all {len(observed)}" if len(observed) else "is missing in all"
            raise DataError(
                f"label {label.name!r} {found} labelled training images",
                hint="Exclude it (--labels), or use more labels (--supervision).",
            )


def refuse_incomplete_labels(supervision: Supervision, model: str) -> None:
    """Raises a ``DataError`` if no training image has all labels, for a model that learns from such images only."""
    known = ~np.isnan(supervision.labels)
    if not known.all(axis=1).any():
        rarest = supervision.schema.names[int(known.sum(axis=0).argmin())]
        raise DataError(
            f"{model} needs training images with all {len(supervision.schema)} labels, but none has them",
            hint=f"Exclude labels (--labels); {rarest!r} is known for the fewest images.",
        )


class BatchFeed:
    """Batches of images of a data set with the labels of a training, by position.

    Args:
        data: source of the images.
        ids: ids of the images.
        labels: labels of these images, shape (len(ids), L).
        cache_megabytes: memory for the images; if they need more, they are read again in each epoch.
    """

    def __init__(self, data: DataSet, ids: Ids, labels: NDArray[np.float32], cache_megabytes: int) -> None:
        self.data, self.ids = data, ids
        self.labels = torch.from_numpy(labels)
        self.cached = np.zeros(len(ids), dtype=bool)
        fits = len(ids) * int(np.prod(data.input_shape)) <= cache_megabytes * 2**20
        pixels = len(data.input_shape) == 3
        self.cache = torch.empty((len(ids), *data.input_shape), dtype=torch.uint8) if fits and pixels else None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, positions: NDArray[np.int64]) -> Batch:
        """The images and labels at some positions, in that order."""
        if self.cache is not None and bool(self.cached[positions].all()):
            images: Images | Points = self.cache[torch.from_numpy(positions)].float().div_(PIXEL_MAX)
        else:
            images = self._read(positions)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)  # the fastest format for convolutions
        return Batch(images, self.labels[torch.from_numpy(positions)], self.ids[positions])

    def _read(self, positions: NDArray[np.int64]) -> Images | Points:
        images = self.data.batch(self.ids[positions]).images
        if self.cache is None:
            return images
        scaled = images * PIXEL_MAX
        rounded = scaled.round()
        if bool((scaled - rounded).abs().max() > ROUNDING):
            return images
        self.cache[torch.from_numpy(positions)] = rounded.to(torch.uint8)
        self.cached[positions] = True
        return rounded.div_(PIXEL_MAX)  # bit-identical to the cached images

    def batches(self, parts: Sequence[NDArray[np.int64]]) -> Generator[Batch, None, None]:
        """The batches at some lists of positions; a thread prepares the next one meanwhile."""
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
            ahead = thread.submit(self.batch, parts[0]) if parts else None
            for following in [*parts[1:], None]:
                if ahead is None:
                    return
                current = ahead.result()
                ahead = None if following is None else thread.submit(self.batch, following)
                yield current


def epoch_batches(labelled: Bools, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Positions of the images in each batch of an epoch: every image once, in batches of nearly equal size.

    Labelled and unlabelled images are shuffled separately and interleaved evenly, so that each batch has its share of
    labelled images, and at least one if there are as many as batches.

    >>> [len(part) for part in epoch_batches(np.array([True] * 4 + [False] * 6), 5, seed=0, epoch=0)]
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
