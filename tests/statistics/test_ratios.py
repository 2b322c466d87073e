import numpy as np
import pytest

from ccvae_eval.statistics.ratios import class_frequencies, safe_ratio

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_ratios_equal_plain_divisions_in_every_bit(kind):
    part, whole = ((1 + 1000 * RNG.random((50, 40))).astype(kind) for _ in range(2))
    found = safe_ratio(part, whole)
    assert found.dtype == (part / whole).dtype
    np.testing.assert_array_equal(found, part / whole)


def test_the_memory_layout_is_that_of_a_plain_division():
    part = RNG.random((4, 3, 2)).transpose(0, 2, 1)
    assert safe_ratio(part, part.sum(axis=1, keepdims=True)).strides == (part / 2).strides


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("undefined", [np.nan, 0.0, 1.0])
def test_a_denominator_that_is_not_positive_gives_the_stated_value(undefined):
    found = safe_ratio([0.0, 1.0, np.nan, 1.0], [0.0, -1.0, 0.0, np.nan], undefined)
    np.testing.assert_array_equal(found, np.full(4, undefined))


def test_nan_numerators_stay_nan():
    assert np.isnan(safe_ratio(np.nan, 1.0, 0.0))


def test_arrays_are_broadcast():
    found = safe_ratio(np.ones((2, 3)), np.array([[1.0], [0.0]]), np.array([7.0, 8.0, 9.0]))
    np.testing.assert_array_equal(found, [[1, 1, 1], [7, 8, 9]])
    assert safe_ratio(1.0, 4.0).shape == ()


def test_denominators_within_rounding_count_as_0():
    np.testing.assert_array_equal(safe_ratio(1.0, np.array([1e-13, 2.0]), 0.0, above=1e-12), [0.0, 0.5])


def test_frequencies_without_labels_are_0():
    np.testing.assert_array_equal(class_frequencies(np.array([-1, -1]), 3), np.zeros(3))
