"""Matching of a data set's labels with a model's, by name and class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import LabelMismatchError, suggestion
from ccvae_eval.core.types import Ids
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import Column, convert_labels, with_columns
from ccvae_eval.model.interface import Label, LabelSchema


def label_columns(data: DataSet, schema: LabelSchema, ids: Ids) -> NDArray[np.float32]:
    """The labels of some images in a model's order, shape (N, L), NaN = missing.

    Labels that the model lacks are left out; classes get the model's indices by their names.

    Raises:
        LabelMismatchError: the data lack a label of the model, have it in another kind, or have a class that the
            model lacks.
    """
    return convert_labels(data.labels_of(ids), data.schema, match_labels(data.schema, schema, data.spec))


def aligned(data: DataSet, schema: LabelSchema) -> DataSet:
    """The data set with a model's labels: the same images and digest, the model's order and classes.

    Its regions, counterfactuals, redraws and variety use the model's class indices.

    Raises:
        LabelMismatchError: as :func:`label_columns`.
    """
    if data.schema == schema or not len(schema):
        return data
    return with_columns(data, match_labels(data.schema, schema, data.spec), data.spec, salt="")


def match_labels(available: LabelSchema, schema: LabelSchema, where: str) -> list[Column]:
    """The column of the data for each label of a model, by name; raises as :func:`label_columns`."""
    return [_match(available, label, where) for label in schema]


def _match(available: LabelSchema, label: Label, where: str) -> Column:
    if label.name not in available:
        raise LabelMismatchError(
            f"the data lack the label {label.name!r}, which the model was trained on",
            where=where,
            hint=f"{suggestion(label.name, available.names)} Rename a label with --label '{label.name}=NAME'.",
        )
    own = available[label.name]
    if own.kind != label.kind:
        raise LabelMismatchError(
            f"label {label.name!r} is {own.kind} in the data and {label.kind} in the model",
            where=where,
            hint="Join mutually exclusive labels into a categorical one with --label 'NAME=A|B|C'."
            if label.kind == "categorical"
            else "",
        )
    unknown = [name for name in own.classes if name not in label.classes]
    if unknown:
        raise LabelMismatchError(
            f"the model has no class {unknown[0]!r} of label {label.name!r}",
            where=where,
            hint=suggestion(unknown[0], label.classes),
        )
    return Column(label, (label.name,), tuple(label.classes.index(name) for name in own.classes))
