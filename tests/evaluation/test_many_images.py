"""Sums over blocks of images, files in place of memory: the numbers of many images are those of one block in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core import large_arrays
from ccvae_eval.core.large_arrays import LargeArray
from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation import result_table
from ccvae_eval.evaluation import subject as subjects
from ccvae_eval.evaluation.metric import metric_named
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.metrics.disentanglement import metric as disentanglement
from ccvae_eval.metrics.shared import likelihood
from ccvae_eval.metrics.shared.likelihood import gaussian_divergence
from ccvae_eval.model import fixed_batches
from ccvae_eval.model.fixed_batches import rows_like, set_rows
from ccvae_eval.statistics import conditional_independence, distances, probes
from ccvae_eval.statistics.conditional_independence import linear_residuals, logistic_residuals
from ccvae_eval.statistics.distances import frechet_distance
from ccvae_eval.statistics.probes import folds_of, logistic_coefficients
from tests.support.growth import growing_subject

IMAGES, BLOCK = 500, 60
MODULES = (conditional_independence, distances, fixed_batches, large_arrays, likelihood, probes, result_table, subjects)
random = np.random.default_rng(0)
CODES = random.standard_normal((IMAGES, 4))
LABELS = (CODES[:, :1] + random.standard_normal((IMAGES, 1)) > 0).astype(float)
FOLDS = folds_of(np.arange(IMAGES))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        monkeypatch.setattr(module, "MAX_IN_MEMORY", BLOCK)


def regressions() -> list[np.ndarray]:
    masks = np.stack([fold != FOLDS for fold in range(5)])
    return [
        logistic_coefficients(CODES, np.broadcast_to(LABELS[:, 0], masks.shape), masks),
        linear_residuals(LABELS, CODES, FOLDS),
        logistic_residuals(LABELS, CODES, FOLDS),
    ]


def test_regressions(request: pytest.FixtureRequest) -> None:
    whole = regressions()
    request.getfixturevalue("small_blocks")
    for one, blocks in zip(whole, regressions(), strict=True):
        np.testing.assert_allclose(blocks, one, rtol=1e-9, atol=1e-12)


def test_the_frechet_distance_of_rows_in_a_file(request: pytest.FixtureRequest) -> None:
    whole = frechet_distance(CODES[:300], CODES[300:])
    request.getfixturevalue("small_blocks")
    rows = LargeArray((300, 4), np.float64)
    rows[:] = CODES[:300]
    assert frechet_distance(rows, CODES[300:]) == pytest.approx(whole, rel=1e-12)


def test_divergences(request: pytest.FixtureRequest) -> None:
    loc, scale = torch.from_numpy(CODES), torch.from_numpy(np.exp(CODES))
    prior = Gaussian(torch.zeros(()).expand(loc.shape), torch.ones(()).expand(loc.shape))
    whole = gaussian_divergence(Gaussian(loc, scale), prior)
    request.getfixturevalue("small_blocks")
    np.testing.assert_array_equal(gaussian_divergence(Gaussian(loc, scale), prior), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_of_batches(dtype: torch.dtype, small_blocks: None) -> None:
    expected = torch.from_numpy(CODES).to(dtype)
    found, gaussian = rows_like(expected[:3], IMAGES), rows_like(Gaussian(expected[:3], expected[:3]), IMAGES)
    for first in range(0, IMAGES, 32):
        rows = slice(first, min(first + 32, IMAGES))
        set_rows(found, rows, expected[rows])
        set_rows(gaussian, rows, Gaussian(expected[rows], -expected[rows]))
    assert isinstance(found, torch.Tensor)
    assert isinstance(gaussian, Gaussian)
    assert torch.equal(found, expected)
    assert torch.equal(gaussian.scale, -expected)


@pytest.mark.parametrize("metric", ["accuracy", "density", "generation", "measurement", "reconstruction"])
def test_values(metric: str, request: pytest.FixtureRequest) -> None:
    whole = measure(growing_subject(IMAGES), [metric_named(metric)]).measurements[0]
    request.getfixturevalue("small_blocks")
    blocks = measure(growing_subject(IMAGES), [metric_named(metric)]).measurements[0]
    assert blocks.status == "ok"
    assert [v.key for v in blocks.values] == [v.key for v in whole.values]
    for one, two in zip(whole.values, blocks.values, strict=True):
        # 1e-8: the Fréchet distance takes roots of eigenvalues that are 0 up to rounding
        assert two.estimate.value == pytest.approx(one.estimate.value, rel=1e-9, abs=1e-8, nan_ok=True), one.key


def test_the_panel_of_many_images_is_that_of_a_sample_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, chosen = growing_subject(IMAGES), [metric_named("disentanglement")]
    sampled = measure(subject.subsample(200), chosen).measurements[0]
    monkeypatch.setattr(disentanglement, "MAX_RANKED", 200)
    found = measure(subject, chosen).measurements[0]
    assert "scores of 200 of 500 images, evenly spaced" in found.notes
    for one, two in zip(sampled.values, found.values, strict=True):
        assert one.key == two.key
        assert two.estimate.value == pytest.approx(one.estimate.value, nan_ok=True)
        assert one.estimate.n == two.estimate.n
