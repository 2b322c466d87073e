"""The model interface: labels, the latent layout, the required protocol ``LabelledVAE`` and optional capabilities.

Each capability is a protocol of its own. Code that needs one asks ``supports(model, Predicts)``, never for the model's
name or class. The capabilities of data sets (``ccvae_eval.data.interface``) are asked for in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar, runtime_checkable

from ccvae_eval.core.errors import LabelMismatchError, UsageError, suggestion
from ccvae_eval.core.typed import plain, read
from ccvae_eval.core.types import Codes, Gaussian, Images, Labels, Plain, Points

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Generator, Tensor
    from typing_extensions import TypeIs

T = TypeVar("T")

Kind = Literal["binary", "categorical", "continuous"]
KINDS: tuple[Kind, ...] = ("binary", "categorical", "continuous")


LONGEST_NAME = 1000
"""Characters of the name of a label or a class: names are keys of archives and parts of pages."""


def is_encodable(text: str) -> bool:
    """True unless a text has half of a surrogate pair, which no file can have.

    >>> is_encodable("a"), is_encodable("\\ud800")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Label:
    """A label: its name, its kind, and the class names of a categorical label.

    A binary label has the implicit classes ``("absent", "present")``; a continuous label has no classes.

    Raises:
        UsageError: an unknown kind, an empty name, one that files cannot have (see ``LONGEST_NAME``), fewer than two
            classes, or repeated class names.
    """

    name: str
    kind: Kind = "binary"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"label kind {self.kind!r} is unknown", where=self.name, hint=f"Use {', '.join(KINDS)}.")
        if not self.name:
            raise UsageError("a label must have a name")
        for name in (self.name, *self.classes):
            if "\0" in name or len(name) > LONGEST_NAME or not is_encodable(name):
                what = (
                    f"names of labels and classes must have at most {LONGEST_NAME} characters of Unicode, without NUL"
                )
                raise UsageError(what, where=ascii(name[:60]))
        if self.kind == "categorical" and len(self.classes) < 2:
            raise UsageError(
                f"a categorical label must have at least 2 classes, got {len(self.classes)}", where=self.name
            )
        if self.kind != "categorical" and self.classes:
            raise UsageError(f"a {self.kind} label cannot have class names", where=self.name)
        if len(set(self.classes)) != len(self.classes):
            raise UsageError("class names must be unique", where=self.name)

    @property
    def cardinality(self) -> int:
        """Number of classes: 2 for binary, K for categorical, 0 for continuous."""
        return {"binary": 2, "categorical": len(self.classes), "continuous": 0}[self.kind]

    def class_name(self, index: int) -> str:
        """Returns the name of a class, for reports."""
        return self.classes[index] if self.kind == "categorical" else ("absent", "present")[index]


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """The labels of a data set or model, in the column order of ``Labels`` tensors."""

    labels: tuple[Label, ...] = field(metadata={"key": ""})

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
        """Returns the column of a label; an unknown name is a ``UsageError`` with a suggestion."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UsageError(f"label {name!r} is unknown", hint=suggestion(name, self.names)) from None

    def __getitem__(self, name: str) -> Label:
        return self.labels[self.index(name)]

    def select(self, names: tuple[str, ...] | list[str]) -> LabelSchema:
        """Returns the schema of some of the labels, in the given order."""
        return LabelSchema(tuple(self[name] for name in names))

    def validate(self, labels: Labels, where: str = "labels") -> None:
        """Checks label values; NaN is a missing label and always allowed.

        Raises:
            LabelMismatchError: another shape than (N, L), infinity, or a value that is not a class index.
        """
        if labels.ndim != 2 or labels.shape[1] != len(self):
            raise LabelMismatchError(f"labels must have shape (N, {len(self)}), got {tuple(labels.shape)}", where=where)
        for column, label in enumerate(self.labels):
            present = labels[:, column][~labels[:, column].isnan()]
            if bool(present.isinf().any()):
                raise LabelMismatchError("label values must be finite", where=f"{where}: {label.name}")
            if label.kind == "continuous":
                continue
            outside = (present != present.round()) | (present < 0) | (present >= label.cardinality)
            if bool(outside.any()):
                raise LabelMismatchError(
                    f"values of a {label.kind} label must be whole numbers from 0 to {label.cardinality - 1}, got "
                    f"{present[outside][0].item():g}",
                    where=f"{where}: {label.name}",
                    hint="Leave missing labels empty (NaN).",
                )

    def as_plain(self) -> list[dict[str, Plain]]:
        """Returns the schema as plain data, for checkpoints and runs."""
        rows: list[dict[str, Plain]] = plain(self)
        return rows

    @classmethod
    def from_plain(cls, rows: Plain, where: str = "label schema") -> Self:
        """Inverse of :meth:`as_plain` for untrusted data; malformed data are a ``LabelMismatchError``."""
        return read(cls, rows, where, error=LabelMismatchError, extra=True)


def binary_schema(*names: str) -> LabelSchema:
    """Returns a schema of binary labels."""
    return LabelSchema(tuple(Label(name) for name in names))


@dataclass(frozen=True, slots=True)
class LatentLayout:
    """The latent dimensions of each characteristic (z_c); the remaining dimensions are style.

    Args:
        dim: number of latent dimensions.
        characteristics: for each characteristic its latent dimensions, counted from 0.

    Raises:
        UsageError: ``dim`` below 1, a dimension out of range or used twice, or a characteristic without one.

    >>> layout = LatentLayout(5, {"Eyeglasses": (0,), "Hair": (1, 2)})
    >>> layout.style
    (3, 4)
    >>> layout.characteristic_columns
    (0, 1, 2)
    """

    dim: int
    characteristics: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UsageError(f"the number of latent dimensions must be at least 1, got {self.dim}")
        owners: dict[int, str] = {}
        for name, columns in self.characteristics.items():
            if not columns:
                raise UsageError(f"{name!r} must have at least one latent dimension")
            for column in columns:
                if not 0 <= column < self.dim:
                    last = self.dim - 1
                    raise UsageError(f"latent dimensions of {name!r} must lie in 0 to {last}, got {column}")
                if column in owners:
                    raise UsageError(f"latent dimension {column} belongs to {owners[column]!r} and to {name!r}")
                owners[column] = name
        frozen = MappingProxyType({name: tuple(columns) for name, columns in self.characteristics.items()})
        object.__setattr__(self, "characteristics", frozen)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.dim, dict(self.characteristics))  # a mapping proxy cannot be pickled

    @property
    def characteristic_columns(self) -> tuple[int, ...]:
        """Latent dimensions of all characteristics (z_c), one characteristic after the other."""
        return tuple(column for columns in self.characteristics.values() for column in columns)

    @property
    def style(self) -> tuple[int, ...]:
        """Latent dimensions that belong to no characteristic."""
        taken = set(self.characteristic_columns)
        return tuple(column for column in range(self.dim) if column not in taken)

    def __getitem__(self, characteristic: str) -> tuple[int, ...]:
        if characteristic not in self.characteristics:
            raise UsageError(
                f"characteristic {characteristic!r} is unknown", hint=suggestion(characteristic, self.characteristics)
            )
        return self.characteristics[characteristic]


@runtime_checkable
class LabelledVAE(Protocol):
    """The required interface of a model."""

    @property
    def layout(self) -> LatentLayout: ...

    @property
    def labels(self) -> LabelSchema: ...

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        """Returns q(z|x), or q(z|x,y) if the encoder takes labels."""
        ...

    def decode(self, codes: Codes) -> Images:
        """Returns the mean of p(x|z), in [0, 1]."""
        ...


@runtime_checkable
class TakesShape(Protocol):
    """The model states its input shape; data of another shape are refused before it is run."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images or (D,) of points."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """The model predicts its labels."""

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        """Returns for each label log-probabilities, shape (N, K), K = 2 if binary; a ``Gaussian`` if continuous."""
        ...


@runtime_checkable
class HasConditionalPrior(Protocol):
    """The model has a conditional prior p(z_c|y)."""

    def conditional_prior(self, labels: Labels) -> Gaussian:
        """Returns p(z_c|y) over ``layout.characteristic_columns``, in that order; NaN where the label is missing."""
        ...


@runtime_checkable
class Intervenes(Protocol):
    """The model defines do() itself, because no latent dimension belongs to a label."""

    def intervene(self, images: Images, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes:
        """Returns the codes after do(label = value) for each label of ``assignment``."""
        ...


@runtime_checkable
class GivenLabels(Protocol):
    """The encoder takes labels, so information about them in the codes is trivial and marked ``given``."""

    @property
    def given(self) -> tuple[str, ...]:
        """Characteristics whose latent dimensions are computed from the labels."""
        ...


@runtime_checkable
class StatesLikelihood(Protocol):
    """The model states p(x|z). Without it, reconstructions are scored by the Bernoulli cross-entropy."""

    @property
    def likelihood_name(self) -> str:
        """Name for reports, such as "laplace, scale 1"."""
        ...

    def log_likelihood(self, images: Images | Points, codes: Codes) -> Tensor:
        """Returns log p(x|z) in nats with its constants, summed over pixels and channels, shape (N,)."""
        ...


@runtime_checkable
class HasBound(Protocol):
    """The model has a bound on log p(x, y) and log p(x) other than the ELBO of a plain VAE."""

    def bound(self, images: Images | Points, labels: Labels, generator: Generator) -> Tensor:
        """Returns the bound on log p(x, y) of each row in nats, shape (N,), over the observed labels (not NaN)."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of a data set: images, labels and ids.

    Args:
        images: shape :math:`(N, C, H, W)` in [0, 1], or points :math:`(N, D)`.
        labels: shape :math:`(N, L)` in the schema's order, NaN = missing.
        ids: positions of the images in the data set.
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
    """The loss of one optimiser step.

    Args:
        name: name of its optimiser ("model", "adversary").
        loss: a scalar with gradient.
        terms: terms of the loss as numbers for history.csv, separate for supervised and unsupervised images.
        parameters: the parameters that this optimiser updates.
    """

    name: str
    loss: Tensor
    terms: Mapping[str, float]
    parameters: tuple[torch.nn.Parameter, ...]


@runtime_checkable
class Trainable(Protocol):
    """The model can be trained by ``ccvae_eval.training``."""

    def objectives(self, batch: Batch, generator: Generator) -> Iterator[Objective]:
        """Yields the objectives one by one; the trainer makes a step on each before it requests the next."""
        ...


@runtime_checkable
class NeedsAllLabels(Protocol):
    """A ``Trainable`` that cannot learn from an image with a missing label."""

    @property
    def needs_all_labels(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ModelContext:
    """Properties of the training data that a model is built for, besides its settings.

    Args:
        labels: the labels that it learns from.
        input_shape: (C, H, W) of images or (D,) of points.
        label_prior: p(y) over the classes of each label, from the observed labels; empty for a continuous label.
    """

    labels: LabelSchema
    input_shape: tuple[int, ...]
    label_prior: tuple[tuple[float, ...], ...]

    def as_plain(self) -> dict[str, Plain]:
        """Returns the context as plain data, for checkpoints."""
        found: dict[str, Plain] = plain(self)
        return found

    @classmethod
    def from_plain(cls, found: Plain, where: str = "model context") -> Self:
        """Inverse of :meth:`as_plain` for untrusted data; malformed data are a ``LabelMismatchError``."""
        return read(cls, found, where, error=LabelMismatchError, extra=True)


def uniform_prior(labels: LabelSchema) -> tuple[tuple[float, ...], ...]:
    """Returns a uniform p(y) over the classes of each label; empty for a continuous label."""
    return tuple(tuple(1 / label.cardinality for _ in range(label.cardinality)) for label in labels)


@runtime_checkable
class Rebuildable(Protocol):
    """A model that can be rebuilt from plain settings, a context and a state_dict, as a checkpoint stores them.

    A registered model is an ``nn.Module``. Its class also has ``Settings``, a frozen dataclass of plain fields with
    defaults (``--set KEY=VALUE``, the checkpoint's record), and the classmethod :meth:`from_settings`.
    """

    @property
    def settings(self) -> Any:
        """A frozen dataclass of plain values, an instance of the class's ``Settings``."""
        ...

    @property
    def context(self) -> ModelContext: ...

    @classmethod
    def from_settings(cls, settings: Mapping[str, Plain], context: ModelContext, seed: int = 0) -> Self:
        """Returns an untrained model, also on torch's meta device; invalid settings are a ``UsageError``."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any: ...


def supports(thing: object, capability: type[T]) -> TypeIs[T]:
    """True if a model or data set has a capability, which is a protocol such as ``Predicts`` or ``HasRegions``.

    A :class:`Proxy` answers for the object inside. Every other object has the capabilities whose members it has.
    """
    return thing.supports(capability) if isinstance(thing, Proxy) else isinstance(thing, capability)


@dataclass(eq=False, repr=False)
class Proxy(Generic[T]):
    """Base class of a model or data set that wraps another one and changes some of its members.

    All other public members are those of the inner object, and so are the capabilities. A subclass may override the
    method of a capability that the inner object lacks; it then has no effect. A proxy is evaluated, but neither trained
    nor rebuilt from settings.

    Args:
        inner: the wrapped model or data set.
    """

    inner: T

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("_"):  # while it is copied or unpickled, there is no inner object yet
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner, name)

    def supports(self, capability: type) -> bool:
        """The answer of :func:`supports`."""
        return capability not in (Trainable, Rebuildable) and supports(self.inner, capability)


def unwrapped(thing: Any) -> Any:
    """Returns the model or data set inside all proxies."""
    while isinstance(thing, Proxy):
        thing = thing.inner
    return thing


def type_name(thing: object) -> str:
    """Returns the name of the class inside all proxies, for messages."""
    return type(unwrapped(thing)).__name__
