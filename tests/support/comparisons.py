"""Runs with chosen contributions of single images, for tests of comparisons and gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
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


def model(
    number: int,
    better: float = 0.0,
    n: int = 200,
    path: str = "a.pt",
    images: int = 0,
    names: tuple[str, ...] = ("Smile", "Hat", "Tie"),
    **header: object,
) -> Run:
    """A run of four metrics on images that all models share.

    Args:
        number: of the model; models of different numbers differ by independent noise alone.
        better: how much better the model is, in standard deviations of its noise.
        n: number of images.
        path: the checkpoint.
        images: number of the set of images.
        names: the characteristics.
        **header: further fields of the header.
    """
    shared, own = np.random.default_rng([images, 0]), np.random.default_rng([images, 1, number])
    image = shared.standard_normal(n)
    label = (shared.random(n) < 0.4).astype(float)
    focus = {c: Mean(0.5 + 0.1 * (image + own.standard_normal(n) + better)) for c in names}
    outside = np.exp(image / 2 + own.standard_normal(n) / 2 - better)
    right = np.where(own.random(n) < 0.8 + 0.15 * np.tanh(better), label, 1 - label)
    scores = image / 2 + own.standard_normal(n) + (1 + better) * label
    return run_of(
        {
            "locality": ("focus", focus),
            "drift": ("spill", {names[0]: RatioOfSums(outside, np.exp(shared.standard_normal(n) / 2))}),
            "accuracy": ("balanced_accuracy", {names[0]: BalancedAccuracy(right, label)}),
            "density": ("auc", {names[0]: RocAuc([scores], [label])}),
        },
        path=path,
        directions={"drift": False},
        **header,
    )


GALLERY, STATIONS, SIZE = 12, 5, 16


def pictured(run: Run, shade: int = 0, every: int = 5) -> Run:
    """The run with traversals of its first images and single images, as they are stored in pictures.npz.

    Args:
        run: a run of :func:`model`.
        shade: brightness that the model adds to its pictures.
        every: distance between the single images.
    """
    names = [value.characteristic for value in run.measurement("locality").values if value.characteristic]
    shades = np.linspace(0, 200, STATIONS)[None, :, None, None, None] + shade
    strips = {f"strip/{c}": np.broadcast_to(shades, (8, STATIONS, SIZE, SIZE, 3)).astype(np.uint8) for c in names}
    ids = np.arange(GALLERY) * every
    edited = np.full((GALLERY, SIZE, SIZE, 3), 100 + shade, np.uint8)
    gallery = {"ids": ids, "image": np.zeros_like(edited), "reconstruction": edited}
    for c in names:
        gallery |= {f"do/{c}": edited, f"label/{c}": ids % 2, f"then/{c}": 1 - ids % 2}
    measurements = tuple(replace(m, pictures=strips) if m.metric == "locality" else m for m in run)
    data = {**run.header.data, "n": 200, "labels": [{"name": c, "kind": "binary", "classes": []} for c in names]}
    return replace(run, header=replace(run.header, data=data), measurements=measurements, gallery=gallery)
