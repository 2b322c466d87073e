"""Summary of a data set: its size, its splits, and the classes and correlations of its labels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.types import Floats, Plain
from ccvae_eval.data.interface import SPLITS, DataSet, HasRegions
from ccvae_eval.data.labels.relabel import Relabelled, remarks
from ccvae_eval.model.interface import Label, supports
from ccvae_eval.statistics.ratios import safe_ratio

MAX_CORRELATIONS = 10
MIN_PAIRS = 10
"""Images in which both labels must be known for their correlation to be listed."""


def describe(data: DataSet) -> dict[str, Plain]:
    """Summarise a data set: its size, splits and labels.

    Returns:
        ``labels`` has one row for each class of each label (``class``, ``n``, ``share`` of the labelled images) and
        one row with ``mean`` and ``deviation`` for a continuous label; None marks what does not apply. ``files`` says
        of each file whether it is the official one, if a checksum is known. ``correlations`` lists the strongest
        Pearson correlations between classes of different labels. ``joined`` gives for each joined label the number of
        images with none and with several of its parts. ``remarks`` has sentences about files and labels that may not
        be as intended.
    """
    labels = data.labels_of(np.arange(len(data))).astype(np.float64)
    found: dict[str, Plain] = {
        "spec": data.spec,
        "digest": data.digest,
        "images": len(data),
        "input_shape": list(data.input_shape),
        "splits": {name: len(data.split(name)) for name in SPLITS},
        "files": dict(getattr(data, "checksums", {})) or None,
        "unreadable": list(getattr(data, "unreadable", ())) or None,
        "regions": data.region_source if supports(data, HasRegions) else _no_regions(data),
        "labels": [row for i, label in enumerate(data.schema) for row in _rows(label, labels[:, i])],
        "correlations": []
        if getattr(data, "uncorrelated", False)
        else strongest_correlations(data.schema.labels, labels),
    }
    if isinstance(data, Relabelled):
        found["joined"] = [
            {"label": name, "none": none, "several": several} for name, (none, several) in data.conflicts().items()
        ]
    found["remarks"] = remarks(data)
    return found


def _no_regions(data: DataSet) -> str | None:
    """What to write to get regions of a folder; None for another data set."""
    return "none; regions=celeba (CelebA), celebahq (CelebA-HQ) or FOLDER" if data.spec.startswith("folder:") else None


def _rows(label: Label, column: Floats) -> list[dict[str, Plain]]:
    known = column[~np.isnan(column)]
    base = {"label": label.name, "kind": label.kind, "missing": len(column) - len(known)}
    if label.kind == "continuous":
        mean = float(known.mean()) if len(known) else None
        deviation = float(known.std()) if len(known) else None
        return [{**base, "class": None, "n": len(known), "share": None, "mean": mean, "deviation": deviation}]
    counts = {index: int((known == index).sum()) for index in range(label.kind == "binary", label.cardinality)}
    rest = {"mean": None, "deviation": None}
    return [
        {**base, "class": label.class_name(index), "n": n, "share": n / len(known) if len(known) else None, **rest}
        for index, n in counts.items()
    ]


def strongest_correlations(labels: tuple[Label, ...], values: NDArray[np.float64]) -> list[dict[str, Plain]]:
    """The strongest Pearson correlations between labels, each over the images in which both are known.

    A categorical label enters with an indicator of each class.

    Args:
        labels: the labels.
        values: shape :math:`(N, L)`, NaN = missing.
    """
    names, owners, columns = [], [], []
    for i, label in enumerate(labels):
        classes = range(label.cardinality) if label.kind == "categorical" else [None]
        for index in classes:
            column = values[:, i]
            owners.append(i)
            names.append(label.name if index is None else f"{label.name}={label.class_name(index)}")
            columns.append(column if index is None else np.where(np.isnan(column), np.nan, column == index))
    if not columns:
        return []
    correlation = _pairwise(np.stack(columns, axis=1))
    pairs = [
        (float(correlation[a, b]), names[a], names[b])
        for a, b in combinations(range(len(names)), 2)
        if owners[a] != owners[b] and np.isfinite(correlation[a, b])
    ]
    pairs.sort(key=lambda pair: -abs(pair[0]))
    return [{"first": a, "second": b, "correlation": r} for r, a, b in pairs[:MAX_CORRELATIONS]]


def _pairwise(values: Floats) -> Floats:
    """Pearson correlation of every two columns over the rows where both are known; NaN if one is constant there."""
    known = ~np.isnan(values)
    weight, filled = known.astype(np.float64), np.where(known, values, 0.0)
    n = weight.T @ weight
    first, second = safe_ratio(filled.T @ weight, n), safe_ratio(weight.T @ filled, n)
    square = safe_ratio((filled**2).T @ weight, n) - first**2
    other = safe_ratio(weight.T @ (filled**2), n) - second**2
    covariance = safe_ratio(filled.T @ filled, n) - first * second
    varies = (square > 1e-12) & (other > 1e-12) & (n >= MIN_PAIRS)
    return safe_ratio(covariance, np.sqrt(np.where(varies, square * other, 0.0)))
