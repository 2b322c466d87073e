"""UDR along the perturbation ``turn``. It scores several models, so it needs a perturbed family instead of a model.

A family is five oracles with independent noise in u, each with its own partial random rotation. The measured value is
the mean over families, with Student's confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri
from scipy.stats import spearmanr, special_ortho_group, t, truncnorm

from ccvae_eval.calibration.code_faults import partial_rotation
from ccvae_eval.calibration.perturbations import Perturbation, PerturbationContext
from ccvae_eval.calibration.study import STABILITY
from ccvae_eval.calibration.verdict import LEVEL, Curve, Reading
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.arrays import udr
from ccvae_eval.oracle.model import REACH, SPREAD

MODELS, FAMILIES, SIMULATED = 5, 8, 12
"""Models of a family, measured families, and families behind the expected values."""


def stability_curve(
    context: PerturbationContext, perturbation: Perturbation, positions: Sequence[float], higher_is_better: bool | None
) -> Curve:
    """UDR of increasingly rotated oracles, over the latent dimensions of the context's characteristics."""
    families = [_measured(context, family, positions) for family in range(FAMILIES)]
    readings = tuple(_mean(found) for found in zip(*families, strict=True))
    expected = np.full(len(positions), math.nan)
    expected[0], expected[-1] = (
        float(np.mean([_simulated(context, f, rotated) for f in range(SIMULATED)])) for rotated in (False, True)
    )
    metric, value = STABILITY
    return Curve(
        metric, value, value, perturbation, True, tuple(positions), readings, expected,
        higher_is_better=higher_is_better,
    )  # fmt: skip


def _measured(context: PerturbationContext, family: int, positions: Sequence[float]) -> list[float]:
    """UDR of one family at each position."""
    references = context.references
    coding = references.coding
    columns = [column for name in context.names for column in references.block(name).columns]
    codes, streams = [], [f"stability/{family}/{model}" for model in range(MODELS)]
    for purpose in streams:
        noise = numpy_stream(context.seed, purpose).random((len(references), coding.noise_size))
        own = coding.codes(references.factors, references.classes, noise)[:, columns].double().numpy()
        codes.append((own - own.mean(0)) / own.std(0))
    found = []
    for share in positions:
        rotations = [partial_rotation(len(columns), share, numpy_stream(context.seed, f"{p}/turn")) for p in streams]
        found.append(
            udr([own @ rotation.T for own, rotation in zip(codes, rotations, strict=True)], seed=context.seed).total
        )
    return found


def _mean(found: Sequence[float]) -> Reading:
    """Mean of independent numbers, with Student's confidence interval."""
    mean, count = float(np.mean(found)), len(found)
    half_width = float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(found, ddof=1) / math.sqrt(count))
    return Reading(mean, mean - half_width, mean + half_width)


def _simulated(context: PerturbationContext, family: int, rotated: bool) -> float:
    """UDR of a family with simulated noise and random rotations, by SciPy's rank correlations."""
    generator = numpy_stream(family, "stability/law")
    references = context.references
    codes = []
    for _ in range(MODELS):
        parts = []
        for block in (references.block(name) for name in context.names):
            mean = block.means()[references.classes[:, block.place]]
            noise = truncnorm.rvs(-REACH, REACH, size=mean.shape, random_state=generator)
            parts += [mean + SPREAD * noise, ndtri(references.factors[:, list(block.factors)])]
        own = np.concatenate(parts, axis=1)
        own = (own - own.mean(0)) / own.std(0)
        codes.append(own @ special_ortho_group.rvs(own.shape[1], random_state=generator) if rotated else own)
    scores = np.full((MODELS, MODELS), math.nan)
    for a, b in zip(*np.triu_indices(MODELS, 1), strict=True):
        scores[a, b] = scores[b, a] = _pair(codes[a], codes[b])
    return float(np.nanmedian(scores, axis=1).mean())


def _pair(one: Floats, other: Floats) -> float:
    width = one.shape[1]
    related = np.abs(np.asarray(spearmanr(one, other).statistic))[:width, width:]
    total = sum(float((related.max(axis) ** 2 / related.sum(axis)).sum()) for axis in (0, 1))
    return float(total / (2 * width))
