"""Rank correlation of the value that a continuous label was set to and the judged value, under the perturbation idle.

The faces have no continuous label. This value is measured on a perfect model of the position of sprites: its code is
the centre of the figure, and it draws a square there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ccvae_eval.calibration.perturbations import Perturbation, PerturbationContext
from ccvae_eval.calibration.study import OBEYED_RANK
from ccvae_eval.calibration.verdict import Curve, Reading
from ccvae_eval.core.random_streams import numpy_stream, uniforms
from ccvae_eval.core.types import Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.data.sets.sprites import EDGE, ORIGIN, SHAPES, TRAVEL, Sprites
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.intervention.settings import Interventions
from ccvae_eval.model.interface import LabelSchema, LatentLayout
from ccvae_eval.oracle.model import image_digests

LABEL = "position_x"
SQUARE, SCALE = SHAPES.index("square"), 0.75
COUNT, REPEATS = 256, 1000
"""Images, and random choices of the idle interventions behind an expected value."""
METRIC = Interventions(axiom_images=0, rendered=0, feature_images=0)


def centres(images: Images) -> Floats:
    """Positions (x, y) of the centres of sprites, shape (N, 2), from 0 to 1 as the labels."""
    inside = images.double().cpu().numpy().max(1)
    place = (np.arange(inside.shape[1]) + 0.5) * EDGE / inside.shape[1] - 0.5
    middle = np.stack([inside.sum(1) @ place, inside.sum(2) @ place], 1) / inside.sum((1, 2))[:, None]
    return np.asarray((middle - ORIGIN) / TRAVEL)


class CentreModel:
    """A perfect model of the position of sprites, whose interventions have no effect on a share of the images.

    Args:
        data: draws the images.
        idle: the share.
        seed: seed of the choice of images.
    """

    labels = LabelSchema((next(label for label in Sprites.schema if label.name == LABEL),))
    layout = LatentLayout(2, {LABEL: (0,)})

    def __init__(self, data: Sprites, idle: float = 0.0, seed: int = 0) -> None:
        self.data, self.idle, self.seed = data, idle, seed

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        loc = torch.from_numpy(centres(images)).float()
        return Gaussian(loc, torch.zeros_like(loc))

    def decode(self, codes: Codes) -> Images:
        shown = np.tile([SQUARE, SCALE, 0.0], (len(codes), 1))
        return self.data.draw(np.concatenate([shown, codes.double().numpy()], 1))

    def intervene(self, images: Images, codes: Codes, assignment: Mapping[str, float], noise: Tensor) -> Codes:
        del noise
        keys = [int.from_bytes(digest, "little") for digest in image_digests(images)]
        active = torch.from_numpy(uniforms(self.seed, "idle", keys, 1)[:, 0] >= self.idle)
        found = codes.clone()
        found[active, 0] = assignment[LABEL]
        return found


class CentreJudge:
    """Predicts the position from the centre of the figure."""

    def log_probabilities(self, images: Images) -> Mapping[str, Tensor]:
        return {LABEL: torch.from_numpy(centres(images)[:, :1]).float()}


def rank_curve(
    context: PerturbationContext, perturbation: Perturbation, positions: Sequence[float], higher_is_better: bool | None
) -> Curve:
    """``obeyed_rank`` of models with a growing share of interventions without an effect."""
    data, ids = Sprites(), squares(context.seed)
    shares = [perturbation.strength(position) for position in positions]
    subjects = [subject_of(data, ids, share, context.seed) for share in shares]
    readings = tuple(measured(subject) for subject in subjects)
    expected = np.array([known(subjects[0], share) for share in shares])
    metric, value = OBEYED_RANK
    return Curve(
        metric, value, value, perturbation, True, tuple(positions), readings, expected,
        higher_is_better=higher_is_better,
    )  # fmt: skip


def squares(seed: int, count: int = COUNT) -> Ids:
    """Some images of squares, whose centres are exact."""
    data = Sprites()
    ids = data.split("test")
    ids = ids[data.factors(ids)[:, 0] == SQUARE]
    return np.sort(numpy_stream(seed, "positions").choice(ids, count, replace=False))


def subject_of(data: Sprites, ids: Ids, idle: float, seed: int) -> Subject:
    """The images with a model of which a share of the interventions is idle."""
    judge: Any = CentreJudge()
    return prepare(CentreModel(data, idle, seed), data, ids, seed=seed, judge=judge)


def measured(subject: Subject) -> Reading:
    """The measured rank correlation."""
    value = measure(subject, [METRIC]).find(f"intervention.{OBEYED_RANK[1]}@{LABEL}")
    found = value.estimate
    return Reading(found.value, found.low, found.high, note=value.note)


def known(subject: Subject, idle: float) -> float:
    """SciPy's rank correlation of the target and the shown position, mean over random choices of idle images.

    The shown position is the target, or of an idle image its own, moved to the nearest level if it lies outside them.
    """
    levels = subject.levels(LABEL)
    asked = levels[subject.target_class(LABEL)].numpy()
    own = subject.column(LABEL).double().clamp(levels[0], levels[-1]).numpy()
    generator = numpy_stream(0, "positions/known")
    idle_images = generator.random((REPEATS if 0 < idle < 1 else 1, len(own))) < idle
    return float(np.mean([spearmanr(asked, np.where(here, own, asked)).statistic for here in idle_images]))
