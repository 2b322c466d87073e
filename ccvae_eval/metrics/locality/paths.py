"""The paths that locality walks: from class to class in a characteristic's columns, or from image to image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.interventions import (
    CodeSource,
    Interpolate,
    Intervention,
    Redraw,
    Traverse,
    donor_rows,
    path_between,
)
from ccvae_eval.evaluation.subject import Subject

Columns = Literal["block", "each"]
PathKind = Literal["traversal", "interpolation"]


class PathSettings(Protocol):
    """The settings that say which paths there are; they are documented where they are options."""

    @property
    def steps(self) -> int: ...

    @property
    def source(self) -> CodeSource: ...

    @property
    def columns(self) -> Columns: ...

    @property
    def path(self) -> PathKind: ...


@dataclass(frozen=True, slots=True)
class TraversalPath:
    """One path that is walked from every image.

    Args:
        characteristic: whose region and label it is about.
        points: the interventions along it.
        noise: the two re-draws that give its floor; none for an encoder without noise.
        applies: the images that have a way to go, shape (N,).
        end: the class at its end for each image, shape (N,); -1 where it does not apply.
        inside: whether the image's code lies on the path, projected to it: 1 or 0, NaN where it does not apply.
        at: the column, if only one is moved.
    """

    characteristic: str
    points: tuple[Intervention, ...]
    noise: tuple[Redraw, ...]
    applies: Bools
    end: torch.Tensor
    inside: Floats
    at: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.characteristic + "".join(f"[{column}]" for column in self.at.values())


def traversal_paths(walk: PathSettings, subject: Subject) -> tuple[list[TraversalPath], dict[str, str]]:
    """The paths that exist, and for each characteristic without one the reason."""
    ways: list[TraversalPath] = []
    reasons: dict[str, str] = {}
    for name in subject.characteristics:
        try:
            ways += _traversal_paths(walk, subject, name)
        except UndefinedError as error:
            reasons[name] = error.what
    return ways, reasons


def _traversal_paths(walk: PathSettings, subject: Subject, name: str) -> list[TraversalPath]:
    label, columns = subject.schema[name], subject.layout[name]
    if label.kind == "continuous":
        raise UndefinedError("a continuous label has no classes to go between", where=name)
    positions = [k / (walk.steps - 1) for k in range(walk.steps)]
    noiseless = not bool(subject.posterior.scale[:, list(columns)].any())
    if walk.path == "interpolation":
        donors = donor_rows(subject, name)
        if not bool((donors >= 0).any()):
            raise UndefinedError("no image of another class", where=name)
        noise = () if noiseless else tuple(Redraw(name, draw, every=True) for draw in (0, 1))
        points = tuple(Interpolate(name, position) for position in positions)
        end = torch.where(donors >= 0, subject.target_class(name), -1)
        return [TraversalPath(name, points, noise, (donors >= 0).numpy(), end, np.full(len(subject), np.nan))]
    if label.kind == "binary":
        start, end = torch.zeros(len(subject), dtype=torch.long), torch.ones(len(subject), dtype=torch.long)
    else:
        start, end = subject.current_class(name), subject.target_class(name)
        if not bool((end >= 0).any()):
            raise UndefinedError("no image has this label", where=name)
    noise = () if noiseless else (Redraw(name, 0), Redraw(name, 1))
    alone: Sequence[int | None] = [None]
    if walk.columns == "each" and len(columns) > 1:
        alone = range(len(columns))
    return [
        TraversalPath(
            name,
            tuple(Traverse(name, position, walk.source, column) for position in positions),
            noise,
            (end >= 0).numpy(),
            end,
            _inside_path(walk, subject, name, start, end, column),
            {} if column is None else {"column": columns[column]},
        )
        for column in alone
    ]


def _inside_path(
    walk: PathSettings, subject: Subject, name: str, start: torch.Tensor, end: torch.Tensor, column: int | None
) -> Floats:
    """Whether each code, projected to its path, lies between the path's ends.

    Raises:
        UndefinedError: if one of the paths does not exist.
    """
    own = subject.codes[:, list(subject.layout[name])].double()
    inside = torch.full((len(own),), torch.nan, dtype=torch.float64)
    for a, b in sorted({(int(a), int(b)) for a, b in zip(start, end, strict=True) if b >= 0}):
        path = path_between(subject, name, a, b, walk.source)
        chosen = slice(None) if column is None else slice(column, column + 1)
        first, way = path.start[chosen].double(), (path.end - path.start)[chosen].double()
        place = (own[:, chosen] - first) @ way / way.square().sum()
        inside = torch.where((start == a) & (end == b), ((place >= 0) & (place <= 1)).double(), inside)
    return inside.numpy()
