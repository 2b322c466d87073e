"""What is known to be wrong with the published scores, measured on them (before) and on the robust profile (after)."""

from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.metrics.disentanglement import PanelSettings, panel, score, table_of
from ccvae_eval.metrics.disentanglement.context import PanelContext
from ccvae_eval.metrics.disentanglement.dci import dci
from ccvae_eval.metrics.disentanglement.panel import VALUES
from ccvae_eval.metrics.disentanglement.robustness import irs, published_irs
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle

LEVELS = (3, 6, 20, 12, 12)
N = 4000


def factors_of(n, seed=0, levels=LEVELS):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, count, n) for count in levels], axis=1)


def coded(factors, noise=0.05, extra=5, seed=1, levels=LEVELS):
    """One column for each factor, and some of noise."""
    rng = np.random.default_rng(seed)
    axis = (factors / np.array(levels) - 0.5) * 3 + rng.normal(0, noise, factors.shape)
    return np.concatenate([axis, rng.normal(0, 0.05, (len(factors), extra))], axis=1)


def rotated(codes, seed=2):
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(codes.shape[1],) * 2))[0]
    return codes @ turn


def both(name, codes, factors, **more):
    """The published and the robust value."""
    return tuple(score(name, codes, factors, profile=profile, **more) for profile in ("reference", "robust"))


@pytest.fixture(scope="module")
def factors():
    return factors_of(N)


@pytest.fixture(scope="module")
def codes(factors):
    return coded(factors)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(3).normal(size=(N, 10))


def test_modularity_of_a_rotation_is_no_longer_above_that_of_the_perfect_code(codes, factors, noise):
    """Published: .834 for the axes, .853 rotated, .668 for noise: dead codes count 0, and noise is information."""
    with_a_dead_one = np.column_stack([codes[:, :5], np.zeros(N)])
    axis, turned = both("modularity", with_a_dead_one, factors), both("modularity", rotated(codes[:, :5], 3), factors)
    assert turned[0] > axis[0]
    assert axis[1] == pytest.approx(1.0, abs=0.01)
    assert turned[1] < axis[1] - 0.03
    before, after = both("modularity", noise, factors)
    assert before > 0.6
    assert np.isnan(after)


def test_mig_hardly_depends_on_the_number_of_bins(codes, factors):
    """Published: .588 to .751 from 5 to 40 bins."""
    found = {
        profile: [
            next(
                v.estimate.value
                for v in panel(
                    codes, factors, PanelSettings(profile=profile, score=("mig",), bins=bins, draws=50)
                ).values
                if v.name == "mig"
            )
            for bins in (5, 10, 20, 40)
        ]
        for profile in ("reference", "robust")
    }
    before, after = (np.ptp(found[profile]) for profile in ("reference", "robust"))
    assert before > 0.2
    assert after < before / 2


def test_mig_hardly_depends_on_the_number_of_rows():
    """Published: .376 at 100 rows, .738 at 10,000: information that is not there is counted for the runner-up."""
    found = {}
    for n in (100, 10_000):
        factors = factors_of(n)
        found[n] = both("mig", coded(factors, noise=0.1), factors, train=np.arange(n))
    before, after = (abs(found[100][i] - found[10_000][i]) for i in (0, 1))
    assert before > 0.2
    assert after < before / 2


def test_one_outlier_does_not_move_mig(codes, factors):
    """Published: one row takes .738 to .256: it stretches the bins of equal width."""
    spoilt = codes.copy()
    spoilt[0, :5] = 1000.0
    train = np.arange(N)
    before = [score("mig", c, factors, profile="reference", train=train) for c in (codes, spoilt)]
    after = [score("mig", c, factors, train=train) for c in (codes, spoilt)]
    assert before[0] - before[1] > 0.3
    assert after[0] == pytest.approx(after[1], abs=0.01)


def test_duplicated_codes_do_not_empty_mig(codes, factors):
    """Published: 0. A strictly monotone transform of another code is the same code: it is set aside and named."""
    twice = np.concatenate([codes, np.exp(codes), -2 * codes], axis=1)
    before = both("mig", twice, factors)
    assert before[0] < 0.25 * score("mig", codes, factors, profile="reference")
    assert before[1] == pytest.approx(score("mig", codes, factors), abs=1e-9)
    found = panel(twice, factors, PanelSettings(score=("mig",), draws=50))
    assert any("z10 repeats z0" in note for note in found.notes)


def test_irs_of_noise_at_few_rows_is_no_score():
    """Published: .49 at 300 rows, because small groups have small deviations."""
    factors = factors_of(300)
    noise = np.random.default_rng(0).normal(size=(300, 10))
    before = published_irs(noise, list(factors.T), 0.99)
    assert float(before.total) > 0.35
    bench = PanelContext(table_of(noise, factors), PanelSettings(pruning="range"), 0, ResampleWeights(0, 300, 100))
    found = {f.name: f for f in irs(bench)}
    assert float(found["irs"].point.total) < 0.06
    assert float(found["irs_raw"].point.total) - float(np.mean(found["irs_raw"].chance.total)) < 0.06


def test_votes_of_a_rotation_count_by_what_they_rest_on(codes, factors):
    """Published: a random rotation scores .74 (FactorVAE) and .91 (BetaVAE)."""
    for name in ("factor_vae", "beta_vae"):
        before, after = both(name, rotated(codes), factors)
        axis = both(name, codes, factors)
        assert axis == pytest.approx((1.0, 1.0), abs=0.06), name
        assert before > 0.6, name
        assert after < min(before, axis[1]) - 0.15, name


def _dci(codes, factors, **settings):
    n = len(codes)
    table = table_of(codes, factors, train=np.arange(n * 2 // 3))
    bench = PanelContext(table, PanelSettings(**{"fits": 1, **settings}), 0, ResampleWeights(0, n, 100), quick=True)
    return float(dci(bench)[0].point.total)


def test_dci_of_a_perfect_code_is_near_one():
    """Published: .67 to .79 boosted, .72 with a forest, .998 with the lasso: gains share out noise."""
    levels = (3, 6, 20)
    factors = factors_of(1500, levels=levels)
    perfect = coded(factors, noise=0.2, levels=levels)
    assert _dci(perfect, factors, importance="gain") < 0.8
    assert _dci(perfect, factors, predictor="linear", importance="gain") > 0.95
    assert _dci(perfect, factors) > 0.99
    assert _dci(rotated(perfect), factors) < 0.8


def test_sap_s_interval_holds_its_value_among_many_codes_that_know_nothing():
    """Each resample finds a luckier second best of fifty: all of the interval lay below the value."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (1536, 2))
    codes = rng.standard_normal((1536, 50))
    codes[:, :2] = 2 * (2 * labels - 1) + 0.5 * rng.standard_normal((1536, 2))
    found = next(
        v.estimate for v in panel(codes, labels, PanelSettings(score=("sap",))).values if v.name == "sap" and not v.at
    )
    assert found.low < found.value - 0.02 < found.value + 0.02 < found.high


def test_few_labels_are_read_by_several_readers_and_the_interval_knows_them():
    """Of 20,000 held-out rows hardly anything is uncertain but which ten labels were learnt from."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (24_000, 1))
    codes = rng.standard_normal((24_000, 20))
    codes[:, :1] += 2.0 * labels
    found = {
        v.at["labels"]: v.estimate
        for v in panel(codes, labels, PanelSettings(score=("downstream",)), train=np.arange(4_000)).values
        if v.characteristic is None and set(v.at) == {"labels"} and v.estimate.defined
    }
    assert found[10].high - found[10].low > 0.02
    assert found[1000].high - found[1000].low < 0.02
    assert found[10].value < found[100].value < found[1000].value


def test_votes_say_that_their_intervals_know_nothing_of_the_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (600, 2))
    found = panel(labels + rng.standard_normal((600, 2)), labels, PanelSettings(score=("factor_vae",)))
    for row in (v for v in found.values if v.name.startswith("factor_vae")):
        assert "votes alone" in row.note
        assert "not of the rows" in VALUES[row.name].summary


def test_nominal_levels_are_not_merged():
    """Published IRS cuts factors into 20 bins, which merges the levels of one with 40."""
    rng = np.random.default_rng(0)
    factor = rng.integers(0, 40, (4000, 2))
    shuffled = rng.permutation(40)
    codes = shuffled[factor] + rng.normal(0, 0.05, factor.shape)
    before, after = both("irs", codes, factor, train=np.arange(4000))
    assert before < 0.7
    assert after > 0.95
