"""What a model must be to be evaluated, and what more it may be.

``LabelledVAE`` is the least; each capability is a protocol of its own. A metric that needs one asks
``isinstance(model, Predicts)`` and nothing else: never the model's name, never ``hasattr``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor

from ccvae_eval.core.errors import LabelMismatchError, UsageError, suggestion
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain, Points

Kind = Literal["binary", "categorical", "continuous"]
KINDS: tuple[Kind, ...] = ("binary", "categorical", "continuous")


@dataclass(frozen=True, slots=True)
class Label:
    """One label: its name, its kind, and the names of its classes if it is categorical.

    A binary label has the classes ``("absent", "present")`` by implication; a continuous one has none.
    """

    name: str
    kind: Kind = "binary"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"label kind {self.kind!r} is unknown", where=self.name, hint=f"One of {', '.join(KINDS)}."
            )
        if not self.name:
            raise UsageError("a label needs a name")
        if self.kind == "categorical" and len(self.classes) < 2:
            raise UsageError("a categorical label needs at least two classes", where=self.name)
        if self.kind != "categorical" and self.classes:
            raise UsageError(f"a {self.kind} label has no class names", where=self.name)
        if len(set(self.classes)) != len(self.classes):
            raise UsageError("class names repeat", where=self.name)

    @property
    def cardinality(self) -> int:
        """Number of classes: 2 for binary, K for categorical, 0 for continuous."""
        return {"binary": 2, "categorical": len(self.classes), "continuous": 0}[self.kind]

    def class_name(self, index: int) -> str:
        """The name of one class, for reports."""
        return self.classes[index] if self.kind == "categorical" else ("absent", "present")[index]


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """The labels of a data set or model, in the order of the columns of ``Labels``."""

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            repeated = next(n for n in names if names.count(n) > 1)
            raise UsageError(f"label {repeated!r} appears twice")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: str) -> int:
        """The column of a label; an unknown name is an error that offers the nearest."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UsageError(f"label {name!r} is unknown", hint=suggestion(name, self.names)) from None

    def __getitem__(self, name: str) -> Label:
        return self.labels[self.index(name)]

    def select(self, names: tuple[str, ...] | list[str]) -> LabelSchema:
        """The schema of some of the labels, in the order given."""
        return LabelSchema(tuple(self[name] for name in names))

    def validate(self, labels: Labels, where: str = "labels") -> None:
        """Refuses labels outside their kind: 2 for a binary one, 1.5 for a class, infinity for any.

        NaN is a missing label and is always allowed.
        """
        if labels.ndim != 2 or labels.shape[1] != len(self):
            raise LabelMismatchError(f"labels have shape {tuple(labels.shape)}, expected (N, {len(self)})", where=where)
        for column, label in enumerate(self.labels):
            present = labels[:, column][~labels[:, column].isnan()]
            if bool(present.isinf().any()):
                raise LabelMismatchError("a label is infinite", where=f"{where}: {label.name}")
            if label.kind == "continuous":
                continue
            outside = (present != present.round()) | (present < 0) | (present >= label.cardinality)
            if bool(outside.any()):
                raise LabelMismatchError(
                    f"{present[outside][0].item():g} is no class of a {label.kind} label",
                    where=f"{where}: {label.name}",
                    hint=f"Expected whole numbers 0 to {label.cardinality - 1}; leave missing labels empty (NaN).",
                )

    def as_plain(self) -> list[dict[str, Plain]]:
        """The schema as plain data, for checkpoints and runs."""
        return [{"name": label.name, "kind": label.kind, "classes": list(label.classes)} for label in self.labels]

    @classmethod
    def from_plain(cls, plain: Plain, where: str = "label schema") -> Self:
        """The inverse of :meth:`as_plain`, for untrusted data."""
        try:
            return cls(tuple(Label(str(p["name"]), p["kind"], tuple(map(str, p["classes"]))) for p in plain))
        except (KeyError, TypeError) as error:
            raise LabelMismatchError("not a label schema", where=where, why=repr(error)) from None


def binary_schema(*names: str) -> LabelSchema:
    """The schema of binary labels with these names."""
    return LabelSchema(tuple(Label(name) for name in names))


@dataclass(frozen=True, slots=True)
class LatentLayout:
    """Which columns of z belong to which characteristic; the rest is style.

    >>> layout = LatentLayout(5, {"Eyeglasses": (0,), "Hair": (1, 2)})
    >>> layout.style
    (3, 4)
    >>> layout.characteristic_columns
    (0, 1, 2)
    """

    dim: int
    characteristics: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = self.characteristic_columns
        if self.dim < 1:
            raise UsageError(f"a latent space of {self.dim} dimensions is none")
        if any(not 0 <= column < self.dim for column in taken):
            raise UsageError(f"a characteristic owns a column outside 0 to {self.dim - 1}")
        if len(set(taken)) != len(taken):
            raise UsageError("two characteristics own the same column")
        if any(not columns for columns in self.characteristics.values()):
            raise UsageError("a characteristic owns no column")
        frozen = MappingProxyType({name: tuple(columns) for name, columns in self.characteristics.items()})
        object.__setattr__(self, "characteristics", frozen)

    @property
    def characteristic_columns(self) -> tuple[int, ...]:
        """The columns of all characteristics, one characteristic after the other."""
        return tuple(column for columns in self.characteristics.values() for column in columns)

    @property
    def style(self) -> tuple[int, ...]:
        """The columns that belong to no characteristic."""
        taken = set(self.characteristic_columns)
        return tuple(column for column in range(self.dim) if column not in taken)

    def __getitem__(self, characteristic: str) -> tuple[int, ...]:
        if characteristic not in self.characteristics:
            raise UsageError(
                f"characteristic {characteristic!r} is unknown",
                hint=suggestion(characteristic, self.characteristics),
            )
        return self.characteristics[characteristic]


@runtime_checkable
class LabelledVAE(Protocol):
    """The least that a model must do."""

    @property
    def layout(self) -> LatentLayout: ...

    @property
    def labels(self) -> LabelSchema: ...

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """q(z|x), or q(z|x,y) for an encoder that takes labels."""
        ...

    def decode(self, codes: Codes) -> Images:
        """The mean of p(x|z), in [0, 1]."""
        ...


@runtime_checkable
class TakesShape(Protocol):
    """The model says what shape its inputs have; data of another shape are refused before it is run."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images or (D,) of points."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """The model can tell its labels."""

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """For each label its log-probabilities, shape (N, K) with K = 2 for a binary one, or a ``Gaussian``."""
        ...


@runtime_checkable
class HasConditionalPrior(Protocol):
    """The model has p(z_c | y)."""

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """p(z_c|y) over ``layout.characteristic_columns``, in that order; NaN where the label is missing."""
        ...


@runtime_checkable
class Intervenes(Protocol):
    """The model intervenes in a way of its own, because no column belongs to a label."""

    def intervene(self, images: Images, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes: ...


@runtime_checkable
class GivenLabels(Protocol):
    """The encoder takes labels: what it tells about them is no finding, and is marked ``given``."""

    @property
    def given(self) -> tuple[str, ...]:
        """The characteristics whose columns were computed from the labels."""
        ...


@runtime_checkable
class StatesLikelihood(Protocol):
    """The model says what p(x|z) is. Without it, reconstructions are scored by the Bernoulli cross-entropy."""

    @property
    def likelihood_name(self) -> str:
        """For reports: "laplace, scale 1"."""
        ...

    def log_likelihood(self, images: Images | Points, codes: Codes) -> Tensor:
        """log p(x|z) in nats, summed over pixels and channels, its constants included, shape (N,)."""
        ...


@runtime_checkable
class HasBound(Protocol):
    """The model has a bound on log p(x, y) and log p(x) that is not the plain one of a VAE."""

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """The bound of each row in nats, shape (N,): on log p(x, y) of the labels that are there, NaN = missing."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Some images of a data set with what is known about them.

    Args:
        images: shape :math:`(N, C, H, W)` in [0, 1], or points :math:`(N, D)`.
        labels: shape :math:`(N, L)` in the schema's order, NaN = missing.
        ids: which images of the data set these are.
    """

    images: Images | Points
    labels: Labels
    ids: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Batch:
        return Batch(self.images.to(device), self.labels.to(device), self.ids)


@dataclass(frozen=True, slots=True)
class Objective:
    """What one optimiser step minimises.

    Args:
        name: names the optimiser that steps on it ("model", "adversary").
        loss: a scalar with gradient.
        terms: the parts of the loss as numbers, for history.csv; supervised and unsupervised apart.
        parameters: what this optimiser may move.
    """

    name: str
    loss: Tensor
    terms: Mapping[str, float]
    parameters: tuple[torch.nn.Parameter, ...]


@runtime_checkable
class Trainable(Protocol):
    """The model can be trained by ``ccvae_eval.training``."""

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """One objective after the other; the trainer steps each before it asks for the next."""
        ...


@runtime_checkable
class NeedsAllLabels(Protocol):
    """A ``Trainable`` that learns nothing from an image that lacks one of its labels."""

    @property
    def needs_all_labels(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a model is built for, besides its settings.

    Args:
        labels: the labels that it learns from.
        input_shape: (C, H, W) of images or (D,) of points.
        label_prior: for each label p(y) over its classes, from the observed labels; empty for a continuous one.
    """

    labels: LabelSchema
    input_shape: tuple[int, ...]
    label_prior: tuple[tuple[float, ...], ...]

    def as_plain(self) -> dict[str, Plain]:
        return {
            "labels": self.labels.as_plain(),
            "input_shape": list(self.input_shape),
            "label_prior": [list(p) for p in self.label_prior],
        }

    @classmethod
    def from_plain(cls, plain: Plain, where: str = "model context") -> Self:
        try:
            return cls(
                LabelSchema.from_plain(plain["labels"], where),
                tuple(int(n) for n in plain["input_shape"]),
                tuple(tuple(float(p) for p in row) for row in plain["label_prior"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LabelMismatchError("not a model's context", where=where, why=repr(error)) from None


def uniform_prior(labels: LabelSchema) -> tuple[tuple[float, ...], ...]:
    """p(y) without any label seen: uniform over the classes."""
    return tuple(tuple(1 / label.cardinality for _ in range(label.cardinality)) for label in labels)


@runtime_checkable
class Rebuildable(Protocol):
    """What a checkpoint needs: a module made from plain settings, whose weights are a state_dict.

    A registered model is an ``nn.Module`` whose class has, besides:

    * ``Settings``: a frozen dataclass of plain fields with defaults (``--set KEY=VALUE``, the checkpoint's record);
    * ``__init__(settings, context, generator)`` or the classmethod :meth:`from_settings`.
    """

    @property
    def settings(self) -> Any:
        """A frozen dataclass of plain values."""
        ...

    @property
    def context(self) -> ModelContext: ...

    @classmethod
    def from_settings(cls, settings: Mapping[str, Plain], context: ModelContext, seed: int = 0) -> Self:
        """An untrained model; wrong or unknown settings are a ``UsageError``. Must work on torch's meta device."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any: ...
