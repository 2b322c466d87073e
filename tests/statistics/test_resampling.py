import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from ccvae_eval.statistics import resampling
from ccvae_eval.statistics.resampling import BLOCK, ResampleWeights, reservoir


def matrix(weights):
    return weights.rows(np.arange(weights.n)).T.astype(float)


@pytest.mark.parametrize("n", [1, 2, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 500])
def test_every_resample_has_n_images(n):
    weights = ResampleWeights(3, n, draws=50)
    counts = matrix(weights)
    assert counts.shape == (50, n)
    assert (counts.sum(axis=1) == n).all()


def test_counts_are_multinomial():
    """Each image's count is binomial(n, 1/n) in both blocks; the block's total has its binomial variance."""
    n = BLOCK + 2
    counts = matrix(ResampleWeights(5, n, draws=4000))
    for image in (0, BLOCK - 1, BLOCK, n - 1):
        observed = np.bincount(counts[:, image].astype(int), minlength=5)
        expected = stats.binom(n, 1 / n).pmf(np.arange(4))
        expected = np.append(expected, 1 - expected.sum()) * 4000
        observed = np.append(observed[:4], observed[4:].sum())
        assert stats.chisquare(observed, expected).pvalue > 1e-4
    # the total of the first block is binomial(n, BLOCK / n)
    first = counts[:, :BLOCK].sum(axis=1)
    assert first.var() == pytest.approx(n * (BLOCK / n) * (2 / n), rel=0.15)


def test_counts_of_a_sample_of_two():
    counts = matrix(ResampleWeights(5, 2, draws=4000))
    assert stats.chisquare(np.bincount(counts[:, 0].astype(int)), [1000, 2000, 1000]).pvalue > 1e-4


def test_weights_depend_on_seed_and_n_only():
    one = matrix(ResampleWeights(0, 300, draws=30))
    assert (one == matrix(ResampleWeights(0, 300, draws=30))).all()
    assert (one != matrix(ResampleWeights(1, 300, draws=30))).any()
    assert (one != matrix(ResampleWeights(0, 301, draws=30))[:, :300]).any()


def test_fewer_draws_are_a_prefix_of_more():
    n = BLOCK + 100
    assert (matrix(ResampleWeights(0, n, draws=20)) == matrix(ResampleWeights(0, n, draws=60))[:20]).all()


def test_totals_are_weighted_sums_without_absent_values():
    n = BLOCK + 300
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n, 11))
    values[rng.random((n, 11)) < 0.2] = np.nan
    weights = ResampleWeights(2, n, draws=40)
    expected = np.nansum(matrix(weights)[:, :, None] * values, axis=1)
    assert weights.totals(values) == pytest.approx(expected, rel=1e-11)
    assert (weights.totals(values[:, 3]) == weights.totals(values)[:, 3]).all()


def test_the_bits_of_a_column_do_not_depend_on_the_other_columns():
    values = np.random.default_rng(1).standard_normal((1500, 21))
    weights = ResampleWeights(0, 1500, draws=300)
    together = weights.totals(values)
    for chosen in ([0], [20], [7, 8], list(range(20, -1, -1))):
        assert (weights.totals(values[:, chosen]) == together[:, chosen]).all()


def test_equal_bits_for_one_and_two_threads():
    values = np.random.default_rng(1).standard_normal((3000, 9))
    weights = ResampleWeights(0, 3000)
    with threadpool_limits(1):
        one = weights.totals(values)
    with threadpool_limits(2):
        two = weights.totals(values)
    assert (one == two).all()


@pytest.mark.slow
def test_equal_bits_in_processes_with_one_and_two_threads():
    program = (
        "import numpy as np; from ccvae_eval.statistics.resampling import ResampleWeights; from hashlib import sha256;"
        "v = np.random.default_rng(1).standard_normal((3000, 9));"
        "print(sha256(ResampleWeights(0, 3000).totals(v).tobytes()).hexdigest())"
    )
    digests = set()
    for threads in ("1", "2"):
        environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(ran.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("limit", [{"MAX_IN_MEMORY": 0}, {"STORED_BYTES": 0}], ids=["in a file", "not kept"])
def test_weights_that_are_not_in_memory_are_the_same(monkeypatch, limit):
    n = 2 * BLOCK + 10
    index = np.array([2 * BLOCK + 3, 5, BLOCK])
    weights = ResampleWeights(4, n, draws=20)
    values = np.random.default_rng(0).standard_normal((n, 3))
    kept, rows, totals = matrix(weights), weights.rows(index), weights.totals(values)
    resampling._kept.cache_clear()
    for name, value in limit.items():
        monkeypatch.setattr(resampling, name, value)
    monkeypatch.setattr(resampling, "CACHED_FLOATS", 0)
    assert (weights.totals(values) == totals).all()
    assert (matrix(weights) == kept).all()
    assert (weights.rows(index) == rows).all()
    assert (kept[:, index] == rows.T).all()
    resampling._kept.cache_clear()


def test_a_wrong_number_of_rows_is_an_error():
    with pytest.raises(ValueError, match="must have 10 rows, one for each image, got 9"):
        ResampleWeights(0, 10).totals(np.ones(9))
    with pytest.raises(ValueError, match="level between 0 and 1"):
        ResampleWeights(0, 10, level=1.0)


def test_reservoir_is_all_or_a_seeded_sample():
    index = np.arange(100, 300)
    assert reservoir(0, index, limit=200) is index
    chosen = reservoir(0, index, limit=50)
    assert len(chosen) == len(np.unique(chosen)) == 50
    assert (np.diff(chosen) > 0).all()
    assert np.isin(chosen, index).all()
    assert (chosen == reservoir(0, index, limit=50)).all()
    assert (chosen != reservoir(1, index, limit=50)).any()
