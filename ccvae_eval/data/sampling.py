"""Which images of a split are measured: a seeded sample that keeps every label's prevalence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.data.contract import DataSet, Split
from ccvae_eval.errors import DataError, UsageError
from ccvae_eval.model import LabelSchema
from ccvae_eval.streams import numpy_stream, stream_key
from ccvae_eval.types import Ids

QUARTERS = (0.25, 0.5, 0.75)
MISSING = -1


def sample_ids(
    data: DataSet,
    split: Split,
    *,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    schema: LabelSchema | None = None,
) -> Ids:
    """The ids of the images to measure, ascending.

    The sample is systematic: the images are ordered by their labels, the rarest label first, in a random order among
    those of equal labels, and every (N/n)-th is taken from a random start. The prevalence of the rarest label is kept
    to one image, and the others the more closely the fewer labels come before them.

    Args:
        data: where from.
        split: "train", "judge" or "test".
        sample: how many; all, if None or more than there are.
        seed: the evaluation's.
        limit: only the first so many images of the split, before any sampling: for parity with published numbers.
        schema: the labels to stratify by; all of the data's, if None.

    Raises:
        DataError: the split has no image.
        UsageError: a sample or limit below 1.
    """
    for name, number in (("sample", sample), ("limit", limit)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} {number} leaves no image", hint="Give at least 1.")
    ids = data.split(split)
    if not len(ids):
        raise DataError(f"the {split} split is empty", where=data.spec, hint="Choose another with --split.")
    ids = ids[:limit]
    if sample is None or sample >= len(ids):
        return ids
    columns = [data.schema.index(label.name) for label in schema or data.schema if label.name in data.schema]
    strata = _strata(data.labels_of(ids)[:, columns], [data.schema.labels[c].kind == "continuous" for c in columns])
    shuffled = np.fromiter((stream_key(seed, "sample", int(i)) for i in ids), np.int64, len(ids))
    order = np.lexsort((shuffled, *strata[::-1]))
    start = numpy_stream(seed, "sample").random()
    taken = np.floor((start + np.arange(sample)) * (len(ids) / sample)).astype(np.int64)
    return np.sort(ids[order[taken]])


def _strata(labels: NDArray[np.float32], continuous: list[bool]) -> list[NDArray[np.int64]]:
    """The class of each image for each label (quarters of a continuous one), the label with the rarest class first."""
    strata = []
    for column, is_continuous in zip(labels.T, continuous, strict=True):
        known = ~np.isnan(column)
        classes = np.full(len(column), MISSING, np.int64)
        if is_continuous and known.any():
            classes[known] = np.digitize(column[known], np.quantile(column[known], QUARTERS))
        else:
            classes[known] = column[known].astype(np.int64)
        strata.append(classes)
    return sorted(strata, key=_rarest)


def _rarest(classes: NDArray[np.int64]) -> int:
    """How many images the rarest class has that occurs at all; a label without variation comes last."""
    _, counts = np.unique(classes, return_counts=True)
    return int(counts.min()) if len(counts) > 1 else len(classes)
