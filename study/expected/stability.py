"""UDR along its dial: it is a score of several models, so no single spoilt model has it.

Five oracles of other seeds (u's noise is each one's own) are turned, each by a part of a rotation of its own. What is
measured is the mean over families of five, and its interval that of this mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri
from scipy.stats import spearmanr, special_ortho_group, t, truncnorm

from ccvae_eval.calibration.code_faults import part_of_a_turn
from ccvae_eval.calibration.curves import Curve
from ccvae_eval.calibration.perturbations import Perturbation, PerturbationContext
from ccvae_eval.calibration.study import STABILITY
from ccvae_eval.calibration.verdict import LEVEL, Reading
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.stability import udr
from ccvae_eval.oracle.code import REACH, SPREAD

MODELS, FAMILIES, DRAWN = 5, 8, 12
"""Models of a family, families that are measured, and families behind what is known."""


def stability_curve(
    bench: PerturbationContext, dial: Perturbation, positions: Sequence[float], higher_is_better: bool | None
) -> Curve:
    """UDR of oracles that are turned more and more, on the columns of the bench's characteristics."""
    families = [_measured(bench, family, positions) for family in range(FAMILIES)]
    readings = tuple(_mean(found) for found in zip(*families, strict=True))
    known = np.full(len(positions), math.nan)
    known[0], known[-1] = (float(np.mean([_drawn(bench, f, turned) for f in range(DRAWN)])) for turned in (False, True))
    metric, value = STABILITY
    return Curve(metric, value, value, dial, True, tuple(positions), readings, known, higher_is_better=higher_is_better)


def _measured(bench: PerturbationContext, family: int, positions: Sequence[float]) -> list[float]:
    """UDR of one family at each position."""
    originals = bench.originals
    coding = originals.coding
    columns = [column for name in bench.names for column in originals.block(name).columns]
    codes, streams = [], [f"stability/{family}/{model}" for model in range(MODELS)]
    for purpose in streams:
        noise = numpy_stream(bench.seed, purpose).random((len(originals), coding.noise_size))
        own = coding.codes(originals.factors, originals.classes, noise)[:, columns].double().numpy()
        codes.append((own - own.mean(0)) / own.std(0))
    found = []
    for share in positions:
        turns = [part_of_a_turn(len(columns), share, numpy_stream(bench.seed, f"{p}/turn")) for p in streams]
        found.append(udr([own @ turn.T for own, turn in zip(codes, turns, strict=True)], seed=bench.seed).total)
    return found


def _mean(found: Sequence[float]) -> Reading:
    """The mean of independent numbers, with Student's interval."""
    mean, count = float(np.mean(found)), len(found)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(found, ddof=1) / math.sqrt(count))
    return Reading(mean, mean - half, mean + half)


def _drawn(bench: PerturbationContext, family: int, turned: bool) -> float:
    """The same, with noise drawn from its law and SciPy's rotations and rank correlations."""
    generator = numpy_stream(family, "stability/law")
    originals = bench.originals
    codes = []
    for _ in range(MODELS):
        parts = []
        for block in (originals.block(name) for name in bench.names):
            mean = block.means()[originals.classes[:, block.place]]
            noise = truncnorm.rvs(-REACH, REACH, size=mean.shape, random_state=generator)
            parts += [mean + SPREAD * noise, ndtri(originals.factors[:, list(block.factors)])]
        own = np.concatenate(parts, axis=1)
        own = (own - own.mean(0)) / own.std(0)
        codes.append(own @ special_ortho_group.rvs(own.shape[1], random_state=generator) if turned else own)
    scores = np.full((MODELS, MODELS), math.nan)
    for a, b in zip(*np.triu_indices(MODELS, 1), strict=True):
        scores[a, b] = scores[b, a] = _pair(codes[a], codes[b])
    return float(np.nanmedian(scores, axis=1).mean())


def _pair(one: Floats, other: Floats) -> float:
    width = one.shape[1]
    related = np.abs(np.asarray(spearmanr(one, other).statistic))[:width, width:]
    total = sum(float((related.max(axis) ** 2 / related.sum(axis)).sum()) for axis in (0, 1))
    return float(total / (2 * width))
