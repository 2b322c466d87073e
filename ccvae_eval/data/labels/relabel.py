"""A data set under other labels: renamed, joined, split, or as a model orders them. The images stay what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from types import new_class
from typing import Any, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import LabelMismatchError, UsageError, suggestion
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
    Split,
)
from ccvae_eval.model.interface import Batch, Label, LabelSchema
from ccvae_eval.plugins.attribution import blamed

Values = NDArray[np.float32]

SPLIT = "*="
"""How a request begins that splits a label into one for each class."""


@dataclass(frozen=True, slots=True)
class Column:
    """One label, and the labels of the wrapped data that it comes from.

    Args:
        label: as it is seen from outside.
        sources: one name, or the exclusive binary labels that are joined into the classes of a categorical one.
        classes: of a single categorical source: our class index for each of its classes.
        one: of a single categorical source: the class whose presence this binary label says.
    """

    label: Label
    sources: tuple[str, ...]
    classes: tuple[int, ...] = ()
    one: int | None = None

    @property
    def joined(self) -> bool:
        return len(self.sources) > 1

    @property
    def settable(self) -> bool:
        """Whether a value of ours says which value theirs has."""
        return not self.joined and self.one is None

    def ours(self, theirs: Values) -> Values:
        """Their labels, shape (N, sources), as ours, shape (N,)."""
        if self.one is not None:
            return np.where(np.isnan(theirs[:, 0]), np.nan, theirs[:, 0] == self.one).astype(np.float32)
        if self.joined:
            known = ~np.isnan(theirs).any(axis=1)
            one = known & ((theirs == 1).sum(axis=1) == 1)
            return np.where(one, np.argmax(np.nan_to_num(theirs), axis=1), np.nan).astype(np.float32)
        if not self.classes:
            return theirs[:, 0]
        return _looked_up(theirs[:, 0], self.classes)

    def theirs(self, ours: Values) -> Values:
        """Our values as those of the single source."""
        if not self.classes:
            return ours
        back = np.full(self.label.cardinality, -1)
        back[list(self.classes)] = np.arange(len(self.classes))
        unknown = [self.label.class_name(int(v)) for v in ours[~np.isnan(ours)] if back[int(v)] < 0]
        if unknown:
            raise LabelMismatchError(f"the data have no class {unknown[0]!r}", where=self.label.name)
        return _looked_up(ours, back)


def _looked_up(values: Values, table: Sequence[int] | NDArray[Any]) -> Values:
    missing = np.isnan(values)
    found = np.asarray(table, np.float32)[np.where(missing, 0, values).astype(np.int64)]
    return np.where(missing, np.nan, found).astype(np.float32)


class Relabelled:
    """Another data set's images under other labels; made by :func:`relabelled` and ``matching.aligned``.

    It has the capabilities of the data set below: regions (a joined label lives where any of its parts does) and
    factors always; counterfactuals, re-draws and variety unless labels are joined or split, for there is no single
    label, or no single value, to set then; and it renders other factors if, besides, no label is left out.
    """

    def __init__(self, data: DataSet, columns: Sequence[Column], spec: str, salt: str) -> None:
        self.data = data
        self._columns = {column.label.name: column for column in columns}
        self._schema = LabelSchema(tuple(column.label for column in columns))
        self._spec, self._salt = spec, salt

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> NoReturn:
        del path, options
        raise UsageError("other labels are given with the spec of the data", hint="Write ...,label=NEW=OLD")

    @property
    def spec(self) -> str:
        return self._spec

    @property
    def schema(self) -> LabelSchema:
        return self._schema

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.data.input_shape

    @cached_property
    def digest(self) -> str:
        below = self.data.digest
        return blake2b(f"{below}/{self._salt}".encode(), digest_size=16).hexdigest() if self._salt else below

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, ids: Ids) -> Batch:
        with blamed(self.data, "data set", f"batch(ids), {len(ids)} ids"):
            below = self.data.batch(ids)
        return Batch(below.images, torch.from_numpy(self._ours(below.labels.numpy())), below.ids)

    def labels_of(self, ids: Ids) -> Values:
        return self._ours(self.data.labels_of(ids))

    def split(self, name: Split) -> Ids:
        return self.data.split(name)

    def conflicts(self) -> dict[str, tuple[int, int]]:
        """For each joined label how many images have none of its parts, and how many have several: both are missing."""
        every = self.data.labels_of(np.arange(len(self)))
        counted = {}
        for column in self._columns.values():
            if column.joined:
                parts = (every[:, self._places(column)] == 1).sum(axis=1)
                counted[column.label.name] = (int((parts == 0).sum()), int((parts > 1).sum()))
        return counted

    def _places(self, column: Column) -> list[int]:
        return [self.data.schema.index(name) for name in column.sources]

    def _ours(self, theirs: Values) -> Values:
        columns = [column.ours(theirs[:, self._places(column)]) for column in self._columns.values()]
        return np.stack(columns, axis=1) if columns else np.empty((len(theirs), 0), np.float32)

    def _column(self, label: str) -> Column:
        return self._columns[self._schema[label].name]


class _Regions(Relabelled):
    @property
    def region_source(self) -> str:
        return cast(HasRegions, self.data).region_source

    def region(self, ids: Ids, label: str) -> Bools | None:
        below = cast(HasRegions, self.data)
        parts = [part for name in self._column(label).sources if (part := below.region(ids, name)) is not None]
        return np.asarray(np.logical_or.reduce(parts)) if parts else None


class _Counterfactuals(Relabelled):
    def with_attribute(self, ids: Ids, label: str, value: Values) -> Images:
        column = self._column(label)
        below = cast(HasCounterfactuals, self.data)
        return below.with_attribute(ids, column.sources[0], column.theirs(value))


class _Redraws(Relabelled):
    def redraw(self, ids: Ids, label: str, value: Values, draw: int) -> Images:
        column = self._column(label)
        return cast(HasRedraws, self.data).redraw(ids, column.sources[0], column.theirs(value), draw)


class _Variety(Relabelled):
    def variety_names(self, label: str) -> tuple[str, ...]:
        return cast(HasVariety, self.data).variety_names(self._column(label).sources[0])

    def variety(self, ids: Ids, label: str) -> Floats:
        return cast(HasVariety, self.data).variety(ids, self._column(label).sources[0])

    def with_variety(self, ids: Ids, values: Mapping[str, Values], variety: Mapping[str, Floats]) -> Images:
        columns = {name: self._column(name) for name in (*values, *variety)}
        return cast(HasVariety, self.data).with_variety(
            ids,
            {columns[name].sources[0]: columns[name].theirs(value) for name, value in values.items()},
            {columns[name].sources[0]: parameters for name, parameters in variety.items()},
        )


class _Factors(Relabelled):
    @property
    def factor_names(self) -> tuple[str, ...]:
        """Theirs; the variety of a renamed label has its new name, as in ``Glasses.shape``."""
        new = {column.sources[0]: name for name, column in self._columns.items() if column.settable}
        parts = [name.partition(".") for name in cast(HasFactors, self.data).factor_names]
        return tuple(new.get(owner, owner) + dot + rest for owner, dot, rest in parts)

    def factors(self, ids: Ids) -> Floats:
        return cast(HasFactors, self.data).factors(ids)


class _Renders(Relabelled):
    @property
    def renderer(self) -> str:
        return cast(Renders, self.data).renderer

    def render(self, factors: Floats, labels: Values) -> Images:
        theirs = np.empty_like(labels)
        for ours, column in zip(labels.T, self._columns.values(), strict=True):
            theirs[:, self._places(column)] = column.theirs(ours)[:, None]
        return cast(Renders, self.data).render(factors, theirs)


class _NeedsNoPath(Relabelled):
    @property
    def needs_no_path(self) -> bool:
        return cast(NeedsNoPath, self.data).needs_no_path


ALWAYS: tuple[tuple[type, type[Relabelled]], ...] = (
    (HasRegions, _Regions),
    (HasFactors, _Factors),
    (NeedsNoPath, _NeedsNoPath),
)
IF_SETTABLE: tuple[tuple[type, type[Relabelled]], ...] = (
    (HasCounterfactuals, _Counterfactuals),
    (HasRedraws, _Redraws),
    (HasVariety, _Variety),
)
WITH_EVERY_LABEL: tuple[tuple[type, type[Relabelled]], ...] = ((Renders, _Renders),)


@cache
def _class_with(parts: tuple[type[Relabelled], ...]) -> type[Relabelled]:
    return new_class("Relabelled", (*parts, Relabelled), exec_body=lambda body: body.update(__module__=__name__))


def wrapped(data: DataSet, columns: Sequence[Column], spec: str, salt: str) -> DataSet:
    """The data under these labels, with those capabilities that it has itself.

    Args:
        data: any data set.
        columns: the labels.
        spec: what opens the result again.
        salt: changes the digest, because the labels say something else; if empty, the digest stays.
    """
    settable = all(column.settable for column in columns)
    whole = settable and {column.sources[0] for column in columns} == set(data.schema.names)
    offered = (*(WITH_EVERY_LABEL if whole else ()), *(IF_SETTABLE if settable else ()), *ALWAYS)
    parts = tuple(part for capability, part in offered if isinstance(data, capability))
    return _class_with(parts)(data, columns, spec, salt)


def relabelled(data: DataSet, requests: Sequence[str]) -> DataSet:
    """Renames, joins and splits labels; all others stay.

    Args:
        data: any data set.
        requests: ``NEW=OLD`` renames; ``NEW=A|B|C`` joins exclusive binary labels into one categorical label with
            the classes A, B, C. An image with none of them or with several has the joined label missing. ``*=OLD``
            splits a categorical label, joined ones too, into a binary one for each class, ``OLD:CLASS``.

    Raises:
        UsageError: a request that is not of this form, an unknown label, or a label that is asked for twice.
        LabelMismatchError: a label to join is not binary, one to split is not categorical.

    >>> from ccvae_eval.data.sets.faces import Faces
    >>> relabelled(Faces(n=10), ["Worn=Eyeglasses|Wearing_Hat"]).schema["Worn"].classes
    ('Eyeglasses', 'Wearing_Hat')
    >>> relabelled(Faces(n=10), ["*=Hair_Color"]).schema.names[-1]
    'Hair_Color:Gray'
    """
    if not requests:
        return data
    spec, salt = ",".join([data.spec, *(f"label={request}" for request in requests)]), "/".join(requests)
    splits = [request for request in requests if request.startswith(SPLIT)]
    others = [request for request in requests if request not in splits]
    if others:
        data = wrapped(data, _renamed_or_joined(data, others), spec, "/".join(others))
    if splits:
        data = wrapped(data, _split(data, splits), spec, salt)
    return data


def _renamed_or_joined(data: DataSet, requests: Sequence[str]) -> list[Column]:
    taken: dict[str, Column] = {}
    for request in requests:
        column = _requested(data, request)
        for name in column.sources:
            if name in taken:
                raise UsageError(f"label {name!r} is renamed or joined twice", where=f"--label {request}")
            taken[name] = column
    return list(dict.fromkeys(taken.get(label.name, Column(label, (label.name,))) for label in data.schema))


def _split(data: DataSet, requests: Sequence[str]) -> list[Column]:
    asked = {request.removeprefix(SPLIT).strip(): f"--label {request}" for request in requests}
    for name, where in asked.items():
        if name not in data.schema:
            raise UsageError(f"the data have no label {name!r}", where=where, hint=suggestion(name, data.schema.names))
        if data.schema[name].kind != "categorical":
            raise LabelMismatchError(
                f"label {name!r} is {data.schema[name].kind}", where=where, hint="Only categorical ones split."
            )
    columns: list[Column] = []
    for label in data.schema:
        if label.name in asked:
            parts = (Label(f"{label.name}:{label.class_name(k)}") for k in range(label.cardinality))
            columns += [Column(part, (label.name,), one=k) for k, part in enumerate(parts)]
        else:
            columns.append(Column(label, (label.name,)))
    return columns


def _requested(data: DataSet, request: str) -> Column:
    new, equals, old = request.partition("=")
    sources = tuple(name.strip() for name in old.split("|"))
    if not equals or not new.strip() or not all(sources):
        raise UsageError("not a label", where=f"--label {request}", hint="Write NEW=OLD, NEW=A|B|C or *=OLD.")
    for name in sources:
        if name not in data.schema:
            raise UsageError(
                f"the data have no label {name!r}",
                where=f"--label {request}",
                hint=suggestion(name, data.schema.names),
            )
    if len(sources) == 1:
        own = data.schema[sources[0]]
        return Column(Label(new.strip(), own.kind, own.classes), sources)
    for name in sources:
        if data.schema[name].kind != "binary":
            raise LabelMismatchError(
                f"label {name!r} is {data.schema[name].kind}", where=f"--label {request}", hint="Only binary ones join."
            )
    return Column(Label(new.strip(), "categorical", sources), sources)
