"""Where a data set's labels meet a model's: by name, and class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import LabelMismatchError, suggestion
from ccvae_eval.core.types import Ids
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import Column, wrapped
from ccvae_eval.model.interface import Label, LabelSchema


def label_columns(data: DataSet, schema: LabelSchema, ids: Ids) -> NDArray[np.float32]:
    """The labels of some images as a model orders them, shape (N, L), NaN = missing.

    Labels that the model lacks are left out; classes get the model's indices by their names.

    Raises:
        LabelMismatchError: the data lack a label of the model, have it in another kind, or know a class that the
            model does not.
    """
    theirs = data.labels_of(ids)
    columns = matched(data.schema, schema, data.spec)
    found = [column.ours(theirs[:, [data.schema.index(name) for name in column.sources]]) for column in columns]
    return np.stack(found, axis=1) if found else np.empty((len(ids), 0), np.float32)


def aligned(data: DataSet, schema: LabelSchema) -> DataSet:
    """The data set with the labels of a model: the same images and digest, the model's order and classes.

    Its regions, counterfactuals, re-draws and variety take and give the model's class indices.

    Raises:
        LabelMismatchError: as :func:`label_columns`.
    """
    if data.schema == schema or not len(schema):
        return data
    return wrapped(data, matched(data.schema, schema, data.spec), data.spec, salt="")


def matched(theirs: LabelSchema, schema: LabelSchema, where: str) -> list[Column]:
    """For each label of a model the label of the data that is meant."""
    return [_match(theirs, label, where) for label in schema]


def _match(theirs: LabelSchema, label: Label, where: str) -> Column:
    if label.name not in theirs:
        raise LabelMismatchError(
            f"the data have no label {label.name!r}, which the model learnt",
            where=where,
            hint=f"{suggestion(label.name, theirs.names)} Rename with --label '{label.name}=NAME'.",
        )
    own = theirs[label.name]
    if own.kind != label.kind:
        raise LabelMismatchError(
            f"label {label.name!r} is {own.kind} in the data and {label.kind} in the model",
            where=where,
            hint="Join exclusive columns into a categorical label with --label 'NAME=A|B|C'."
            if label.kind == "categorical"
            else "",
        )
    strangers = [name for name in own.classes if name not in label.classes]
    if strangers:
        raise LabelMismatchError(
            f"class {strangers[0]!r} of label {label.name!r} is unknown to the model",
            where=where,
            hint=suggestion(strangers[0], label.classes),
        )
    return Column(label, (label.name,), tuple(label.classes.index(name) for name in own.classes))
