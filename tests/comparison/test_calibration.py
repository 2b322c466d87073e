"""Comparisons of simulated models: false positives of whole families, and the power against a better model."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy import stats

from ccvae_eval.comparison.compare import Comparison, compare
from tests.support.comparisons import model

pytestmark = pytest.mark.oracle

N = 120


def comparison(number: int, better: float = 0.0) -> Comparison:
    """Two models on the same images, equal but for their noise and how much better the first one is."""
    return compare(*(model(k, shift, N, images=number) for k, shift in ((1, better), (2, 0.0))))


def check_false_positives(repeats: int) -> None:
    """At most 5 % of families (headlines; single characteristics) of equal models have a difference."""
    wrong: Counter[str] = Counter()
    for number in range(repeats):
        found = comparison(number)
        wrong["headlines"] += any(value.higher for value in found.means)
        wrong["characteristics"] += any(value.higher for value in found.singles)
    most = stats.binom.ppf(0.999, repeats, 0.05)
    assert max(wrong.values(), default=0) <= most, (wrong, most)


def test_equal_models_rarely_differ() -> None:
    check_false_positives(40)


@pytest.mark.soak
def test_equal_models_differ_in_5_percent_of_families_at_most() -> None:
    check_false_positives(1000)


def check_power(repeats: int, least: float) -> None:
    """A model whose focus is 0.3 standard deviations better is found at N = 120, and never takes the lower place."""
    verdicts = Counter(comparison(number, 0.3)["locality.focus"].verdict[:8] for number in range(repeats))
    assert verdicts["A better"] >= least * repeats
    assert verdicts["B better"] == 0


def test_a_better_model_is_found() -> None:
    check_power(20, 0.8)


@pytest.mark.soak
def test_a_better_model_is_found_with_the_stated_power() -> None:
    check_power(300, 0.9)
