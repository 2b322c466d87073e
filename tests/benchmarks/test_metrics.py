"""Cost of each metric relative to its decoding, at 64 pixels with the decoder of CCVAE."""

from __future__ import annotations

from typing import Any

import pytest

from ccvae_eval.api import DEFAULT_METRICS
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.metrics.diversity.metric import Diversity
from ccvae_eval.metrics.generation.metric import Generation
from ccvae_eval.metrics.intervention.metric import Interventions
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.metrics.reconstruction.metric import Reconstruction
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION
from tests.benchmarks.conftest import Budget
from tests.support.costs import COUNT, ratio_to_decoding, seconds, squares_subject

BUDGET = 1.25
RUN = 1.3
"""Budget of a run with the default metrics: it includes drift and the fits of density and accuracy, while images that
metrics share are decoded once."""
COUNTS = {"generation": 10_000}
"""Number of images, where 576 are too few: generation decodes one per image, and comparing 2,000 images with each other
is a fixed cost."""
# without images drawn by the data's renderer, which are not decoded
DECODING = [Locality(), Diversity(redrawn=0), Reconstruction(), Interventions(rendered=0), Generation()]
ELSEWHERE = {"drift": "test_drift.py", "density": "test_density.py", "disentanglement": "test_panel.py"}
NOTHING_DECODED = {"accuracy", "density", "disentanglement", "measurement"}


def test_every_metric_has_its_benchmark(benchmark: Any) -> None:
    builtin = benchmark.pedantic(
        lambda: {r.name for r in registry.metrics.registrations() if r.distribution == BUILTIN_DISTRIBUTION}, rounds=1
    )
    assert builtin == {metric.name for metric in DECODING} | set(ELSEWHERE) | NOTHING_DECODED


@pytest.mark.slow
@pytest.mark.parametrize("metric", DECODING, ids=lambda metric: metric.name)
def test_a_metric_against_bare_decoding(metric: Any, benchmark: Any, budget: Budget) -> None:
    subject = squares_subject(COUNTS.get(metric.name, COUNT))
    benchmark.pedantic(seconds, args=(lambda: measure(subject, [metric]),), rounds=1)
    budget(f"{metric.name} / bare decoding", lambda: ratio_to_decoding(subject, BUDGET, metric), BUDGET)


@pytest.mark.slow
def test_a_run_against_bare_decoding(benchmark: Any, budget: Budget) -> None:
    subject = squares_subject()
    chosen = [registry.metrics[name]() for name in DEFAULT_METRICS]
    benchmark.pedantic(seconds, args=(lambda: measure(subject, chosen),), rounds=1)
    budget("default run / what its metrics decode together", lambda: ratio_to_decoding(subject, RUN, *chosen), RUN)
