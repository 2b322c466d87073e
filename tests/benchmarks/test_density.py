"""Cost of density: many projected areas against single ones, and the whole metric."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch

from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout
from ccvae_eval.statistics.auc import auc_estimate, auc_projection, projected_estimates
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.costs import min_seconds
from tests.support.fakes import table_subject

COUNT = 2000


def fastest(call):
    """Minimum wall time over three rounds, in seconds."""
    return min_seconds(call, 3, perf_counter)


def test_a_hundred_projected_areas_cost_less_than_ten_single_ones(benchmark, budget):
    rng = np.random.default_rng(0)
    labels = (rng.random(COUNT) < 0.4).astype(float)
    scores = rng.standard_normal((100, COUNT)) + labels
    weights = ResampleWeights(0, COUNT)
    weights.rows(np.arange(COUNT))

    def projected():
        return projected_estimates([auc_projection(score, labels) for score in scores], weights)

    def single():
        return [auc_estimate(score, labels, weights) for score in scores[:10]]

    benchmark.pedantic(projected, rounds=2)
    budget("100 projected ROC areas / 10 exact ones", lambda: fastest(projected) / fastest(single), 1.0)


def test_density_of_nine_characteristics(benchmark):
    """2,000 images, eight binary labels, five hair colours in two latent dimensions, and 27 of style."""
    rng = np.random.default_rng(0)
    names = [f"label {i}" for i in range(8)]
    schema = LabelSchema((*map(Label, names), Label("hair", "categorical", tuple("abcde"))))
    layout = LatentLayout(37, {**{name: (i,) for i, name in enumerate(names)}, "hair": (8, 9)})
    labels = np.column_stack([rng.random((COUNT, 8)) < 0.4, rng.integers(0, 5, COUNT)]).astype(float)
    codes = rng.standard_normal((COUNT, 37))
    codes[:, :8] += 1.5 * labels[:, :8]
    codes[:, 8:10] += 2 * np.column_stack([np.cos(labels[:, 8]), np.sin(labels[:, 8])])
    subject = table_subject(torch.from_numpy(codes), torch.from_numpy(labels), schema, layout)
    weights = ResampleWeights(0, COUNT)
    weights.rows(np.arange(COUNT))
    found = benchmark.pedantic(lambda: Density().start(subject).compute(weights), rounds=1)
    assert found.status == "ok"
