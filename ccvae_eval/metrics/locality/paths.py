"""Traversal paths of locality: from class to class, or value to value, in a characteristic's latent dimensions.

Or from image to image, in all latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.interventions import (
    LEAST_SEPARATION,
    Interpolate,
    Intervention,
    Redraw,
    Traverse,
    class_at_end,
    class_pairs,
    close_classes,
    donor_rows,
    path_between,
)
from ccvae_eval.evaluation.subject import Subject, once_per_subject
from ccvae_eval.metrics.locality.settings import Locality


@dataclass(frozen=True, slots=True)
class TraversalPath:
    """One path, traversed from every image.

    Args:
        characteristic: the characteristic that changes along the path.
        points: the interventions along the path.
        noise: the two posterior samples whose difference is the floor; empty for an encoder without noise.
        applies: True for images to which the path applies, shape (N,).
        end: class at the path's end, shape (N,); -1 where the path does not apply.
        inside: 1 if the image's code, projected onto the path, lies between its ends, else 0; NaN where the path does
            not apply.
        at: the latent dimension, if only one moves.
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


@once_per_subject
def traversal_paths(subject: Subject, settings: Locality) -> tuple[list[TraversalPath], dict[str, str]]:
    """Paths of all characteristics, and the reason for each characteristic without one."""
    paths: list[TraversalPath] = []
    reasons: dict[str, str] = {}
    for name in subject.characteristics:
        try:
            paths += _traversal_paths(settings, subject, name)
        except UndefinedError as error:
            reasons[name] = error.what
    return paths, reasons


def notes_on_close_classes(subject: Subject, settings: Locality, paths: Sequence[TraversalPath]) -> list[str]:
    """For each characteristic with a path, how many images have none because their classes are not separated."""
    notes = []
    if settings.path == "traversal":
        for name in dict.fromkeys(path.characteristic for path in paths):
            label, target = subject.schema[name], subject.target_class(name)
            if label.kind != "categorical" or not (close := close_classes(subject, name, settings.source)):
                continue
            lost = int(((target >= 0) & (class_at_end(subject, name, settings.source) < 0)).sum())
            pairs = ", ".join(f"{label.class_name(a)} > {label.class_name(b)}" for a, b in close)
            near = f"mean codes less than {LEAST_SEPARATION} standard deviations apart"
            notes.append(f"{name}: {lost} images have no path ({near}: {pairs})")
    return notes


def _traversal_paths(settings: Locality, subject: Subject, name: str) -> list[TraversalPath]:
    label, columns = subject.schema[name], subject.layout[name]
    positions = [k / (settings.steps - 1) for k in range(settings.steps)]
    noiseless = not bool(subject.posterior.scale[:, list(columns)].any())
    if settings.path == "interpolation":
        donors = donor_rows(subject, name)
        if not bool((donors >= 0).any()):
            raise UndefinedError("no image has another class", where=name)
        noise = () if noiseless else tuple(Redraw(name, draw, every=True) for draw in (0, 1))
        points = tuple(Interpolate(name, position) for position in positions)
        end = torch.where(donors >= 0, subject.target_class(name), -1)
        return [TraversalPath(name, points, noise, (donors >= 0).numpy(), end, np.full(len(subject), np.nan))]
    if label.kind != "categorical":
        start = torch.zeros(len(subject), dtype=torch.long)
        end = torch.full_like(start, subject.cardinality(name) - 1)
    else:
        start, end = subject.current_class(name), class_at_end(subject, name, settings.source)
        if not bool((end >= 0).any()):
            raise UndefinedError("no image's class is known", where=name)
    noise = () if noiseless else (Redraw(name, 0), Redraw(name, 1))
    each = settings.columns == "each" and len(columns) > 1
    moved: Sequence[int | None] = range(len(columns)) if each else [None]
    return [
        TraversalPath(
            name,
            tuple(Traverse(name, position, settings.source, column) for position in positions),
            noise,
            (end >= 0).numpy(),
            end,
            _inside_path(settings, subject, name, start, end, column),
            {} if column is None else {"column": columns[column]},
        )
        for column in moved
    ]


def _inside_path(
    settings: Locality, subject: Subject, name: str, start: torch.Tensor, end: torch.Tensor, column: int | None
) -> Floats:
    """1 for each code whose projection onto its path lies between the path's ends, else 0; NaN without a path.

    Raises:
        UndefinedError: one of the paths does not exist.
    """
    own = subject.codes[:, list(subject.layout[name])].double()
    inside = torch.full((len(own),), torch.nan, dtype=torch.float64)
    for a, b in class_pairs(start, end):
        path = path_between(subject, name, a, b, settings.source)
        chosen = slice(None) if column is None else slice(column, column + 1)
        origin, direction = path.start[chosen].double(), (path.end - path.start)[chosen].double()
        position = (own[:, chosen] - origin) @ direction / direction.square().sum()
        inside = torch.where((start == a) & (end == b), ((position >= 0) & (position <= 1)).double(), inside)
    return inside.numpy()
