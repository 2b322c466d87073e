"""Runs with chosen contributions of single images, for tests of comparisons and gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.evaluation.result_table import HasInfluence
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.statistics.intervals import mean_over
from ccvae_eval.statistics.resampling import ResampleWeights


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
