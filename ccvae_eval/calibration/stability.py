"""UDR along its dial: it is a score of several models, so no single spoilt model has it.

Five oracles of other seeds (u's noise is each one's own) are turned, each by a part of a rotation of its own. What is
measured is the mean over families of five, and its interval that of this mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr, special_ortho_group, t, truncnorm

from ccvae_eval.calibration.coding import REACH, SPREAD
from ccvae_eval.calibration.curves import Curve
from ccvae_eval.calibration.dials import Bench, Dial
from ccvae_eval.calibration.spoilt import part_of_a_turn
from ccvae_eval.calibration.verdicts import LEVEL, Reading
from ccvae_eval.metrics.disentanglement.stability import udr
from ccvae_eval.streams import numpy_stream, uniforms
from ccvae_eval.types import Floats

STABILITY = ("disentanglement", "udr")
MODELS, FAMILIES, DRAWN = 5, 8, 24
"""Models of a family, families that are measured, and families behind what is known."""


def stability_curve(bench: Bench, dial: Dial, positions: Sequence[float], higher_is_better: bool | None) -> Curve:
    """UDR of oracles that are turned more and more, on the columns of the bench's characteristics."""
    readings = tuple(
        _mean([_measured(bench, family, position) for family in range(FAMILIES)]) for position in positions
    )
    known = np.full(len(positions), math.nan)
    known[0], known[-1] = (float(np.mean([_drawn(bench, f, turned) for f in range(DRAWN)])) for turned in (False, True))
    metric, value = STABILITY
    return Curve(metric, value, value, dial, True, tuple(positions), readings, known, higher_is_better=higher_is_better)


def _measured(bench: Bench, family: int, share: float) -> float:
    originals = bench.originals
    coding = originals.coding
    columns = [column for name in bench.names for column in originals.block(name).columns]
    codes = []
    for model in range(MODELS):
        purpose = f"stability/{family}/{model}"
        noise = uniforms(bench.seed, purpose, bench.ids, coding.noise_size)
        own = coding.codes(originals.factors, originals.classes, noise)[:, columns].double().numpy()
        own = (own - own.mean(0)) / own.std(0)
        codes.append(own @ part_of_a_turn(len(columns), share, numpy_stream(bench.seed, f"{purpose}/turn")).T)
    return udr(codes, seed=bench.seed).total


def _mean(found: Sequence[float]) -> Reading:
    """The mean of independent numbers, with Student's interval."""
    mean, count = float(np.mean(found)), len(found)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(found, ddof=1) / math.sqrt(count))
    return Reading(mean, mean - half, mean + half)


def _drawn(bench: Bench, family: int, turned: bool) -> float:
    """The same of codes that are drawn from their law, by SciPy's rank correlations."""
    generator = numpy_stream(family, "stability/law")
    originals = bench.originals
    blocks = [originals.block(name) for name in bench.names]
    rows = generator.integers(0, len(originals), len(originals))
    shared = [generator.standard_normal((len(rows), len(block.variety))) for block in blocks]
    codes = []
    for _ in range(MODELS):
        parts = []
        for block, variety in zip(blocks, shared, strict=True):
            mean = block.means()[originals.classes[rows, block.place]]
            noise = truncnorm.rvs(-REACH, REACH, size=mean.shape, random_state=generator)
            parts += [mean + SPREAD * noise, variety]
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
    return float(total) / (2 * width)
