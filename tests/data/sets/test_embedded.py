"""Digits and the swiss roll against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.datasets import load_digits, make_swiss_roll

from ccvae_eval.core.errors import UsageError
from ccvae_eval.data.interface import HasFactors
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.interface import supports


def test_digits_equal_scikit_learn() -> None:
    data = open_data("digits,size=8")
    found = load_digits()
    np.testing.assert_array_equal(data.batch(np.arange(1797)).images[:, 0].numpy() * 16, found.images)
    np.testing.assert_array_equal(data.labels_of(np.arange(1797))[:, 0], found.target)
    assert open_data("digits").input_shape == (1, 32, 32)


def test_the_swiss_roll_has_the_distribution_of_scikit_learn() -> None:
    data = open_data("swissroll")
    points = data.batch(np.arange(len(data))).images.numpy()
    expected, t = make_swiss_roll(20_000, random_state=0)
    for column in range(3):
        assert kstest(points[:, column], expected[:, column]).pvalue > 0.001
    assert supports(data, HasFactors)
    factors = data.factors(np.arange(len(data)))
    turn, height = factors.T
    np.testing.assert_allclose(points, np.stack([turn * np.cos(turn), height, turn * np.sin(turn)], 1), atol=1e-5)
    assert kstest(turn, t).pvalue > 0.001
    labels = data.labels_of(np.arange(len(data)))[:, 0]
    np.testing.assert_array_equal(labels, points[:, 0] >= 10)
    assert labels.mean() == pytest.approx(0.137, abs=0.01), "the prevalence in the paper's code"
    assert (len(data.split("train")), len(data.split("judge")), len(data.split("test"))) == (10_000, 0, 10_000)


def test_points_depend_only_on_their_id_and_noise_is_gaussian() -> None:
    some, ids = open_data("swissroll,n=100"), np.arange(100)
    np.testing.assert_array_equal(some.batch(ids).images, open_data("swissroll,n=5000").batch(ids).images)
    noisy = open_data("swissroll,n=100,noise=0.5").batch(ids).images - some.batch(ids).images
    assert float(noisy.std()) == pytest.approx(0.5, abs=0.07)
    assert not np.array_equal(open_data("swissroll,n=100,seed=1").batch(ids).images, some.batch(ids).images)


@pytest.mark.parametrize(
    "spec", ["swissroll,noise=-1", "swissroll,noise=x", "swissroll,n=1", "digits,size=4", "digits:x"]
)
def test_invalid_options_are_rejected(spec: str) -> None:
    with pytest.raises(UsageError):
        open_data(spec)
