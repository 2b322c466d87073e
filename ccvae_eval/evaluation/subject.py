"""Subject of an evaluation: a model and its images, encoded once, with their random streams.

The network is called on fixed batches only (ids ascending, the last one padded), so that no number depends on
the batch size, the order of the metrics or the number of workers (docs/metrics.md, section 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.devices import exact_arithmetic
from ccvae_eval.core.errors import NonFiniteError, UndefinedError, UnsupportedError
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY, forget_pages
from ccvae_eval.core.random_streams import normals, stream_key, uniforms
from ccvae_eval.core.types import Bools, Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import label_columns, match_labels
from ccvae_eval.evaluation.deprecated import deprecated_method
from ccvae_eval.evaluation.result_table import Groups, require_classes
from ccvae_eval.judge import Judge, JudgeSource
from ccvae_eval.model.checks import first_batch_warnings, model_call, require_finite, require_images, require_posterior
from ccvae_eval.model.fixed_batches import (
    Chunk,
    empty_rows,
    fixed_batch,
    in_fixed_batches,
    padded,
    rows_like,
    set_rows,
    unpadded,
    whole_batches,
)
from ccvae_eval.model.interface import (
    GivenLabels,
    HasConditionalPrior,
    Intervenes,
    LabelledVAE,
    LabelSchema,
    LatentLayout,
    Predicts,
    Trainable,
    supports,
    type_name,
)
from ccvae_eval.model.latents import ClassGaussians, CodeRegression, class_gaussians, code_regression
from ccvae_eval.plugins.attribution import plugin_call
from ccvae_eval.statistics.assignment import assign_dimensions
from ccvae_eval.statistics.resampling import BLOCK

CPU = torch.device("cpu")

FLOAT_BYTES = 4
"""Bytes of a float32 number; images of half precision are converted."""
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a continuous label at which it is set, in place of classes."""
ASSIGNMENT_SALT = "assignment-half"

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[int, int], None]


def once_per_subject(compute: Callable[Concatenate[Subject, P], T]) -> Callable[Concatenate[Subject, P], T]:
    """Makes a function of a subject compute its result once for each combination of its other arguments."""

    @wraps(compute)
    def function(subject: Subject, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return subject.cached((compute.__qualname__, *args, *kwargs.items()), lambda: compute(subject, *args, **kwargs))

    return function


@dataclass(frozen=True, eq=False)
class Subject:
    r"""A model and the images that it is evaluated on; create it with :func:`prepare`.

    Args:
        model: the model.
        data: the data set.
        schema: the labels, in the order of the columns of ``labels``.
        layout: latent dimensions of each characteristic: the model's layout, or the assigned one.
        ids: evaluated images, ascending.
        labels: shape :math:`(N, L)`, NaN = missing.
        posterior: q(z|x) of every image, shape :math:`(N, D)`, on the CPU.
        seed: seed of the evaluation.
        device: device of the network.
        judge_source: where the judge comes from; see :attr:`judge`.
        assigned: True if ``layout`` was assigned on held-out images because the model has no characteristics.
        unassigned: labels for which no latent dimension exceeds the permutation null.
        batch_size: images read at once; no number depends on it.
        selected: characteristics that the user selected; None = all.
        unrestricted: if ``layout`` was assigned, the subject with all images and the model's own layout.
        trained_on: training images of the model in the same data set, if they are known and none of them is evaluated.
        by: label of the data by whose classes values are shown as well; None = not shown by class.
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
    judge_source: JudgeSource = field(default_factory=JudgeSource)
    assigned: bool = False
    unassigned: tuple[str, ...] = ()
    batch_size: int = 256
    selected: tuple[str, ...] | None = None
    unrestricted: Subject | None = None
    trained_on: Ids | None = None
    by: str | None = None
    _cache: dict[tuple[object, ...], object] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fixed_batch(self) -> int:
        """Rows of each call of a network on the subject's device."""
        return fixed_batch(self.device, self.data.input_shape)

    @property
    def characteristics(self) -> tuple[str, ...]:
        """The characteristics to evaluate: those of the layout that the user selected."""
        names = tuple(self.layout.characteristics)
        return names if self.selected is None else tuple(name for name in names if name in self.selected)

    @property
    def judge(self) -> Judge | None:
        """The independent classifier; None without one, and until one is trained (``Needs.judge`` asks for it)."""
        return self.judge_source.judge

    @property
    def can_be_judged(self) -> bool:
        """False if no judged value could be defined: the decoder fails, or no label has two classes or values."""
        counts = (len(set(self.classes(name).tolist()) - {-1}) for name in self.schema.names)
        return any(count > 1 for count in counts) and self._decodes

    @cached_property
    def _decodes(self) -> bool:
        """True if the decoder returns finite images of the data's shape for the first batch."""
        try:
            self.decode(self.codes[: self.fixed_batch])
        except Exception:  # the metrics that decode report it
            return False
        return True

    def first_batch_warnings(self) -> list[str]:
        """Suspicions about the model's settings, from the first batch; see :func:`first_batch_warnings`.

        Raises:
            PluginError: the decoded pixels do not fit the model's range.
        """
        first = self.ids[: self.fixed_batch]
        images = read_images(self.data, first).to(self.device)
        given = self.labels[: len(first)].to(self.device) if supports(self.model, GivenLabels) else None
        return first_batch_warnings(self.model, images, self.posterior.rows(slice(0, len(first))), given)

    @property
    def movable(self) -> tuple[str, ...]:
        """The characteristics that can be intervened on.

        The characteristics to evaluate; for a model with its own interventions (``Intervenes``), every selected label.
        """
        if not supports(self.model, Intervenes):
            return self.characteristics
        return tuple(name for name in self.schema.names if self.selected is None or name in self.selected)

    @cached_property
    def codes(self) -> Codes:
        """One posterior sample of each image, shape (N, D)."""
        codes = torch.from_numpy(empty_rows((len(self), self.layout.dim)))
        for block in self.blocks():
            rows = slice(block.start, block.stop)
            noise = self.noise("posterior", self.ids[rows], self.layout.dim)
            codes[rows] = self.posterior.rows(rows).at(noise)
            _forget_pages(len(self))
        return codes

    def latents(self, columns: Sequence[int], code: Literal["sample", "mean"] = "sample") -> Floats:
        """Sampled codes or posterior means in some latent dimensions, shape (N, len(columns))."""
        codes = self.codes if code == "sample" else self.posterior.loc
        found = np.empty((len(self), len(columns)))
        for block in self.blocks():
            found[block.start : block.stop] = codes[block.start : block.stop, list(columns)].numpy()
            _forget_pages(len(self))
        return found

    @cached_property
    def given(self) -> frozenset[str]:
        """Characteristics whose latent dimensions the encoder computes from the labels."""
        return frozenset(self.model.given) if supports(self.model, GivenLabels) else frozenset()

    @cached_property
    def groups(self) -> Groups | None:
        """The images by class of the label ``by``, which the model need not have; None without one."""
        if self.by is None:
            return None
        if self.by in self.schema:
            label, column = self.schema[self.by], self.column(self.by).numpy()
        else:
            label = self.data.schema[self.by]
            column = label_columns(self.data, LabelSchema((label,)), self.ids)[:, 0]
        return Groups(self.by, {label.class_name(k): column == k for k in range(label.cardinality)})

    def noise(self, purpose: str, ids: Ids, size: int) -> Tensor:
        """Standard normal draws seeded by (seed, purpose, image), shape (n, size)."""
        return normals(self.seed, purpose, ids, size)

    def uniforms(self, purpose: str, ids: Ids, size: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Uniform draws seeded by (seed, purpose, image), shape (n, size)."""
        return uniforms(self.seed, purpose, ids, size)

    def blocks(self, index: int = 1, count: int = 1) -> list[range]:
        """Rows of every ``count``-th block of 1,024 images, from block ``index`` (1 = the first) on."""
        starts = range((index - 1) * BLOCK, len(self), count * BLOCK)
        return [range(first, min(first + BLOCK, len(self))) for first in starts]

    def chunks(self, index: int = 1, count: int = 1) -> Iterator[Chunk]:
        """Yields the images in fixed batches, all or those of some :meth:`blocks`.

        ``batch_size`` images of a block are read at once.
        """
        batch = self.fixed_batch
        stride = whole_batches(self.batch_size, batch)
        for block in self.blocks(index, count):
            _forget_pages(len(self))
            for first in block[::stride]:
                images = read_images(self.data, self.ids[first : min(first + stride, block.stop)])
                for offset in range(0, len(images), batch):
                    rows = slice(first + offset, min(first + offset + batch, block.stop))
                    part = images[offset : offset + batch].to(self.device)
                    yield Chunk(rows, self.ids[rows], part, self.posterior.rows(rows), self.codes[rows])

    def subsample(self, size: int) -> Subject:
        """The subject restricted to ``size`` evenly spaced images, without encoding them again."""
        if size >= len(self):
            return self
        rows = np.arange(size) * len(self) // size
        kept = torch.from_numpy(rows)
        return replace(self, ids=self.ids[rows], labels=self.labels[kept], posterior=self.posterior.rows(kept))

    def decode(self, codes: Codes, *, check: bool = True) -> Images:
        """The mean image of each code, decoded in fixed batches, on the subject's device.

        Args:
            codes: shape (N, D).
            check: False to leave :func:`require_finite` to the caller, which waits for the device.

        Raises:
            NonFiniteError: the decoder returned NaN or infinity.
        """
        with model_call(self.model, f"decode(codes), codes of shape (N, {codes.shape[1]})"):
            images = in_fixed_batches(self._decode, codes.to(self.device), self.fixed_batch)
        if check:
            require_finite(self.model, images)
        return images

    def _decode(self, codes: Codes) -> Images:
        """Decodes one fixed batch; checks the first one."""
        images = self.model.decode(codes)
        self.cached(("decoded",), lambda: require_images(self.model, images, len(codes), self.data.input_shape))
        return images.float() if images.dtype.itemsize < FLOAT_BYTES else images  # half precision

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x) of any images, in fixed batches, on the CPU; ``labels`` are passed to an encoder that takes labels."""
        given = labels if supports(self.model, GivenLabels) else None
        return _encode(self.model, images.to(self.device), given)

    @cached_property
    def log_probabilities(self) -> dict[str, Tensor | Gaussian] | None:
        """The model's prediction of each label from posterior means; None if it does not predict."""
        return self.predicted(sampled=False)

    def predicted(self, *, sampled: bool) -> dict[str, Tensor | Gaussian] | None:
        """The model's prediction of each label; None if it does not predict.

        Labels are not passed to an encoder that takes them, so the predictions depend on the image alone.

        Args:
            sampled: uses posterior samples instead of posterior means.
        """
        if not supports(self.model, Predicts):
            return None
        found: dict[str, Tensor | Gaussian] = {}
        with model_call(self.model, "predict(images, codes)"):
            for chunk in self.chunks():
                images = padded(chunk.images, self.fixed_batch)
                if supports(self.model, GivenLabels):
                    q = self.model.encode(images)
                    noise = padded(self.noise("posterior", chunk.ids, self.layout.dim), len(images)).to(self.device)
                    codes = q.at(noise) if sampled else q.loc
                else:
                    codes = padded(chunk.codes if sampled else chunk.posterior.loc, len(images)).to(self.device)
                parts = {n: unpadded(v, len(chunk)) for n, v in self.model.predict(images, codes).items()}
                found = found or {name: rows_like(part, len(self)) for name, part in parts.items()}
                if parts.keys() != found.keys():
                    raise ValueError(f"the labels must be those of the first batch, {list(found)}, got {list(parts)}")
                for name, part in parts.items():
                    set_rows(found[name], chunk.rows, part)
        return found

    def column(self, label: str) -> Tensor:
        """Values of one label, shape (N,), NaN = missing."""
        return self.labels[:, self.schema.index(label)]

    @once_per_subject
    def known_values(self, label: str) -> Tensor:
        """Values of one label in the images that have it, ascending, shape (n,)."""
        column = self.column(label)
        return column[~column.isnan()].sort().values

    @once_per_subject
    def levels(self, label: str) -> Tensor:
        """The quantiles ``LEVELS`` of a continuous label's known values, each once, ascending, shape (K,), float64.

        They take the place of classes: an image is of the class k if level k is the nearest to its value.
        """
        known = self.known_values(label).double()
        if not len(known):
            return known
        quantiles = known.quantile(torch.tensor(LEVELS, dtype=torch.float64), interpolation="nearest")
        return torch.from_numpy(np.unique(quantiles.numpy()))

    def cardinality(self, label: str) -> int:
        """Number of classes of a label, or of the levels of a continuous one."""
        return self.schema[label].cardinality or len(self.levels(label))

    def class_name(self, label: str, index: int) -> str:
        """Name of a class, or the value of a level of a continuous label, for reports."""
        schema = self.schema[label]
        return f"{self.levels(label)[index]:g}" if schema.kind == "continuous" else schema.class_name(index)

    def class_values(self, label: str, classes: Tensor, rows: slice | None = None) -> Tensor:
        """The label of images of these classes, shape (n,): a class is its own index, a level its value in float64.

        Args:
            label: the label.
            classes: a class or level of each image, shape (n,); the value for -1 is NaN.
            rows: the images; the level of an image then stands for its own value. None = any images.
        """
        values = classes.float()
        if self.schema[label].kind == "continuous":
            values = self.levels(label)[classes.clamp_min(0)]
            if rows is not None:
                own = classes == self.current_class(label)[rows]
                values = torch.where(own, self.current_value(label)[rows], values)
        return torch.where(classes >= 0, values, torch.nan)

    def class_of(self, label: str, value: float) -> int:
        """The class of a value of a label: the index that it is, or the nearest level of a continuous label."""
        if self.schema[label].kind != "continuous":
            return int(value)
        return int(self._nearest_level(label, torch.tensor([value], dtype=torch.float64))[0])

    def _nearest_level(self, label: str, values: Tensor) -> Tensor:
        levels = self.levels(label)
        if not len(levels):
            return torch.full((len(values),), -1)
        return torch.where(values.isnan(), -1, (values.nan_to_num()[:, None] - levels).abs().argmin(1))

    @once_per_subject
    def classes(self, label: str) -> Tensor:
        """Class of each image by its label (continuous: the nearest level), shape (N,), int64; -1 = missing."""
        if self.schema[label].kind == "continuous":
            return self._nearest_level(label, self.column(label))
        return self.column(label).nan_to_num(-1.0).long()

    @once_per_subject
    def current_value(self, label: str) -> Tensor:
        """Value of a continuous label: its label, else the mean of the model's prediction, else NaN; shape (N,)."""
        values = self.column(label).double()
        predicted = (self.log_probabilities or {}).get(label) if bool(values.isnan().any()) else None
        if not isinstance(predicted, Gaussian):
            return values
        return torch.where(values.isnan(), predicted.loc.reshape(-1).double().cpu(), values)

    @once_per_subject
    def current_class(self, label: str) -> Tensor:
        """Class of each image: its label, else the model's prediction, else -1; shape (N,)."""
        if self.schema[label].kind == "continuous":
            return self._nearest_level(label, self.current_value(label))
        classes = self.classes(label)
        if not bool((classes < 0).any()):
            return classes
        predicted = (self.log_probabilities or {}).get(label)
        return torch.where(classes < 0, predicted.argmax(1), classes) if isinstance(predicted, Tensor) else classes

    @once_per_subject
    def target_class(self, label: str) -> Tensor:
        """Class other than the current one for each image, drawn at random; -1 if the current one is unknown.

        Also -1 if a continuous label has a single level.
        """
        now, cardinality = self.current_class(label), self.cardinality(label)
        if cardinality < 2:
            return torch.full_like(now, -1)
        draw = torch.from_numpy(self.uniforms(f"target/{label}", self.ids)[:, 0])
        step = 1 + (draw * (cardinality - 1)).long().clamp_max(cardinality - 2)
        return torch.where(now < 0, -1, (now + step) % cardinality)

    @once_per_subject
    def class_codes(self, characteristic: str) -> ClassGaussians:
        """Gaussians fitted to the sampled codes of each class, in the characteristic's latent dimensions."""
        codes = self.codes[:, list(self.layout[characteristic])]
        return class_gaussians(codes, self.classes(characteristic), self.schema[characteristic].cardinality)

    @once_per_subject
    def code_regression(self, characteristic: str) -> CodeRegression:
        """Regression of a characteristic's sampled codes on its continuous label; see :func:`code_regression`."""
        column = self.column(characteristic)
        codes = self.codes[:, list(self.layout[characteristic])]
        return code_regression(codes[~column.isnan()], column[~column.isnan()])

    def cached(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Returns a value that belongs to the subject; computes it at the first call only."""
        if key not in self._cache:
            self._cache[key] = compute()
        return cast("T", self._cache[key])

    @property
    def no_prior(self) -> str:
        """The reason of values for which the model would draw a characteristic from p(z_c|y), if it has none."""
        why = f"{type_name(self.model)} has no p(z_c|y)"
        if self.assigned:
            return f"{why}, because it was trained without labels; disentanglement measures such models"
        if self.characteristics and not supports(self.model, Trainable):
            return f"{why}: give wrap(prior=...), or write the method conditional_prior(labels) of its class"
        return why

    now = deprecated_method("now", "current_class")
    targets = deprecated_method("targets", "target_class")
    once = deprecated_method("once", "cached")
    thinned = deprecated_method("thinned", "subsample")

    @once_per_subject
    def prior_of(self, characteristic: str) -> Gaussian:
        """p(z_c | y_c = v) for each class or level v of one characteristic, shape (K, d).

        Raises:
            UnsupportedError: the model has no conditional prior.
        """
        classes = torch.arange(self.cardinality(characteristic))
        return self.prior_at(characteristic, self.class_values(characteristic, classes))

    def prior_at(self, characteristic: str, values: Tensor) -> Gaussian:
        """p(z_c | y_c = v) for some values v of a label, shape (n,), as (n, d); it does not depend on other labels.

        Raises:
            UnsupportedError: the model has no conditional prior.
        """
        model, schema = self.model, self.schema
        if not supports(model, HasConditionalPrior):
            raise UnsupportedError(self.no_prior)
        labels = torch.zeros(len(values), len(schema))
        labels[:, schema.index(characteristic)] = values.float()
        with model_call(model, f"conditional_prior(labels), labels of shape (N, {len(schema)})"):
            prior = model.conditional_prior(labels.to(self.device))
        order = model.layout.characteristic_columns
        places = [order.index(column) for column in model.layout[characteristic]]
        return Gaussian(prior.loc[:, places].cpu(), prior.scale[:, places].cpu())


def _encode(model: LabelledVAE, images: Images, labels: Labels | None) -> Gaussian:
    locs, scales = [], []
    with model_call(model, f"encode(images), images of shape {tuple(images.shape[1:])}"):
        for first in range(0, len(images), batch := fixed_batch(images.device, images.shape[1:])):
            part = slice(first, first + batch)
            known = None if labels is None else padded(labels[part], batch).to(images.device)
            posterior = require_posterior(model, model.encode(padded(images[part], batch), known))
            size = len(images[part])
            locs.append(posterior.loc[:size].float().cpu())
            scales.append(posterior.scale[:size].float().cpu())
    found = Gaussian(torch.cat(locs), torch.cat(scales))
    if not bool(torch.isfinite(found.loc).all() & torch.isfinite(found.scale).all()):
        raise NonFiniteError("the encoder returned NaN or infinity", where=type_name(model))
    return found


def _forget_pages(images: int) -> None:
    if images > MAX_IN_MEMORY:  # codes of fewer are not mapped
        forget_pages()


def read_images(data: DataSet, ids: Ids) -> Images:
    """Reads some images of a data set; a failure is attributed to the data set."""
    with plugin_call(data, "data set", f"batch(ids), {len(ids)} ids"):
        return data.batch(ids).images


def assignment_half(ids: Ids) -> Bools:
    """Mask of the half of the images on which latent dimensions are assigned, by a hash of the ids."""
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
    judge: Judge | JudgeSource | None = None,
    characteristics: tuple[str, ...] | None = None,
    trained_on: Ids | None = None,
    by: str | None = None,
    progress: Progress | None = None,
) -> Subject:
    """Encodes the images once and, for a model without characteristics, assigns latent dimensions to labels.

    Args:
        model, data: the model and the data set.
        ids: images to evaluate; they are sorted.
        seed: seed of the evaluation.
        device: device of the network; a module is moved there.
        batch_size: images read at once.
        judge: an independent classifier, or a source that trains one if a metric asks for it.
        characteristics: selects these; None = all.
        trained_on, by: as in :class:`Subject`.
        progress: called with (images encoded, images).

    Raises:
        LabelMismatchError: the data set has no label of the model, or lacks one that the encoder takes.
        NonFiniteError: the encoder returned NaN or infinity.
        UndefinedError: there are no images.
        UsageError: an unknown characteristic; an unknown or continuous label ``by``.
    """
    if len(ids) == 0:
        raise UndefinedError("there are no images to evaluate", where=data.spec)
    place = torch.device(device)
    if isinstance(model, torch.nn.Module):
        model.to(place)
    ordered = np.unique(np.asarray(ids, dtype=np.int64))
    schema = model.labels if len(model.labels) else data.schema
    if by is not None:
        require_classes(by, data.schema if by not in schema else schema)
    labels = torch.from_numpy(label_columns(data, schema, ordered))
    if supports(model, GivenLabels):
        match_labels(data.schema, schema, data.spec)  # an encoder that takes labels needs all of them
    schema.validate(labels, data.spec)
    stride = whole_batches(batch_size, fixed_batch(place, data.input_shape))
    shape = len(ordered), model.layout.dim
    posterior = Gaussian(*(torch.from_numpy(empty_rows(shape)) for _ in range(2)))
    for first in range(0, len(ordered), stride):
        rows = slice(first, first + stride)
        images = read_images(data, ordered[rows]).to(place)
        part = _encode(model, images, labels[rows] if supports(model, GivenLabels) else None)
        posterior.loc[rows], posterior.scale[rows] = part.loc, part.scale
        _forget_pages(len(ordered))
        if progress is not None:
            progress(min(first + stride, len(ordered)), len(ordered))
    for name in characteristics or ():
        model.layout[name] if model.layout.characteristics else schema.index(name)
    source = judge if isinstance(judge, JudgeSource) else JudgeSource(judge)
    subject = Subject(
        model, data, schema, model.layout, ordered, labels, posterior, seed, place, source,
        batch_size=batch_size, selected=characteristics, trained_on=trained_on, by=by,
    )  # fmt: skip
    return subject if model.layout.characteristics else _with_assigned_dimensions(subject)


def _with_assigned_dimensions(subject: Subject) -> Subject:
    """Assigns latent dimensions on half of the images and restricts the subject to the other half."""
    half = assignment_half(subject.ids)
    labels = subject.labels.numpy().astype(np.float64)
    found = assign_dimensions(
        subject.codes.numpy()[half].astype(np.float64),
        labels[half],
        [label.kind != "continuous" for label in subject.schema],
        seed=subject.seed,
    )
    dimensions = dict(zip(subject.schema.names, found.dimensions, strict=True))
    kept = torch.from_numpy(~half)
    return replace(
        subject,
        layout=LatentLayout(subject.layout.dim, {n: (c,) for n, c in dimensions.items() if c is not None}),
        ids=subject.ids[~half],
        labels=subject.labels[kept],
        posterior=subject.posterior.rows(kept),
        assigned=True,
        unrestricted=subject,
        unassigned=tuple(n for n, c in dimensions.items() if c is None),
    )
