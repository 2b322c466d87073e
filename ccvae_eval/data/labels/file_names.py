"""Labels in the names of image files: the class as the folder, or several labels in each name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from ccvae_eval.core.errors import DataError, UsageError, suggestion
from ccvae_eval.data.labels.columns import MAX_CLASSES, Attributes, LabelColumn, column_from_text, schema_of
from ccvae_eval.data.splits import SPLIT_ALIASES
from ccvae_eval.model.interface import Label

CLASS = "class"
SPLIT_FOLDERS = frozenset(name for name in SPLIT_ALIASES if name.isalpha())
REST = "*"
NUMBERED = range(2, 21)
"""Whole numbers with so many values are classes, unless they are 0 and 1; other numbers make a continuous label."""


def labels_from_folders(names: Sequence[str], where: str, chosen: Sequence[str] = ()) -> Attributes | None:
    """The label ``class`` of images in ``CLASS/NAME`` or ``SPLIT/CLASS/NAME``; None for other names.

    Folders that contain all images are passed over. The outermost folders are splits if all of them are named train,
    val, test and so on (``SPLIT_ALIASES``). An image outside of a class is left out.

    Args:
        names: names of the files, with their folders.
        where: the folder, for messages.
        chosen: the labels to read; all if empty.

    Raises:
        UsageError: a chosen label is not ``class``.
    """
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    while folders and len({parts[:1] for parts in folders.values()}) == 1 and all(map(len, folders.values())):
        folders = {name: parts[1:] for name, parts in folders.items()}
    files = [name for name, parts in folders.items() if parts]
    in_splits = {folders[name][0].lower() for name in files} <= SPLIT_FOLDERS
    texts = [folders[name][in_splits] for name in files if len(folders[name]) > in_splits]
    if len(set(texts)) < 2 or len(texts) < len(files):
        return None
    _require_known(chosen, [CLASS], where)
    if len(set(texts)) > MAX_CLASSES:
        what = f"the images are in folders of {len(set(texts))} classes"
        raise DataError(what, where=where, why=f"a categorical label has from 2 to {MAX_CLASSES} classes")
    schema, values = schema_of([_classes(CLASS, texts)], len(files), where)
    return Attributes(tuple(files), schema, values, tuple(folders[name][0] for name in files) if in_splits else None)


def labels_from_names(names: Sequence[str], pattern: str, where: str, chosen: Sequence[str] = ()) -> Attributes:
    """The labels in the names of files, such as ``61_0_2_20170109.jpg`` with the pattern ``age_gender_race_*``.

    The pattern names the parts of a file's name, which are separated by one character. ``*`` is a part without a label;
    at the end it stands for all that follows and is in every name. A part that a name lacks, or that is empty, is a
    missing label. Parts are converted as cells of a table (see ``column_from_text``), but whole numbers of at most 20
    values are classes.

    Args:
        names: names of the files.
        pattern: the parts.
        where: the folder, for messages.
        chosen: the labels to read, in this order; all if empty.

    Raises:
        UsageError: a malformed pattern, or a chosen label that is not in it.
        DataError: a name has more parts than the pattern.
    """
    separator = next((character for character in pattern if not (character.isalnum() or character == REST)), "")
    parts = pattern.split(separator) if separator else [pattern]
    labels = [part for part in parts if part != REST]
    if not labels or not all(part.isalnum() for part in labels) or len(set(labels)) < len(labels):
        raise UsageError(
            f"names must be different names of labels with one character between them, got {pattern!r}",
            where=where,
            hint=f"For 61_0_2_20170109.jpg write names=age_gender_race_*, where {REST} is a part without a label.",
        )
    _require_known(chosen, labels, where)
    found = [_split(name, parts, separator, where) for name in names]
    columns = [_column(label, [row[parts.index(label)] for row in found], where) for label in chosen or labels]
    schema, values = schema_of(columns, len(names), where)
    return Attributes(tuple(names), schema, values, None)


def _require_known(chosen: Sequence[str], known: Sequence[str], where: str) -> None:
    for name in chosen:
        if name not in known:
            raise UsageError(f"the file names have no label {name!r}", where=where, hint=suggestion(name, known))


def _split(name: str, parts: Sequence[str], separator: str, where: str) -> list[str]:
    """The text of each part in a file's name; "" where it is missing."""
    stem = PurePosixPath(name).stem
    words = stem.split(separator) if separator else [stem]
    if parts[-1] == REST:
        words = words[: min(len(words), len(parts)) - 1]
    elif len(words) > len(parts):
        what = f"the name has {len(words)} parts, the pattern {len(parts)}"
        raise DataError(what, where=f"{where}: {name}", hint=f"End the pattern with {separator or '_'}{REST}.")
    return [*words, *[""] * (len(parts) - len(words))]


def _column(name: str, texts: Sequence[str], where: str) -> LabelColumn:
    filled = {text for text in texts if text}
    numbered = all(text.isascii() and text.isdigit() for text in filled) and not filled <= {"0", "1"}
    return _classes(name, texts) if numbered and len(filled) in NUMBERED else column_from_text(name, texts, where)


def _classes(name: str, texts: Sequence[str]) -> LabelColumn:
    """A categorical label of texts, in numerical order if all are whole numbers, else in alphabetical order."""
    filled = {text for text in texts if text}
    numbered = all(text.isascii() and text.isdigit() for text in filled)
    classes = sorted(filled, key=lambda text: (int(text) if numbered else 0, text))
    table = {text: float(index) for index, text in enumerate(classes)}
    return Label(name, "categorical", tuple(classes)), np.array([table.get(text, np.nan) for text in texts], np.float32)
