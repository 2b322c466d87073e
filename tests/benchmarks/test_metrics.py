"""What each metric costs beyond the decoding that it asks for, at 64 pixels with the decoder of CCVAE."""

from __future__ import annotations

from typing import Any

import pytest

from ccvae_eval.api import CARD
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.metrics.diversity.metric import Diversity
from ccvae_eval.metrics.generation.metric import Generation
from ccvae_eval.metrics.intervention.metric import Interventions
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.metrics.reconstruction.metric import Reconstruction
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.registry import HOME
from tests.support.costs import COUNT, ratio_to_decoding, seconds, squares_subject

BUDGET = 1.25
RUN = 1.3
"""The budget of a whole run: drift's, the fits behind density and accuracy, and what metrics share decoded once."""
COUNTS = {"generation": 10_000}
"""Images, where 576 are few: generation decodes one for each and compares 2,000 of them with each other, a fixed price
that its own default spreads."""
# without what the data's renderer paints, which is no decoding
DECODING = [Locality(), Diversity(redrawn=0), Reconstruction(), Interventions(rendered=0), Generation()]
ELSEWHERE = {"drift": "test_drift.py", "density": "test_density.py", "disentanglement": "test_panel.py"}
NOTHING_DECODED = {"accuracy", "density", "disentanglement"}


def test_every_metric_has_its_benchmark(benchmark: Any) -> None:
    ours = benchmark.pedantic(
        lambda: {r.name for r in registry.metrics.registrations() if r.distribution == HOME}, rounds=1
    )
    assert ours == {metric.name for metric in DECODING} | set(ELSEWHERE) | NOTHING_DECODED


@pytest.mark.slow
@pytest.mark.parametrize("metric", DECODING, ids=lambda metric: metric.name)
def test_a_whole_metric_costs_little_more_than_its_decoding(metric: Any, benchmark: Any) -> None:
    subject = squares_subject(COUNTS.get(metric.name, COUNT))
    ratio = ratio_to_decoding(subject, BUDGET, metric)
    benchmark.extra_info["ratio to bare decoding"] = ratio
    benchmark.pedantic(seconds, args=(lambda: evaluate(subject, [metric]),), rounds=1)
    assert ratio <= BUDGET


@pytest.mark.slow
def test_a_run_costs_little_more_than_what_its_metrics_decode_together(benchmark: Any) -> None:
    subject = squares_subject()
    chosen = [registry.metrics[name]() for name in CARD]
    ratio = ratio_to_decoding(subject, RUN, *chosen)
    benchmark.extra_info["ratio to bare decoding"] = ratio
    benchmark.pedantic(seconds, args=(lambda: evaluate(subject, chosen),), rounds=1)
    assert ratio <= RUN
