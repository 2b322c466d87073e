"""Matrices of a run: what moves or predicts which label, in one colour scale from chance to 1."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from math import nan

import numpy as np

from ccvae_eval.core.results import Measurement
from ccvae_eval.evaluation.run import Run
from ccvae_eval.rendering.text import figure

LEVELS = 10
"""Steps of the colour scale."""
MOST_CODES = 30
"""Latent dimensions of the information matrix: those with the most information."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a matrix.

    Args:
        text: the number; a dash if it is undefined.
        level: step of the colour scale, from 0 (chance) to 10; None if undefined.
        value, of: address of the per-image numbers behind the cell, as in ``image_numbers``; "" without.
        number: the number; NaN if undefined.
    """

    text: str
    level: int | None
    value: str = ""
    of: str = ""
    number: float = nan


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix with named rows and columns; what its rows and columns are, and how to read it."""

    title: str
    reading: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def linked(self) -> bool:
        """True if single images stand behind the cells."""
        return any(cell.value for row in self.cells for cell in row)


@dataclass(frozen=True, slots=True)
class BetweenLabels:
    """What a metric has for each characteristic and each judged label.

    Args:
        name: name of the values at ``judged=j``.
        title, reading: what their matrix shows, and how to read it.
        chance: where the colour scale begins.
        diagonal: name of the value on the diagonal, where ``name`` has none.
    """

    name: str
    title: str
    reading: str
    chance: float = 0.0
    diagonal: str = ""


BETWEEN_LABELS = {
    "locality": BetweenLabels(
        "response", "Change of the judged label (column) when a characteristic (row) moves along its path",
        "A local model has its large numbers on the diagonal. 0: the judge sees no change, 1: it is sure of one.",
    ),
    "intervention": BetweenLabels(
        "change", "Change of the judged label (column) when a label (row) is set to another class",
        "Off the diagonal 0 is best; the diagonal is effect, the share of images in which the judge recognises the new "
        "class.", diagonal="effect",
    ),
    "density": BetweenLabels(
        "cross_auc", "AUC of a label (column) predicted from the latent dimensions of another (row)",
        "Within the classes of the row's label, so that correlated labels do not count. Off the diagonal 0.5 is best; "
        "the diagonal is auc, the prediction of the label itself.", chance=0.5, diagonal="auc",
    ),
}  # fmt: skip
"""The metrics that have such values."""


def matrices(run: Run, columns: Container[tuple[str, str]] = ()) -> list[Matrix]:
    """Every matrix that the run has numbers for.

    Args:
        run: the run.
        columns: the (value, of) of the per-image numbers that there are; other cells get no address.
    """
    found = [matrix for m in run for matrix in matrices_of(m)]
    return [
        replace(matrix, cells=tuple(
            tuple(cell if (cell.value, cell.of) in columns else replace(cell, value="", of="") for cell in row)
            for row in matrix.cells
        ))
        for matrix in found
    ]  # fmt: skip


def matrices_of(m: Measurement) -> list[Matrix]:
    """Every matrix that a measurement has numbers for."""
    return [matrix for matrix in _matrices_of(m) if matrix.rows and matrix.columns]


def _matrices_of(m: Measurement) -> Iterator[Matrix]:
    if m.metric in BETWEEN_LABELS:
        yield _between_labels(m, BETWEEN_LABELS[m.metric])
    elif m.metric == "disentanglement" and {"information", "codes", "factors"} <= set(m.pictures):
        shares = np.atleast_2d(np.asarray(m.pictures["information"], dtype=np.float64))
        strongest = np.argsort(-np.nan_to_num(shares).max(axis=1), kind="stable")[:MOST_CODES]
        shown = sorted(int(j) for j in strongest)
        codes = [str(name) for name in np.asarray(m.pictures["codes"])]
        yield Matrix(
            "Mutual information of a latent dimension (row) and a factor (column), as a share of the factor's entropy",
            "Each factor should have one row with a large number, and each row at most one factor.",
            tuple(codes[j] for j in shown), tuple(str(name) for name in np.asarray(m.pictures["factors"])),
            tuple(tuple(_cell(float(share), 0.0) for share in shares[j]) for j in shown),
        )  # fmt: skip


def _between_labels(m: Measurement, kind: BetweenLabels) -> Matrix:
    """The matrix of a metric's values, characteristics in rows and judged labels in columns."""
    found: dict[tuple[str, str], Cell] = {}
    for v in m.values:
        if v.name == kind.name and v.characteristic and set(v.at) == {"judged"}:
            value = f"{m.metric}.{kind.name} (judged {v.at['judged']})"
            found[v.characteristic, str(v.at["judged"])] = _cell(v.estimate.value, kind.chance, value, v.characteristic)
        elif kind.diagonal and v.name == kind.diagonal and v.characteristic and not v.at:
            found[v.characteristic, v.characteristic] = _cell(
                v.estimate.value, kind.chance, f"{m.metric}.{kind.diagonal}", v.characteristic
            )
    rows = tuple(dict.fromkeys(i for i, j in found))
    judged = dict.fromkeys(j for _, j in found)
    columns = (*(i for i in rows if i in judged), *(j for j in judged if j not in rows))
    if not any(v.name == kind.name and set(v.at) == {"judged"} for v in m.values):
        return Matrix(kind.title, kind.reading, (), (), ())
    cells = tuple(tuple(found.get((i, j), Cell("", None)) for j in columns) for i in rows)
    return Matrix(kind.title, kind.reading, rows, columns, cells)


def _cell(number: float, chance: float, value: str = "", of: str = "") -> Cell:
    if np.isnan(number):
        return Cell("–", None)
    share = min(max((number - chance) / (1 - chance), 0.0), 1.0)
    return Cell(figure(number, 2), round(share * LEVELS), value, of, number)
