"""Runs with chosen contributions of single images, for tests of comparisons and gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.evaluation.result_table import HasInfluence, Mean, RatioOfSums
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.metrics.accuracy.metric import BalancedAccuracy
from ccvae_eval.metrics.shared.contrasts import RocAuc
from ccvae_eval.statistics.intervals import mean_over
from ccvae_eval.statistics.resampling import ResampleWeights

HOSTILE = (
    "=cmd()", "\\input{x}", "<script>alert(1)</script>", "\x1b[31mred", "a|b`c`", "n" * 300, "two\nlines", "\ufffe",
    "[x](javascript:y)", "%&#$_^~", "*",
)  # fmt: skip
"""Names that some format would evaluate."""


def run_of(
    metrics: Mapping[str, tuple[str, Mapping[str | None, Any]]],
    *,
    path: str = "a.pt",
    ids: Any = None,
    directions: Mapping[str, bool | None] | None = None,
    draws: int = 100,
    **header: Any,
) -> Run:
    """A run whose metrics have one value, with an image statistic (or the reason why undefined) per characteristic.

    Args:
        metrics: metric -> (name of its headline value, characteristic or None -> image statistic or reason).
        path: the checkpoint.
        ids: ids of the images; default 0, 1, ...
        directions: metric -> higher_is_better; default True.
        draws: resamples of the intervals.
        **header: further fields of the header.
    """
    measurements, specs, all_ids = [], {}, {}
    for metric, (name, statistics) in metrics.items():
        values, found, evidence = [], [], {}
        for characteristic, statistic in statistics.items():
            if isinstance(statistic, str):
                values.append(Value(name, Estimate(math.nan), characteristic, note=statistic, in_mean=True))
                continue
            numerator, denominator = statistic.terms()
            key = "/".join(filter(None, (name, characteristic)))
            evidence |= {f"{key}/numerator": numerator, f"{key}/denominator": denominator}
            if isinstance(statistic, HasInfluence):
                evidence[f"{key}/influence"] = statistic.influence()
            part = statistic.estimate(ResampleWeights(0, len(numerator), draws))
            found.append(part)
            values.append(Value(name, part.estimate, characteristic, in_mean=characteristic is not None))
            all_ids[metric] = np.arange(len(numerator)) if ids is None else ids
        if None not in statistics and found:
            values.insert(0, Value(name, mean_over(found, 0.95).estimate))
        specs[metric] = {name: ValueSpec("", "", (directions or {}).get(metric, True))}
        measurements.append(Measurement(metric, 1, {"steps": 11}, name, tuple(values), evidence=evidence))
    header = {"data": {"digest": "d", "split": "test", "sample": None, "name": "faces"}, "seed": 0, **header}
    return Run(Header(checkpoint={"path": path, "sha256": path}, **header), tuple(measurements), specs, all_ids)


def model(number: int, better: float = 0.0, n: int = 200, path: str = "a.pt", images: int = 0, **header: object) -> Run:
    """A run of four metrics on images that all models share.

    Args:
        number: of the model; models of different numbers differ by independent noise alone.
        better: how much better the model is, in standard deviations of its noise.
        n: number of images.
        path: the checkpoint.
        images: number of the set of images.
        **header: further fields of the header.
    """
    shared, own = np.random.default_rng([images, 0]), np.random.default_rng([images, 1, number])
    image = shared.standard_normal(n)
    label = (shared.random(n) < 0.4).astype(float)
    focus = {c: Mean(0.5 + 0.1 * (image + own.standard_normal(n) + better)) for c in ("Smile", "Hat", "Tie")}
    outside = np.exp(image / 2 + own.standard_normal(n) / 2 - better)
    right = np.where(own.random(n) < 0.8 + 0.15 * np.tanh(better), label, 1 - label)
    scores = image / 2 + own.standard_normal(n) + (1 + better) * label
    return run_of(
        {
            "locality": ("focus", focus),
            "drift": ("spill", {"Smile": RatioOfSums(outside, np.exp(shared.standard_normal(n) / 2))}),
            "accuracy": ("balanced_accuracy", {"Smile": BalancedAccuracy(right, label)}),
            "density": ("auc", {"Smile": RocAuc([scores], [label])}),
        },
        path=path,
        directions={"drift": False},
        **header,
    )
