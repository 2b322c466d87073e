"""Runs made by hand, with pictures and evidence, for tests of reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ccvae_eval.core.results import Estimate, Measurement, Reason, Value, ValueSpec
from ccvae_eval.evaluation.run import Header, Run

IMAGES, GALLERY, SIZE, STATIONS = 60, 12, 16, 5
LABELS = ("Eyeglasses", "Smiling")


def value(name: str, number: float, characteristic: str | None = None, **more: Any) -> Value:
    """A value with an interval of 0.1 to both sides."""
    estimate = Estimate(number, number - 0.1, number + 0.1, IMAGES, "bootstrap")
    return Value(name, estimate, characteristic, **{"chance": 0.0, **more})


def measurement(metric: str, headline: str, values: Sequence[Value], **more: Any) -> Measurement:
    return Measurement(metric, 1, {"steps": STATIONS}, headline, tuple(values), **more)


def header(labels: Sequence[str] = LABELS, **data: Any) -> Header:
    schema = [{"name": name, "kind": "binary", "classes": []} for name in labels]
    return Header(
        tool={"name": "ccvae-eval", "version": "0"},
        environment={"device": "cpu"},
        checkpoint={"path": "model.pt", "sha256": "ab" * 32, "model": "ccvae", "format": "pt", "settings": {}},
        data={"name": "squares", "digest": "d", "n": IMAGES, "split": "test", "labels": schema, **data},
        regions={"source": "renderer"},
        command="ccvae-eval run model.pt",
        started="2026-01-02T03:04:05+00:00",
    )


def run_of(*measurements: Measurement, labels: Sequence[str] = LABELS, **data: Any) -> Run:
    """A run of these measurements; their images are 0, 1, ..."""
    specs = {m.metric: {v.name: ValueSpec("", "", True, (0.0, 1.0)) for v in m.values} for m in measurements}
    return Run(header(labels, **data), measurements, specs, {m.metric: np.arange(IMAGES) for m in measurements})


def pictured_run(labels: Sequence[str] = LABELS) -> Run:
    """A run with strips, single images, per-image numbers, density curves, and one metric that failed.

    The first two labels have a two-dimensional traversal: red grows to the right and green downwards.
    """
    random = np.random.default_rng(0)
    strips, evidence, curves = {}, {}, {}
    focus = [value("focus", 0.5, reference=0.9)]
    auc = [value("auc", 0.8, chance=0.5)]
    shades = np.linspace(0, 255, STATIONS)[None, :, None, None, None]
    gallery: dict[str, Any] = {"ids": np.arange(GALLERY) * 5}
    gallery |= {name: pixels(random, GALLERY) for name in ("image", "reconstruction")}
    for k, name in enumerate(labels):
        strips[f"strip/{name}"] = np.broadcast_to(shades, (8, STATIONS, SIZE, SIZE, 3)).astype(np.uint8)
        region = np.zeros((SIZE, SIZE), np.float32)
        region[4:8, 4:12] = 1
        strips[f"mean/region/{name}"] = region
        focus.append(value("focus", 0.4 + 0.1 * k, name, reference=0.9))
        auc.append(value("auc", 0.8, name, chance=0.5))
        for j in labels:
            focus.append(value("response", 0.9 if name == j else 0.1, name, at={"judged": j}))
            evidence[f"response/{name}/judged={j}/numerator"] = random.random(IMAGES)
            evidence[f"response/{name}/judged={j}/denominator"] = np.ones(IMAGES)
        evidence[f"focus/{name}/numerator"] = np.roll(np.linspace(0, 1, IMAGES), 7 * k + 3)
        evidence[f"focus/{name}/denominator"] = np.ones(IMAGES)
        curves |= {f"curves/{name}/{part}": np.linspace(0, 1, 9) for part in ("grid", "absent", "present")}
        gallery |= {f"do/{name}": pixels(random, GALLERY), f"label/{name}": np.arange(GALLERY) % 2}
        gallery[f"then/{name}"] = 1 - gallery[f"label/{name}"]
    pad = np.zeros((2, 5, 5, SIZE, SIZE, 3), np.uint8)
    pad[..., 0] = np.linspace(0, 240, 5)[None, None, :, None, None]
    pad[..., 1] = np.linspace(0, 240, 5)[None, :, None, None, None]
    gallery |= {"pads": np.array([labels[:2]]), "pad/0": pad}
    strips["mean/image"] = np.zeros((SIZE, SIZE, 3), np.float32)
    failed = Measurement("drift", 1, {}, "spill", status="failed", reason=Reason("nan", "the decoder gave NaN"))
    run = run_of(
        measurement("locality", "focus", focus, pictures=strips, evidence=evidence),
        measurement("density", "auc", auc, pictures=curves),
        failed,
        labels=labels,
    )
    return replace(run, gallery=gallery)


def in_classes(run: Run, name: str = LABELS[1]) -> Run:
    """The run with a label shown in each class instead of along a path: grey levels 0, 100 and 200."""
    shades = np.array([0, 100, 200], np.uint8)[None, :, None, None, None]
    classes = np.broadcast_to(shades, (2, 3, SIZE, SIZE, 3))
    return replace(run, gallery={**run.gallery, "moved": np.array([0, 5]), f"classes/{name}": classes})


def pixels(random: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return random.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def undefined(
    name: str, characteristic: str | None = None, note: str = "", at: Mapping[str, Any] | None = None
) -> Value:
    return Value(name, Estimate(math.nan), characteristic, dict(at or {}), note=note)
