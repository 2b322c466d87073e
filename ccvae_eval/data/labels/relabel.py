"""Views of a data set with other labels: renamed, joined, split, or matched with a model's labels by name and class.

The images stay the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, NoReturn, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import LabelMismatchError, UsageError, listed, suggestion
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.interface import (
    DataSet,
    HasCounterfactuals,
    HasFactors,
    HasRedraws,
    HasRegions,
    HasVariety,
    NeedsNoPath,
    Renders,
)
from ccvae_eval.model.interface import Batch, Label, LabelSchema, Proxy
from ccvae_eval.plugins.attribution import plugin_call

Values = NDArray[np.float32]

SPLIT_PREFIX = "*="
"""Prefix of a request that splits a categorical label into one binary label for each class."""


@dataclass(frozen=True, slots=True)
class Column:
    """One label of the view, and the labels of the underlying data that it is made of.

    Args:
        label: the label of the view.
        sources: name of its source, or of the mutually exclusive binary labels that it joins into a categorical one.
        classes: for a single categorical source: the view's class index of each class of the source.
        indicated: for a single categorical source: the class that this binary label indicates.
    """

    label: Label
    sources: tuple[str, ...]
    classes: tuple[int, ...] = ()
    indicated: int | None = None

    @property
    def joined(self) -> bool:
        return len(self.sources) > 1

    @property
    def settable(self) -> bool:
        """True if a value of the label determines the value of its source."""
        return not self.joined and self.indicated is None

    def convert(self, sources: Values) -> Values:
        """Values of the sources, shape (N, sources), to values of the label, shape (N,)."""
        if self.indicated is not None:
            return np.where(np.isnan(sources[:, 0]), np.nan, sources[:, 0] == self.indicated).astype(np.float32)
        if self.joined:
            known = ~np.isnan(sources).any(axis=1)
            one = known & ((sources == 1).sum(axis=1) == 1)
            return np.where(one, np.argmax(np.nan_to_num(sources), axis=1), np.nan).astype(np.float32)
        if not self.classes:
            return sources[:, 0]
        return _looked_up(sources[:, 0], self.classes)

    def invert(self, values: Values) -> Values:
        """Values of a settable label to values of its source, both of shape (N,)."""
        if not self.classes:
            return values
        back = np.full(self.label.cardinality, -1)
        back[list(self.classes)] = np.arange(len(self.classes))
        unknown = [self.label.class_name(int(v)) for v in values[~np.isnan(values)] if back[int(v)] < 0]
        if unknown:
            raise LabelMismatchError(f"the data have no class {unknown[0]!r}", where=self.label.name)
        return _looked_up(values, back)


def _looked_up(values: Values, table: Sequence[int] | NDArray[Any]) -> Values:
    missing = np.isnan(values)
    found = np.asarray(table, np.float32)[np.where(missing, 0, values).astype(np.int64)]
    return np.where(missing, np.nan, found).astype(np.float32)


def convert_labels(values: Values, schema: LabelSchema, columns: Collection[Column]) -> Values:
    """Convert labels in the order of ``schema``, shape (N, L), to the labels of some columns."""
    found = [column.convert(values[:, [schema.index(name) for name in column.sources]]) for column in columns]
    return np.stack(found, axis=1) if found else np.empty((len(values), 0), np.float32)


class _FullDataSet(DataSet, HasRegions, HasCounterfactuals, HasRedraws, Renders, NeedsNoPath, Protocol):
    """A data set with every capability."""


class Relabelled(Proxy[_FullDataSet]):
    """View of a data set with other labels; made by :func:`relabelled` and :func:`aligned`.

    The view keeps the capabilities of the data set: regions (a joined label has the union of its parts' regions) and
    factors always; counterfactuals, redraws and variety unless a label is joined or split, because a value of such a
    label does not determine the value of its source; rendering if, in addition, no label is left out.

    Args:
        data: any data set.
        columns: the labels of the view.
        spec: the text from which ``open_data`` opens the view again.
        salt: enters the digest if the labels have another meaning than the data's; "" keeps the digest.
    """

    def __init__(self, data: DataSet, columns: Sequence[Column], spec: str, salt: str) -> None:
        super().__init__(cast("_FullDataSet", data))
        self.spec, self._salt = spec, salt
        self.schema = LabelSchema(tuple(column.label for column in columns))
        self._columns = {column.label.name: column for column in columns}
        settable = all(column.settable for column in columns)
        complete = settable and {column.sources[0] for column in columns} == set(data.schema.names)
        self._kept: tuple[type, ...] = (DataSet, HasRegions, HasFactors, NeedsNoPath)
        self._kept += (HasCounterfactuals, HasRedraws, HasVariety) if settable else ()
        self._kept += (Renders,) if complete else ()

    def supports(self, capability: type) -> bool:
        return capability in self._kept and super().supports(capability)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> NoReturn:
        del path, options
        raise UsageError("labels are renamed in the spec of a data set", hint="Write name[:path],label=NEW=OLD.")

    @cached_property
    def digest(self) -> str:
        if not self._salt:
            return self.inner.digest
        return blake2b(f"{self.inner.digest}/{self._salt}".encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, ids: Ids) -> Batch:
        with plugin_call(self.inner, "data set", f"batch(ids), {len(ids)} ids"):
            source = self.inner.batch(ids)
        labels = convert_labels(source.labels.numpy(), self.inner.schema, self._columns.values())
        return Batch(source.images, torch.from_numpy(labels), source.ids)

    def labels_of(self, ids: Ids) -> Values:
        return convert_labels(self.inner.labels_of(ids), self.inner.schema, self._columns.values())

    def conflicts(self) -> dict[str, tuple[int, int]]:
        """For each joined label the number of images with none and with several of its parts; both are missing."""
        every = self.inner.labels_of(np.arange(len(self)))
        joined = {name: column for name, column in self._columns.items() if column.joined}
        parts = {name: (every[:, self._places(column)] == 1).sum(axis=1) for name, column in joined.items()}
        return {name: (int((count == 0).sum()), int((count > 1).sum())) for name, count in parts.items()}

    def region(self, ids: Ids, label: str) -> Bools | None:
        parts = [part for name in self._column(label).sources if (part := self.inner.region(ids, name)) is not None]
        return np.asarray(np.logical_or.reduce(parts)) if parts else None

    def with_attribute(self, ids: Ids, label: str, value: Values) -> Images:
        column = self._column(label)
        return self.inner.with_attribute(ids, column.sources[0], column.invert(value))

    def redraw(self, ids: Ids, label: str, value: Values, draw: int) -> Images:
        column = self._column(label)
        return self.inner.redraw(ids, column.sources[0], column.invert(value), draw)

    def variety_names(self, label: str) -> tuple[str, ...]:
        return self.inner.variety_names(self._column(label).sources[0])

    def variety(self, ids: Ids, label: str) -> Floats:
        return self.inner.variety(ids, self._column(label).sources[0])

    def with_variety(self, ids: Ids, values: Mapping[str, Values], variety: Mapping[str, Floats]) -> Images:
        columns = {name: self._column(name) for name in (*values, *variety)}
        return self.inner.with_variety(
            ids,
            {columns[name].sources[0]: columns[name].invert(value) for name, value in values.items()},
            {columns[name].sources[0]: parameters for name, parameters in variety.items()},
        )

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of the factors; the variety of a renamed label has its new name, as in ``Glasses.shape``."""
        new = {column.sources[0]: name for name, column in self._columns.items() if column.settable}
        parts = [name.partition(".") for name in self.inner.factor_names]
        return tuple(new.get(owner, owner) + dot + rest for owner, dot, rest in parts)

    def render(self, factors: Floats, labels: Values) -> Images:
        source_labels = np.empty_like(labels)
        for values, column in zip(labels.T, self._columns.values(), strict=True):
            source_labels[:, self._places(column)] = column.invert(values)[:, None]
        return self.inner.render(factors, source_labels)

    def _places(self, column: Column) -> list[int]:
        return [self.inner.schema.index(name) for name in column.sources]

    def _column(self, label: str) -> Column:
        return self._columns[self.schema[label].name]


def relabelled(data: DataSet, requests: Sequence[str]) -> DataSet:
    """Rename, join and split labels; all other labels stay.

    Args:
        data: any data set.
        requests: ``NEW=OLD`` renames. ``NEW=A|B|C`` joins mutually exclusive binary labels into a categorical one with
            the classes A, B, C; the joined label is missing for an image with none or several of them. ``*=OLD``
            splits a categorical label, which may be a joined one, into a binary label ``OLD:CLASS`` for each class.

    Raises:
        UsageError: a request of another form, an unknown label, or a label that is requested twice.
        LabelMismatchError: a label to join is not binary, or one to split is not categorical.

    >>> from ccvae_eval.data.sets.faces import Faces
    >>> relabelled(Faces(n=10), ["Worn=Eyeglasses|Wearing_Hat"]).schema["Worn"].classes
    ('Eyeglasses', 'Wearing_Hat')
    >>> relabelled(Faces(n=10), ["*=Hair_Color"]).schema.names[-1]
    'Hair_Color:Gray'
    """
    if not requests:
        return data
    spec, salt = ",".join([data.spec, *(f"label={request}" for request in requests)]), "/".join(requests)
    splits = [request for request in requests if request.startswith(SPLIT_PREFIX)]
    others = [request for request in requests if request not in splits]
    if others:
        data = Relabelled(data, _renamed_or_joined(data, others), spec, "/".join(others))
    if splits:
        data = Relabelled(data, _split(data, splits), spec, salt)
    return data


def _renamed_or_joined(data: DataSet, requests: Sequence[str]) -> list[Column]:
    taken: dict[str, Column] = {}
    for request in requests:
        column = _requested(data, request)
        for name in column.sources:
            if name in taken:
                raise UsageError(f"label {name!r} is renamed or joined twice", where=f"--rename {request}")
            taken[name] = column
    return list(dict.fromkeys(taken.get(label.name, Column(label, (label.name,))) for label in data.schema))


def _require(data: DataSet, name: str, request: str, kind: str = "", hint: str = "") -> None:
    """Raise unless the data have the label, of the given kind if one is given."""
    where = f"--rename {request}"
    if name not in data.schema:
        raise UsageError(f"the data have no label {name!r}", where=where, hint=suggestion(name, data.schema.names))
    if kind and data.schema[name].kind != kind:
        raise LabelMismatchError(f"label {name!r} is {data.schema[name].kind}", where=where, hint=hint)


def _split(data: DataSet, requests: Sequence[str]) -> list[Column]:
    requested = {request.removeprefix(SPLIT_PREFIX).strip(): request for request in requests}
    for name, request in requested.items():
        _require(data, name, request, "categorical", "Only categorical labels can be split.")
    columns: list[Column] = []
    for label in data.schema:
        if label.name in requested:
            parts = (Label(f"{label.name}:{label.class_name(k)}") for k in range(label.cardinality))
            columns += [Column(part, (label.name,), indicated=k) for k, part in enumerate(parts)]
        else:
            columns.append(Column(label, (label.name,)))
    return columns


def _requested(data: DataSet, request: str) -> Column:
    new, equals, old = request.partition("=")
    sources = tuple(name.strip() for name in old.split("|"))
    if not equals or not new.strip() or not all(sources):
        raise UsageError(
            "the request is malformed", where=f"--rename {request}", hint="Write NEW=OLD, NEW=A|B|C or *=OLD."
        )
    for name in sources:
        _require(data, name, request)
    if len(sources) == 1:
        own = data.schema[sources[0]]
        return Column(Label(new.strip(), own.kind, own.classes), sources)
    for name in sources:
        _require(data, name, request, "binary", "Only binary labels can be joined.")
    return Column(Label(new.strip(), "categorical", sources), sources)


def label_columns(data: DataSet, schema: LabelSchema, ids: Ids) -> NDArray[np.float32]:
    """The labels of some images in a model's order, shape (N, L), NaN = missing.

    Labels that the model lacks are left out; classes get the model's indices by their names. A label that the data
    lack is missing for every image.

    Raises:
        LabelMismatchError: the data have no label of the model, have one in another kind, or have a class that the
            model lacks.
    """
    absent = absent_labels(data, schema)
    own = LabelSchema(tuple(label for label in schema if label.name not in absent))
    if absent and not len(own):
        own = schema  # raises
    found = convert_labels(data.labels_of(ids), data.schema, match_labels(data.schema, own, data.spec))
    labels = np.full((len(found), len(schema)), np.nan, np.float32)
    labels[:, [schema.index(label.name) for label in own]] = found
    return labels


def absent_labels(data: DataSet, schema: LabelSchema) -> tuple[str, ...]:
    """The labels of a model that the data lack."""
    return tuple(name for name in schema.names if name not in data.schema)


def remarks(data: DataSet, labels: Collection[str] | None = None) -> list[str]:
    """Sentences about files and labels that may not be as intended, from data sets that give them.

    Args:
        data: any data set.
        labels: the labels in use; default: all.
    """
    own = getattr(data, "remarks", None)
    return [] if own is None else list(own(labels))


def aligned(data: DataSet, schema: LabelSchema) -> DataSet:
    """The data set with a model's labels: the same images and digest, the model's order and classes.

    Its regions, counterfactuals, redraws and variety use the model's class indices.

    Raises:
        LabelMismatchError: as :func:`label_columns`.
    """
    if data.schema == schema or not len(schema):
        return data
    return Relabelled(data, match_labels(data.schema, schema, data.spec), data.spec, salt="")


def match_labels(available: LabelSchema, schema: LabelSchema, where: str) -> list[Column]:
    """The column of the data for each label of a model, by name; raises as :func:`label_columns`."""
    return [_match(available, label, where) for label in schema]


def _match(available: LabelSchema, label: Label, where: str) -> Column:
    if label.name not in available:
        raise LabelMismatchError(
            f"the data lack the label {label.name!r}, which the model was trained on",
            where=where,
            hint=f"{suggestion(label.name, available.names)} Rename a label with --rename '{label.name}=NAME'.",
        )
    own = available[label.name]
    if own.kind != label.kind:
        raise LabelMismatchError(
            f"label {label.name!r} is {own.kind} in the data and {label.kind} in the model",
            where=where,
            hint="Join mutually exclusive labels into a categorical one with --rename 'NAME=A|B|C'."
            if label.kind == "categorical"
            else "",
        )
    unknown = [name for name in own.classes if name not in label.classes]
    if unknown:
        raise LabelMismatchError(
            f"the model has no class {unknown[0]!r} of label {label.name!r}",
            where=where,
            hint=f"{suggestion(unknown[0], label.classes)} The data have the classes {listed(own.classes)}. In "
            "arrays, the numbers are the names of the classes.",
        )
    return Column(label, (label.name,), tuple(label.classes.index(name) for name in own.classes))
