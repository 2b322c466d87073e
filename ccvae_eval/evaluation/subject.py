"""What is evaluated: a model and some images, encoded once, and the random streams that belong to them.

The network is only ever called on canonical chunks (ids ascending, 32 rows, the last one padded and cut), so that a
number does not depend on the batch size, on the order of the metrics or on the number of workers
(docs/metrics.md, section 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import NonFiniteError, UndefinedError, UnsupportedError
from ccvae_eval.core.random_streams import normals, stream_key, uniforms
from ccvae_eval.core.types import Bools, Codes, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.match import label_columns
from ccvae_eval.judge import Judge
from ccvae_eval.model.checks import asked, require_images, require_posterior
from ccvae_eval.model.fixed_batches import CHUNK, cut, in_chunks, joined, padded
from ccvae_eval.model.interface import (
    GivenLabels,
    HasConditionalPrior,
    Intervenes,
    LabelledVAE,
    LabelSchema,
    LatentLayout,
    Predicts,
)
from ccvae_eval.model.latents import ClassGaussians, class_gaussians
from ccvae_eval.plugins.attribution import blamed
from ccvae_eval.statistics.assignment import assign_columns

CPU = torch.device("cpu")

ASSIGNMENT_SALT = "assignment-half"

T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most 32 of a subject's images.

    Args:
        rows: their places among the subject's images.
        ids: their ids in the data set.
        images: the inputs, on the subject's device.
        posterior: q(z|x) of each.
        codes: the posterior sample of each that every branch of every metric shares.
    """

    rows: slice
    ids: Ids
    images: Images
    posterior: Gaussian
    codes: Codes

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Subject:
    r"""A model and the images it is evaluated on. Make one with :func:`prepare`.

    Args:
        model: the model.
        data: the data set.
        schema: the labels that matter here, in the order of ``labels``' columns.
        layout: which columns belong to which characteristic: the model's own, or the assigned one.
        ids: the images evaluated, ascending.
        labels: shape :math:`(N, L)`, NaN = missing.
        posterior: q(z|x) of every image, shape :math:`(N, D)`, on the CPU.
        seed: the evaluation's seed.
        device: where the network runs.
        judge: an independent classifier, or None.
        assigned: whether ``layout`` was assigned on held-out images because the model has no characteristics.
        unassigned: labels for which no column beats the permutation null.
        batch_size: rows in flight; no number depends on it.
        chosen: the characteristics that the user asked for, or None for all.
        whole: where ``layout`` was assigned: the same on all images, with the model's own layout.
        trained_on: images of the same data set that the model was trained on, where that is known and these are not.
    """

    model: LabelledVAE
    data: DataSet
    schema: LabelSchema
    layout: LatentLayout
    ids: Ids
    labels: Labels
    posterior: Gaussian
    seed: int = 0
    device: torch.device = CPU
    judge: Judge | None = None
    assigned: bool = False
    unassigned: tuple[str, ...] = ()
    batch_size: int = 256
    selected: tuple[str, ...] | None = None
    unrestricted: Subject | None = None
    trained_on: Ids | None = None
    _kept: dict[tuple[object, ...], object] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def characteristics(self) -> tuple[str, ...]:
        """The characteristics to be measured: all of the layout, or those the user asked for."""
        names = tuple(self.layout.characteristics)
        return names if self.selected is None else tuple(name for name in names if name in self.selected)

    @property
    def movable(self) -> tuple[str, ...]:
        """The characteristics that can be intervened on: those to be measured, or every label with classes of a model
        that intervenes in a way of its own."""
        if not isinstance(self.model, Intervenes):
            return self.characteristics
        names = (label.name for label in self.schema if label.kind != "continuous")
        return tuple(name for name in names if self.selected is None or name in self.selected)

    @cached_property
    def codes(self) -> Codes:
        """One posterior sample for each image, shape (N, D)."""
        return self.posterior.at(self.noise("posterior", self.ids, self.layout.dim))

    @cached_property
    def given(self) -> frozenset[str]:
        """Characteristics whose columns were computed from the labels themselves."""
        return frozenset(self.model.given) if isinstance(self.model, GivenLabels) else frozenset()

    def noise(self, purpose: str, ids: Ids, size: int) -> Tensor:
        """Standard normal draws that belong to (seed, purpose, image), shape (n, size)."""
        return normals(self.seed, purpose, ids, size)

    def uniforms(self, purpose: str, ids: Ids, size: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Uniform draws that belong to (seed, purpose, image), shape (n, size)."""
        return uniforms(self.seed, purpose, ids, size)

    def chunks(self) -> Iterator[Chunk]:
        """The images in canonical chunks; ``batch_size`` says how many are read at once."""
        stride = max(self.batch_size // CHUNK, 1) * CHUNK
        for first in range(0, len(self), stride):
            images = read_images(self.data, self.ids[first : first + stride])
            for offset in range(0, len(images), CHUNK):
                rows = slice(first + offset, min(first + offset + CHUNK, len(self)))
                part = images[offset : offset + CHUNK].to(self.device)
                yield Chunk(rows, self.ids[rows], part, self.posterior.rows(rows), self.codes[rows])

    def subsample(self, size: int) -> Subject:
        """The subject on ``size`` of its images, evenly spaced; nothing is encoded again."""
        if size >= len(self):
            return self
        rows = np.arange(size) * len(self) // size
        kept = torch.from_numpy(rows)
        return replace(self, ids=self.ids[rows], labels=self.labels[kept], posterior=self.posterior.rows(kept))

    def decode(self, codes: Codes) -> Images:
        """The mean image of each code, in canonical chunks, on the subject's device."""
        with asked(self.model, f"decode(codes), codes of shape (N, {codes.shape[1]})"):
            images = in_chunks(self._decode, codes.to(self.device))
        # one number says that all are finite; only where it does not is every pixel looked at (7 % of a decoding)
        if not math.isfinite(images.sum().item()) and not bool(torch.isfinite(images).all()):
            raise NonFiniteError("the decoder gave NaN or infinity", where=type(self.model).__name__)
        return images

    def _decode(self, codes: Codes) -> Images:
        """One chunk, as the model decodes it; the first one is looked at."""
        images = self.model.decode(codes)
        self.cached(("decoded",), lambda: require_images(self.model, images, len(codes), self.data.input_shape))
        return images

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x) of any images, in canonical chunks, on the CPU; labels only for an encoder that takes them."""
        given = labels if isinstance(self.model, GivenLabels) else None
        return _encode(self.model, images.to(self.device), given)

    @cached_property
    def log_probabilities(self) -> dict[str, Tensor | Gaussian] | None:
        """The model's own prediction of each label from posterior means, or None if it cannot predict."""
        return self.predicted(sampled=False)

    def predicted(self, *, sampled: bool) -> dict[str, Tensor | Gaussian] | None:
        """The model's own prediction of each label, or None if it cannot predict.

        An encoder that takes labels is given none here: what it predicts, it tells from the image.

        Args:
            sampled: from the images' own posterior samples instead of posterior means.
        """
        if not isinstance(self.model, Predicts):
            return None
        found: dict[str, list[Tensor | Gaussian]] = {}
        with asked(self.model, "predict(images, codes)"):
            for chunk in self.chunks():
                images = padded(chunk.images)
                blind = isinstance(self.model, GivenLabels)
                known = chunk.codes if sampled else chunk.posterior.loc
                if blind:
                    q = self.model.encode(images)
                    noise = padded(self.noise("posterior", chunk.ids, self.layout.dim)).to(self.device)
                    codes = q.at(noise) if sampled else q.loc
                else:
                    codes = padded(known).to(self.device)
                told = self.model.predict(images, codes)
                for name, value in told.items():
                    found.setdefault(name, []).append(cut(value, len(chunk)))
        return {name: joined(parts) for name, parts in found.items()}

    def column(self, label: str) -> Tensor:
        """The values of one label, shape (N,), NaN = missing."""
        return self.labels[:, self.schema.index(label)]

    def classes(self, label: str) -> Tensor:
        """The class of each image by its label, shape (N,), int64; -1 = missing."""
        return self.cached(("classes", label), lambda: self.column(label).nan_to_num(-1.0).long())

    def current_class(self, label: str) -> Tensor:
        """The class of each image: by its label, else the model's own argmax, else -1."""
        return self.cached(("now", label), lambda: self._current_class(label))

    def _current_class(self, label: str) -> Tensor:
        classes = self.classes(label)
        if not bool((classes < 0).any()):
            return classes
        told = (self.log_probabilities or {}).get(label)
        return torch.where(classes < 0, told.argmax(1), classes) if isinstance(told, Tensor) else classes

    def target_class(self, label: str) -> Tensor:
        """A class unlike now for each image: the other one, or one drawn at random; -1 where now is unknown."""
        return self.cached(("targets", label), lambda: self._target_class(label))

    def _target_class(self, label: str) -> Tensor:
        now, cardinality = self.current_class(label), self.schema[label].cardinality
        draw = torch.from_numpy(self.uniforms(f"target/{label}", self.ids)[:, 0])
        step = 1 + (draw * (cardinality - 1)).long().clamp_max(cardinality - 2)
        return torch.where(now < 0, -1, (now + step) % cardinality)

    def class_codes(self, characteristic: str) -> ClassGaussians:
        """Gaussians fitted to the sampled codes of each class, in the characteristic's columns."""

        def fit() -> ClassGaussians:
            columns = list(self.layout[characteristic])
            cardinality = self.schema[characteristic].cardinality
            return class_gaussians(self.codes[:, columns], self.classes(characteristic), cardinality)

        return self.cached(("class_codes", characteristic), fit)

    def cached(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Computes what belongs to the whole subject once and keeps it."""
        if key not in self._kept:
            self._kept[key] = compute()
        return cast("T", self._kept[key])

    def prior_of(self, characteristic: str) -> Gaussian:
        """p(z_c | y_c = v) for each class v of one characteristic, shape (K, d).

        Raises:
            UnsupportedError: if the model has no conditional prior.
        """
        if not isinstance(self.model, HasConditionalPrior):
            raise UnsupportedError(f"{type(self.model).__name__} has no p(z_c|y)")
        model = self.model
        return self.cached(
            ("prior", characteristic), lambda: conditional_prior_of(model, self.schema, characteristic, self.device)
        )


def conditional_prior_of(
    model: HasConditionalPrior, schema: LabelSchema, characteristic: str, device: torch.device
) -> Gaussian:
    """p(z_c | y_c = v) for each class v of one characteristic; the other labels do not matter to it."""
    assert isinstance(model, LabelledVAE)
    cardinality = schema[characteristic].cardinality
    labels = torch.zeros(cardinality, len(schema))
    labels[:, schema.index(characteristic)] = torch.arange(cardinality, dtype=torch.float32)
    with asked(model, f"conditional_prior(labels), labels of shape (N, {len(schema)})"):
        prior = model.conditional_prior(labels.to(device))
    order = model.layout.characteristic_columns
    places = [order.index(column) for column in model.layout[characteristic]]
    return Gaussian(prior.loc[:, places].cpu(), prior.scale[:, places].cpu())


def _encode(model: LabelledVAE, images: Images, labels: Labels | None) -> Gaussian:
    locs, scales = [], []
    with asked(model, f"encode(images), images of shape {tuple(images.shape[1:])}"):
        for first in range(0, len(images), CHUNK):
            part = slice(first, first + CHUNK)
            known = None if labels is None else padded(labels[part]).to(images.device)
            posterior = require_posterior(model, model.encode(padded(images[part]), known))
            size = len(images[part])
            locs.append(posterior.loc[:size].float().cpu())
            scales.append(posterior.scale[:size].float().cpu())
    found = Gaussian(torch.cat(locs), torch.cat(scales))
    if not bool(torch.isfinite(found.loc).all() & torch.isfinite(found.scale).all()):
        raise NonFiniteError("the encoder gave NaN or infinity", where=type(model).__name__)
    return found


def read_images(data: DataSet, ids: Ids) -> Images:
    """Some images of a data set; a failure names the data set."""
    with blamed(data, "data set", f"batch(ids), {len(ids)} ids"):
        return data.batch(ids).images


def assignment_half(ids: Ids) -> Bools:
    """Half of the images, by a hash of their ids: columns are assigned on it, and measured on the other half."""
    return np.fromiter((stream_key(0, ASSIGNMENT_SALT, int(i)) % 2 == 0 for i in ids), bool, len(ids))


@exact_arithmetic()
def prepare(
    model: LabelledVAE,
    data: DataSet,
    ids: Ids,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    judge: Judge | None = None,
    characteristics: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Subject:
    """Encodes the images once and, for a model without characteristics, assigns columns to labels.

    Args:
        model, data: what to evaluate.
        ids: which images; they are taken in ascending order.
        seed: the evaluation's seed.
        device: where the network runs; a module is moved there.
        batch_size: rows in flight.
        judge: the independent classifier.
        characteristics: only these; an unknown one is a ``UsageError``.
        progress: called with (images encoded, images).

    Raises:
        LabelMismatchError: if the data lack a label of the model.
        NonFiniteError: if the encoder gives NaN or infinity.
        UndefinedError: if there is no image.
    """
    if len(ids) == 0:
        raise UndefinedError("there is no image to evaluate", where=data.spec)
    place = torch.device(device)
    if isinstance(model, torch.nn.Module):
        model.to(place)
    ordered = np.unique(np.asarray(ids, dtype=np.int64))
    schema = model.labels if len(model.labels) else data.schema
    labels = torch.from_numpy(label_columns(data, schema, ordered))
    schema.validate(labels, data.spec)
    stride = max(batch_size // CHUNK, 1) * CHUNK
    parts = []
    for first in range(0, len(ordered), stride):
        rows = slice(first, first + stride)
        images = read_images(data, ordered[rows]).to(place)
        parts.append(_encode(model, images, labels[rows] if isinstance(model, GivenLabels) else None))
        if progress is not None:
            progress(min(first + stride, len(ordered)), len(ordered))
    posterior = Gaussian(torch.cat([p.loc for p in parts]), torch.cat([p.scale for p in parts]))
    for name in characteristics or ():
        model.layout[name] if model.layout.characteristics else schema.index(name)
    subject = Subject(
        model, data, schema, model.layout, ordered, labels, posterior, seed, place, judge,
        batch_size=batch_size, selected=characteristics,
    )  # fmt: skip
    return subject if model.layout.characteristics else _with_assigned_columns(subject)


def _with_assigned_columns(subject: Subject) -> Subject:
    """Assigns columns on half of the images and keeps the other half for every value."""
    half = assignment_half(subject.ids)
    labels = subject.labels.numpy().astype(np.float64)
    found = assign_columns(
        subject.codes.numpy()[half].astype(np.float64),
        labels[half],
        [label.kind != "continuous" for label in subject.schema],
        seed=subject.seed,
    )
    columns = dict(zip(subject.schema.names, found.columns, strict=True))
    kept = torch.from_numpy(~half)
    return replace(
        subject,
        layout=LatentLayout(subject.layout.dim, {n: (c,) for n, c in columns.items() if c is not None}),
        ids=subject.ids[~half],
        labels=subject.labels[kept],
        posterior=subject.posterior.rows(kept),
        assigned=True,
        unrestricted=subject,
        unassigned=tuple(n for n, c in columns.items() if c is None),
    )
