"""Growth of a metric's time with images, labels and latent dimensions: time at the large size / that at the small one,
divided by the ratio of the sizes; 1 is linear growth. The decoder costs next to nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ccvae_eval.api import metric_named
from ccvae_eval.evaluation.runner import measure
from tests.benchmarks.conftest import Budget
from tests.support.costs import min_seconds
from tests.support.growth import growing_subject

LINEAR = 1.3
CODES = ("density", "accuracy", "disentanglement")
"""Metrics that decode no image."""
DECODING = ("locality", "drift", "diversity", "reconstruction", "generation", "intervention")
MORE = {
    ("density", "images"): 1.8,  # neighbours among the codes, and weights that are too many to be kept
    ("accuracy", "images"): 2.7,  # the weights of the resampling are kept up to a size, and beyond drawn for each use
    ("density", "labels"): 4.0,  # every label is predicted from the dimensions of every other one
    ("disentanglement", "labels"): 1.8,  # the same, for its matrices
    ("density", "latent dimensions"): 4.0,  # a linear probe on all dimensions of style solves for their products
}
"""Budgets of what cannot be linear, each with its reason."""


def sizes(metric: str, what: str) -> tuple[dict[str, int], dict[str, int]]:
    """The small and the large subject."""
    some = {"images": 500 if metric in CODES else 128}
    if what == "images":
        return ({"images": 5000}, {"images": 50_000}) if metric in CODES else ({"images": 256}, {"images": 2048})
    if what == "labels":
        return {**some, "labels": 4, "dimensions": 44}, {**some, "labels": 40, "dimensions": 44}
    return {**some, "dimensions": 100}, {**some, "dimensions": 1000}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["images", "labels", "latent dimensions"])
@pytest.mark.parametrize("name", [*CODES, *DECODING])
def test_growth(name: str, what: str, benchmark: Any, budget: Budget) -> None:
    metric: Any = metric_named(name)
    if name == "generation":  # comparing all images with each other is a fixed cost of the default sample
        metric = replace(metric, asked_images=64)
    small, large = sizes(name, what)
    benchmark.pedantic(lambda: measure(growing_subject(**{**small, "images": 128}), [metric]), rounds=1)

    def growth() -> float:
        times = []
        for size in (small, large):
            subject = growing_subject(**size)
            times.append(min_seconds(lambda subject=subject: measure(subject, [metric]), rounds=2))  # type: ignore[misc]
        (key,) = (key for key in large if large[key] != small.get(key))
        return times[1] / times[0] / (large[key] / small[key])

    budget(f"{name}: growth with {what}, 1 = linear", growth, MORE.get((name, what), LINEAR))
