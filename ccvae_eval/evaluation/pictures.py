"""Arrays for figures: single images, and means over all images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import UndefinedError, UnsupportedError, UsageError, suggestion
from ccvae_eval.core.types import Floats, Ids, Images
from ccvae_eval.evaluation.interventions import Do, path_between
from ccvae_eval.evaluation.metric import CodeSource
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.subject import Subject, read_images
from ccvae_eval.model.fixed_batches import Chunk
from ccvae_eval.model.latents import replaced

log = logging.getLogger(__name__)

PICTURED = 8
"""Number of images, the first of the sample, that figures show."""

GALLERY_IMAGES = 48
"""Number of images, evenly spaced in the sample, that a report shows one by one."""

IMAGE_DIMENSIONS = 3
"""Channels, height and width; data with fewer are points."""

GRID = 5
"""Steps along each side of a two-dimensional traversal."""

MOVED_IMAGES = 6
"""Images, the first of the sample, that a report shows in every class of a categorical label."""

MOST_CLASSES = 20
"""Classes of a label that has such pictures."""

MOST_PAIRS = 2
"""Pairs of characteristics with two-dimensional traversals in a report."""

PAIR_IMAGES = 3
"""Images whose two-dimensional traversals a report shows."""


def as_bytes(images: Images) -> Tensor:
    r"""Images for display, shape :math:`(N, H, W, C)`, uint8, on the CPU."""
    return (images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


UNITS = 2.0**32
"""Units of the integers that pictures are summed in; sums of 8-bit images are exact."""

LARGEST = 64.0
"""Largest absolute value of a pixel in a mean; the sums of 2**25 images cannot overflow."""


@dataclass
class MeanPictures:
    """Means of pictures over images, and single pictures.

    The sums are integers, so that no bit depends on the order of the images.

    Args:
        sums: sum of each picture over the images, int64.
        counts: number of images in each sum.
        kept: single pictures.
    """

    sums: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def add(self, name: str, pictures: Tensor) -> None:
        r"""Adds pictures, shape :math:`(N, ...)`, to the mean of that name."""
        units = pictures.double().clamp(-LARGEST, LARGEST).mul(UNITS).round().long()
        self._add(name, units.sum(0).cpu().numpy(), len(pictures))

    def _add(self, name: str, total: NDArray[np.int64], count: int) -> None:
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts.get(name, 0) + count

    def keep(self, name: str, pictures: Tensor) -> None:
        """Stores pictures without averaging."""
        self.kept[name] = pictures.numpy()

    def merge(self, other: MeanPictures) -> None:
        """Adds the pictures of other images."""
        for name, total in other.sums.items():
            self._add(name, total, other.counts[name])
        self.kept |= other.kept

    def mean(self, name: str) -> Floats:
        """The mean of that name, float64, channels first."""
        return np.asarray(self.sums[name] / (UNITS * self.counts[name]))

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """The means as ``mean/NAME``, float32, channels last; and the stored pictures by their names."""
        means: dict[str, NDArray[np.generic]] = {}
        for name in self.sums:
            mean = self.mean(name).astype(np.float32)
            means[f"mean/{name}"] = np.moveaxis(mean, 0, 2) if mean.ndim == 3 else mean
        return {**means, **self.kept}


def pair_strips(subject: Subject, name: str, source: CodeSource, steps: int) -> dict[str, NDArray[np.generic]]:
    r"""Traversals from each class of a categorical label to every other class, of the first image of the class.

    Returns:
        Strips by "from > to", each of shape :math:`(1, steps, H, W, C)`, uint8; pairs without a path are left out.
    """
    label, now = subject.schema[name], subject.current_class(name)
    found: dict[str, NDArray[np.generic]] = {}
    for start, end in permutations(range(label.cardinality), 2):
        rows = torch.nonzero(now == start)[:1, 0]
        try:
            path = path_between(subject, name, start, end, source)
        except UndefinedError:
            continue
        if len(rows):
            own, positions = subject.codes[rows], torch.linspace(0, 1, steps).tolist()
            codes = torch.cat([replaced(own, subject.layout[name], path.at(position)) for position in positions])
            images = as_bytes(subject.decode(codes)).numpy()
            found[f"{label.class_name(start)} > {label.class_name(end)}"] = images[None]
    return found


def two_label_grid(
    subject: Subject, down: str, across: str, source: CodeSource = "codes", rows: Any = slice(0, 1)
) -> NDArray[np.generic]:
    r"""Two-dimensional traversals of :math:`n` images along the paths of two binary characteristics.

    Args:
        subject: the subject.
        down, across: the characteristics.
        source: source of the paths' ends.
        rows: the rows of the images.

    Returns:
        Shape :math:`(n, 5, 5, H, W, C)`, uint8; ``down`` changes along the rows and ``across`` along the columns, from
        absent to present.
    """
    own = subject.codes[rows]
    paths = [path_between(subject, name, 0, 1, source) for name in (down, across)]
    positions = torch.linspace(0, 1, GRID).tolist()
    codes = [
        replaced(replaced(own, subject.layout[down], paths[0].at(i)), subject.layout[across], paths[1].at(j))
        for i in positions
        for j in positions
    ]
    images = as_bytes(subject.decode(torch.stack(codes, 1).flatten(0, 1))).numpy()
    return images.reshape(len(own), GRID, GRID, *images.shape[1:])


@exact_arithmetic()
def gallery(
    subject: Subject, samples: Iterable[Ids], pairs: Iterable[tuple[str, str]] = (), most_pairs: int = MOST_PAIRS
) -> dict[str, NDArray[np.generic]]:
    """Single images for a report, with their reconstructions and with each label set to another class.

    Args:
        subject: the subject.
        samples: the images of each metric; an image is shown only if every metric used it.
        pairs: pairs of characteristics to move at once, see :func:`leaking_pairs`; an impossible pair is left out.
        most_pairs: number of pairs to use, the first that are possible.

    Returns:
        ``ids``, shape (n,), n at most 48; ``image``, ``reconstruction`` and ``do/LABEL``, shape (n, H, W, C), uint8;
        ``label/LABEL``, the class of each image, and ``then/LABEL``, the class it is set to, shape (n,), -1 = unknown;
        the values of a continuous label, NaN = unknown.
        Of the first m images, m at most 6: ``moved``, their ids, shape (m,), and for each categorical label
        ``classes/LABEL``, shape (m, 1 + classes, H, W, C), the reconstruction and the label set to each class.
        ``pad/K``, shape (3, 5, 5, H, W, C): the first images with both characteristics of the K-th pair moved;
        ``pads``, shape (pairs, 2): the names of each pair.
        Empty if the data are points, or if the model cannot decode; an undefined intervention is left out.
    """
    if len(subject.data.input_shape) != IMAGE_DIMENSIONS:
        return {}
    used = np.ones(len(subject), dtype=bool)
    for ids in samples:
        used &= np.isin(subject.ids, ids)
    rows = np.flatnonzero(used)
    count = min(GALLERY_IMAGES, len(rows))
    spaced = rows[np.arange(count) * len(rows) // max(count, 1)]
    found: dict[str, NDArray[np.generic]] = {}
    try:
        for first in range(0, count, subject.fixed_batch):
            for name, pictures in _gallery_part(subject, spaced[first : first + subject.fixed_batch]).items():
                found[name] = np.concatenate([found[name], pictures]) if name in found else pictures
        if count:
            found |= _in_every_class(subject, rows[:MOVED_IMAGES])
            found |= _two_label_grids(subject, rows[:PAIR_IMAGES], pairs, most_pairs)
    except Exception:  # the metrics report what is wrong with the model
        log.debug("gallery", exc_info=True)
        return {}
    return found


def leaking_pairs(run: Run) -> list[tuple[str, str]]:
    """Pairs of labels, strongest leak first: the judge sees the second change when the first one is moved.

    The leaks are those of locality, else of intervention; without a judge, the labels are paired in their order.
    """
    for metric, name in (("locality", "response"), ("intervention", "change")):
        leaks = {
            (v.characteristic, str(v.at["judged"])): v.estimate.value
            for m in run
            if m.metric == metric
            for v in m.values
            if v.name == name and v.characteristic and set(v.at) == {"judged"} and v.estimate.defined
        }
        found = sorted((pair for pair in leaks if pair[0] != pair[1]), key=lambda pair: -leaks[pair])
        if found:
            return list({frozenset(pair): pair for pair in reversed(found)}.values())[::-1]
    names = [str(label["name"]) for label in run.header.data.get("labels", ())]
    return list(combinations(names, 2))


def require_pairs(subject: Subject, pairs: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs, each of two different binary characteristics of the subject; anything else is a ``UsageError``."""
    found = [tuple(pair) for pair in pairs]
    for pair in found:
        if len(set(pair)) != 2 or len(pair) != 2:
            raise UsageError(f"a pair must be two different labels, got {','.join(pair)!r}", where="pairs")
        for name in pair:
            if name not in subject.characteristics:
                hint = suggestion(name, subject.characteristics)
                raise UsageError(f"label {name!r} is unknown or not evaluated", where="pairs", hint=hint)
            if subject.schema[name].kind != "binary":
                raise UsageError(
                    f"a pair must be two binary labels, and {name!r} is {subject.schema[name].kind}", where="pairs"
                )
    return [(down, across) for down, across in found]


def _in_every_class(subject: Subject, rows: Ids) -> dict[str, NDArray[np.generic]]:
    """The given images with each categorical label set to each of its classes."""
    chunk = chunk_of(subject, rows)
    found: dict[str, NDArray[np.generic]] = {"moved": chunk.ids}
    for label in subject.schema:
        if label.kind != "categorical" or label.cardinality > MOST_CLASSES or label.name not in subject.movable:
            continue
        try:
            edited = [Do(label.name, value=k).codes(subject, chunk) for k in range(label.cardinality)]
        except (UndefinedError, UnsupportedError):
            continue
        pictures = [as_bytes(subject.decode(codes)).numpy() for codes in (chunk.codes, *edited)]
        found[f"classes/{label.name}"] = np.stack(pictures, 1)
    return found


def _two_label_grids(
    subject: Subject, rows: Ids, pairs: Iterable[tuple[str, str]], most: int
) -> dict[str, NDArray[np.generic]]:
    """The two-dimensional traversals of the given images along the first ``most`` pairs that have two paths."""
    found: dict[str, NDArray[np.generic]] = {}
    names: list[tuple[str, str]] = []
    for down, across in pairs:
        if len(names) == most:
            break
        if any(name not in subject.characteristics or subject.schema[name].kind != "binary" for name in (down, across)):
            continue
        try:
            found[f"pad/{len(names)}"] = two_label_grid(subject, down, across, rows=rows)
        except UndefinedError:
            continue
        names.append((down, across))
    return {**found, "pads": np.array(names)} if names else {}


def chunk_of(subject: Subject, rows: Ids) -> Chunk:
    """A fixed batch of the subject's images, given by their rows, as a chunk."""
    index: Any = rows  # a chunk is a slice of the images elsewhere; its fields are indexed in the same way
    ids = subject.ids[rows]
    images = read_images(subject.data, ids).to(subject.device)
    return Chunk(index, ids, images, subject.posterior.rows(index), subject.codes[rows])


def _gallery_part(subject: Subject, rows: Ids) -> dict[str, NDArray[np.generic]]:
    """The gallery of a fixed batch of images, given by their rows."""
    chunk = chunk_of(subject, rows)
    found: dict[str, NDArray[np.generic]] = {
        "ids": chunk.ids,
        "image": as_bytes(chunk.images).numpy(),
        "reconstruction": as_bytes(subject.decode(chunk.codes)).numpy(),
    }
    for label in subject.schema:
        continuous = label.kind == "continuous"
        found[f"label/{label.name}"] = (subject.column if continuous else subject.classes)(label.name)[rows].numpy()
        try:
            edited = Do(label.name).codes(subject, chunk) if label.name in subject.movable else None
        except (UndefinedError, UnsupportedError):
            edited = None
        if edited is not None:
            found[f"do/{label.name}"] = as_bytes(subject.decode(edited)).numpy()
            then = subject.target_class(label.name)[rows]
            if continuous:
                then = subject.class_values(label.name, then).float()
            found[f"then/{label.name}"] = then.numpy()
    return found
