"""Invariances of the robust profile, and an independent computation of each formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from ccvae_eval.metrics.disentanglement import (
    Information,
    PanelSettings,
    completeness,
    dcimig,
    disentanglement,
    dmig,
    infoc,
    infom,
    jemmig,
    mig,
    mig_sup,
    modularity,
    panel,
    table_of,
    udr,
)
from ccvae_eval.metrics.disentanglement.capacity import capacities, loss_curve, posterior_information
from ccvae_eval.metrics.disentanglement.dependence import gaussian_scores
from ccvae_eval.metrics.disentanglement.information_scores import BinnedTable, contingency, permutations
from ccvae_eval.metrics.disentanglement.table import cramers_v, factor_of
from ccvae_eval.statistics.intervals import clopper_pearson

pytestmark = pytest.mark.oracle

LEVELS = (3, 5, 8, 6)
N = 2400
QUICK = PanelSettings(every=True, draws=50, shuffles=5, fits=1, votes=600, leaves=64)

LOWERED_BY_ROTATION = (
    "infom", "infoc", "dci_disentanglement", "dci_completeness", "mig", "sap", "modularity", "mig_sup", "dmig",
    "dcimig", "jemmig", "snc", "nk", "mcc_rank", "factor_vae", "beta_vae", "z_max_var", "irs",
)  # fmt: skip
"""Scores that depend on the axes."""
ROTATION_INVARIANT = ("explicitness", "infoe")


def totals(found):
    return {
        v.name: v.estimate.value for v in found.values if v.characteristic is None and "code" not in v.at and not v.at
    } | {v.name: v.estimate.value for v in found.values if v.name == "jemmig" and v.characteristic is None}


@pytest.fixture(scope="module")
def factors():
    """Random rows of the full grid, so that rows share all factors but one."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*map(np.arange, LEVELS), indexing="ij"), axis=-1).reshape(-1, len(LEVELS))
    return grid[rng.integers(0, len(grid), N)]


@pytest.fixture(scope="module")
def codes(factors):
    rng = np.random.default_rng(1)
    aligned = (factors / np.array(LEVELS) - 0.5) * 3 + rng.normal(0, 0.05, factors.shape)
    return np.concatenate([aligned, rng.normal(0, 0.05, (N, 2))], axis=1)


@pytest.fixture(scope="module")
def plain(codes, factors):
    return totals(panel(codes, factors, QUICK))


def test_a_rotation_lowers_every_score_that_depends_on_the_axes(codes, factors, plain):
    rotation = ortho_group(codes.shape[1], seed=0).rvs()
    rotated = totals(panel(codes @ rotation, factors, QUICK))
    for name in LOWERED_BY_ROTATION:
        assert plain[name] > 0.5, name
        assert rotated[name] < plain[name] - 0.02, (name, plain[name], rotated[name])
    for name in ROTATION_INVARIANT:
        assert rotated[name] == pytest.approx(plain[name], abs=0.06), name


def test_constant_and_duplicated_dimensions_change_no_score(codes, factors, plain):
    more = np.concatenate([codes, np.zeros((N, 1)), codes[:, :2] ** 3, -codes[:, 2:3]], axis=1)
    found = totals(panel(more, factors, QUICK))
    for name in LOWERED_BY_ROTATION + ROTATION_INVARIANT:
        assert found[name] == pytest.approx(plain[name], abs=0.03), name


def test_rescaled_dimensions_change_no_score(codes, factors, plain):
    found = totals(panel(codes * 2.0 ** np.arange(-3, 3), factors, QUICK))
    for name in set(LOWERED_BY_ROTATION + ROTATION_INVARIANT):
        assert found[name] == pytest.approx(plain[name], abs=1e-6), name


def test_monotone_transforms_do_not_change_rank_based_scores(codes, factors, plain):
    found = totals(panel(np.sinh(2 * codes), factors, QUICK))
    for name in (
        "infom",
        "infoc",
        "mig",
        "sap",
        "modularity",
        "mig_sup",
        "dmig",
        "dcimig",
        "jemmig",
        "snc",
        "mcc_rank",
    ):
        assert found[name] == pytest.approx(plain[name], abs=1e-9), name


def test_one_outlier_changes_little(codes, factors, plain):
    with_outlier = codes.copy()
    with_outlier[0] = 1e4
    found = totals(panel(with_outlier, factors, QUICK))
    for name in set(LOWERED_BY_ROTATION) - {"factor_vae", "beta_vae", "z_max_var"}:
        assert found[name] == pytest.approx(plain[name], abs=0.03), name


def test_interval_of_snc_is_as_wide_as_the_rarest_class_requires():
    """12 of 200 rows, all predicted: a bootstrap interval has width 0, the exact one reaches 0.26 below 1."""
    rng = np.random.default_rng(0)
    rare = np.stack([rng.permutation(np.arange(200) < 12), rng.permutation(np.arange(200) < 100)], axis=1).astype(int)
    found = panel(rare + rng.normal(0, 0.01, rare.shape), rare, PanelSettings(score=("snc",), draws=50))
    width = (1 - clopper_pearson(12, 12).low) / 2
    for name, scale in (("snc_raw", 1), ("snc", 2)):
        whole, first, second = (v.estimate for v in found.values if v.name == name)
        assert first.method == "exact, squares added, conditional on the fit"
        assert first.value - first.low > scale * width
        assert second.low > first.low
        assert whole.value - whole.low > scale * width / 2


def test_permuted_factors_give_chance(codes, factors):
    order = np.random.default_rng(5).permutation(N)
    found = panel(codes, factors[order], QUICK)
    values = {v.name: v for v in found.values if v.characteristic is None and "code" not in v.at}
    for name in ("mig", "sap", "explicitness", "infoe", "snc", "factor_vae", "beta_vae", "dcimig", "nk_raw"):
        assert abs(values[name].estimate.value - (values[name].chance or 0.0)) < 0.06, name
    # shares of the information are undefined without information
    for name in ("infom", "infoc", "modularity", "dci_disentanglement", "irs", "nk"):
        assert np.isnan(values[name].estimate.value), name
        assert values[name].note


def test_the_order_of_factors_and_of_dimensions_does_not_matter(codes, factors, plain):
    found = totals(panel(codes[:, ::-1], factors[:, ::-1], QUICK, names=["d", "c", "b", "a"]))
    for name in ("infom", "infoc", "mig", "modularity", "mig_sup", "dmig", "dcimig", "jemmig", "sap"):
        assert found[name] == pytest.approx(plain[name], abs=1e-9), name


def test_same_seed_gives_the_same_numbers(codes, factors):
    quick = PanelSettings(every=True, draws=50, shuffles=3, fits=1, votes=100, leaves=16)
    one, other = (panel(codes[:600], factors[:600], quick) for _ in range(2))
    assert repr(one.values) == repr(other.values)


def test_correlated_factors_have_the_factors_themselves_as_reference():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, N)
    second = np.where(rng.random(N) < 0.7, first, rng.integers(0, 4, N))
    factors = np.stack([first, second], axis=1)
    found = panel(factors + rng.normal(0, 0.05, factors.shape), factors, PanelSettings(draws=50, fits=1))
    value = next(v for v in found.values if v.name == "mig")
    assert value.reference is not None
    assert value.reference < 0.8
    assert value.estimate.value == pytest.approx(value.reference, abs=0.05)
    assert any("correlated" in note for note in found.notes)


def test_a_block_of_dimensions_is_one_latent(factors):
    """A factor on a circle needs two dimensions, which share it if they are scored separately."""
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * factors[:, 2] / LEVELS[2]
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(0, 0.05, (N, 2))
    other = factors[:, :1] + rng.normal(0, 0.05, (N, 1))
    table = np.concatenate([circle, other], axis=1)
    settings = PanelSettings(score=("mig", "infoc", "dci", "sap"), draws=50, fits=1)
    apart = totals(panel(table, factors[:, [2, 0]], settings))
    joined = totals(panel(table, factors[:, [2, 0]], settings, blocks=[[0, 1]]))
    for name in ("mig", "infoc", "dci_completeness", "sap"):
        assert joined[name] > apart[name] + 0.1, name
    assert joined["infoc"] > 0.95


class TestFormulas:
    """Against brute force, on a random information matrix."""

    rng = np.random.default_rng(7)
    mutual = rng.random((5, 3))
    entropy = np.array([1.2, 1.5, 1.1])
    codes = np.full(5, 2.0)
    conditional = np.array([[0.0, 0.8, 0.9], [1.1, 0.0, 1.2], [0.7, 0.6, 0.0]])
    info = Information(mutual, entropy, codes, conditional, 10, np.array([True, True, False, True, True]))

    def test_gaps(self):
        ordered = np.sort(self.mutual, axis=0)
        assert float(mig(self.info).total) == pytest.approx(((ordered[-1] - ordered[-2]) / self.entropy).mean())
        shares = np.sort(self.mutual / self.entropy, axis=1)[[0, 1, 3, 4]]
        assert float(mig_sup(self.info).total) == pytest.approx((shares[:, -1] - shares[:, -2]).mean())

    def test_dmig(self):
        wanted = []
        for k in range(3):
            best, second = np.argsort(-self.mutual[:, k])[:2]
            other = int(self.mutual[second].argmax())
            below = self.entropy[k] if other == k else self.conditional[k, other]
            wanted.append((self.mutual[best, k] - self.mutual[second, k]) / below)
        assert float(dmig(self.info).total) == pytest.approx(np.mean(wanted))

    def test_jemmig(self):
        wanted = []
        for k in range(3):
            best, second = np.argsort(-self.mutual[:, k])[:2]
            joint = self.codes[best] + self.entropy[k] - self.mutual[best, k]
            gap = joint - self.mutual[best, k] + self.mutual[second, k]
            wanted.append(1 - gap / (self.entropy[k] + np.log(10)))
        assert float(jemmig(self.info).total) == pytest.approx(np.mean(wanted))

    def test_dcimig(self):
        best = {}
        for row in self.mutual:
            first, second = np.argsort(-row)[:2]
            best[first] = max(best.get(first, 0.0), row[first] - row[second])
        assert float(dcimig(self.info).total) == pytest.approx(sum(best.values()) / self.entropy.sum())

    def test_ratios(self):
        shares = (self.mutual / self.entropy)[[0, 1, 3, 4]]
        wanted = (shares.max(axis=1) / shares.sum(axis=1) - 1 / 3) / (1 - 1 / 3)
        assert float(infom(self.info).total) == pytest.approx(wanted.mean())
        wanted = (shares.max(axis=0) / shares.sum(axis=0) - 1 / 4) / (1 - 1 / 4)
        assert float(infoc(self.info).total) == pytest.approx(wanted.mean())

    def test_modularity(self):
        squares = self.mutual**2
        each = 1 - (squares.sum(axis=1) - squares.max(axis=1)) / (squares.max(axis=1) * 2)
        assert float(modularity(self.info, weighted=False).total) == pytest.approx(each.mean())
        used = np.array([0, 1, 3, 4])
        weight = self.mutual.max(axis=1)[used]
        assert float(modularity(self.info, weighted=True).total) == pytest.approx(
            np.average(each[used], weights=weight)
        )

    def test_leading_sample_axes_are_kept(self):
        stack = self.info.with_mutual(np.stack([self.mutual, self.mutual * 0.5]))
        for formula in (mig, mig_sup, dmig, jemmig, dcimig, infom, infoc):
            apart = [formula(self.info.with_mutual(m)).total for m in (self.mutual, self.mutual * 0.5)]
            assert formula(stack).total.tolist() == pytest.approx([float(a) for a in apart])

    def test_importances(self):
        importances = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
        rows = importances[[0, 1, 3]]
        p = rows / rows.sum(axis=1, keepdims=True)
        entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(axis=1) / np.log(3)
        wanted = np.average(1 - entropy, weights=rows.sum(axis=1))
        assert float(disentanglement(importances).total) == pytest.approx(wanted, abs=1e-8)
        assert float(completeness(importances.T).total) == pytest.approx(wanted, abs=1e-8)
        assert np.isnan(disentanglement(importances[:, :1]).total)
        assert np.isnan(completeness(importances[:1]).total)


def test_information_against_scikit_learn():
    rng = np.random.default_rng(0)
    cells, classes = rng.integers(0, 6, (500, 3)), rng.integers(0, 4, (2, 500))
    cells[:, 0] = classes[0]
    found = BinnedTable(cells, classes, (4, 4), 6, False).mutual_information()
    for j in range(3):
        for k in range(2):
            assert found[j, k] == pytest.approx(mutual_info_score(cells[:, j], classes[k]), abs=1e-12)
    counts = contingency(cells, np.where(np.arange(500) < 100, -1, classes[0]), 6, 4)
    assert counts.sum() == 3 * 400


def test_smaller_trees_are_prefixes_of_a_larger_one():
    """The losses equal those of separate scikit-learn trees of each number of leaves."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(900, 4))
    factor = factor_of("v", np.digitize(codes[:, 0] + 0.3 * codes[:, 1], [-1, 0, 1]))
    train, test = np.arange(600), np.arange(600, 900)
    found, _ = loss_curve(codes, factor, train, test, 64, 0)
    counts = np.bincount(factor.classes[test])
    weight = 1 / (counts[factor.classes[test]] * len(counts))
    for leaves, loss in zip(capacities(64).tolist()[1:], found[1:].tolist(), strict=True):
        tree = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
        predicted = tree.fit(codes[train], factor.classes[train]).predict(codes[test])
        assert loss == pytest.approx(float(((predicted != factor.classes[test]) * weight).sum()))


def test_gaussian_scores_in_closed_form():
    rho = 0.6
    total, distance, share = gaussian_scores(np.array([[1.0, rho], [rho, 1.0]]))
    assert total == pytest.approx(-0.5 * np.log(1 - rho**2))
    assert distance == pytest.approx(4 - 2 * (np.sqrt(1 + rho) + np.sqrt(1 - rho)))
    assert share == pytest.approx(distance / 2)


def test_posterior_information_in_closed_form():
    """Two separated classes give the entropy of the label, an independent label gives 0."""
    rng = np.random.default_rng(0)
    label = factor_of("v", rng.integers(0, 2, 400))
    random = factor_of("w", rng.integers(0, 2, 400))
    loc = 10.0 * label.values
    found = posterior_information(loc, np.full(400, 0.5), (label, random))
    share = label.values.mean()
    assert found[0] == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share), abs=1e-3)
    assert found[1] < 0.02


def test_cramers_v_of_equal_independent_and_constant_factors():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 5000)
    assert cramers_v(one, one) == pytest.approx(1.0, abs=1e-3)
    assert cramers_v(one, rng.integers(0, 3, 5000)) < 0.05
    assert np.isnan(cramers_v(one, np.zeros(5000, dtype=int)))


def test_explicitness_against_scikit_learn(codes, factors):
    from sklearn.linear_model import LogisticRegression

    settings = PanelSettings(profile="reference", score=("explicitness",), draws=50, shuffles=2)
    train, test = np.arange(1600), np.arange(1600, N)
    found = totals(panel(codes, factors[:, :1], settings, train=train, test=test))
    probe = LogisticRegression().fit(codes[train], factors[train, 0])
    wanted = roc_auc_score(factors[test, 0], probe.predict_proba(codes[test]), multi_class="ovr")
    assert found["explicitness"] == pytest.approx(wanted, abs=1e-9)


def test_udr_is_higher_for_equal_models_than_for_rotated_ones():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(1000, 4))
    same = [truth[:, rng.permutation(4)] * rng.choice([-1, 1], 4) + rng.normal(0, 0.05, (1000, 4)) for _ in range(3)]
    rotated = [truth @ ortho_group(4, seed=s).rvs() for s in range(3)]
    stable, unstable = udr(same), udr(rotated)
    assert stable.total > 0.85
    assert unstable.total < stable.total - 0.2
    assert stable.chance < stable.total - 0.2
    assert unstable.total == pytest.approx(unstable.chance, abs=0.15)


def test_permuting_rows_keeps_factors_together(factors):
    table = table_of(np.zeros((N, 1)) + np.arange(N)[:, None], factors)
    order = next(permutations(0, N, 1))
    moved = table.with_permuted_factors(order)
    for before, after in zip(table.factors, moved.factors, strict=True):
        assert np.array_equal(before.classes[order], after.classes)
