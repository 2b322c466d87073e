"""Density against scikit-learn, closed forms and models of known entanglement."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr
from sklearn.metrics import roc_auc_score

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.density.figures import figures as density_figures
from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.metrics.density.variety import VarietySample, _chance, concentration
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout, binary_schema
from ccvae_eval.rendering.text import nested
from ccvae_eval.statistics.probes import cross_fitted_regression, folds_of
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.densities import LAYOUT, QUICK, SCHEMA, measured, two_labels, value
from tests.support.fakes import (
    GRADE_SPREAD,
    SPREAD,
    GradedSquares,
    GradedSquaresVAE,
    PlainSquaresVAE,
    Squares,
    SquaresVAE,
    table_subject,
)

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def blurred():
    """Squares encoded with a wide posterior, so that the classes overlap."""
    data = Squares(1500)
    return measured(prepare(SquaresVAE(scale=2.0), data, np.arange(1500))), prepare(
        SquaresVAE(scale=2.0), data, np.arange(1500)
    )


def test_own_areas_equal_scikit_learns(blurred):
    run, subject = blurred
    for name in ("Glasses", "Smile"):
        expected = roc_auc_score(subject.column(name), subject.codes[:, subject.layout[name][0]])
        found = value(run, "auc", name)
        assert found.estimate.value == pytest.approx(expected, abs=1e-12)
        assert found.estimate.low < expected < found.estimate.high
        assert found.chance == 0.5
    parts = [run.find("density.auc@" + name).estimate.value for name in ("Glasses", "Smile", "Hair")]
    assert run["density.auc"] == pytest.approx(np.mean(parts), abs=1e-14)


def test_categorical_labels_are_averaged_one_vs_rest(blurred):
    run, subject = blurred
    code, hair = subject.codes[:, 4].numpy(), subject.column("Hair").numpy()
    ends = [roc_auc_score(hair == 0, -code), roc_auc_score(hair == 2, code)]
    found = value(run, "auc", "Hair")
    # neither sign of a single latent dimension separates the middle class: its area is near chance
    assert found.estimate.value * 3 - sum(ends) == pytest.approx(0.5, abs=0.06)
    assert "one-vs-rest, averaged over 3 classes" in found.note


def test_distances_equal_their_closed_forms(blurred):
    run, _ = blurred
    deviation = math.sqrt(SPREAD**2 + 4)
    d = 4 / deviation
    assert value(run, "dprime", "Glasses").estimate.value == pytest.approx(d, abs=0.12)
    assert value(run, "wasserstein", "Glasses").estimate.value == pytest.approx(4, abs=0.25)
    pooled = value(run, "wasserstein", "Glasses", scale="pooled").estimate.value
    assert pooled == pytest.approx(d, abs=0.12)
    # the kernels widen both classes slightly
    assert value(run, "overlap", "Glasses").estimate.value == pytest.approx(2 * norm.cdf(-d / 2), abs=0.04)
    kl = d * d / 2
    for direction in ("1|0", "0|1"):
        found = value(run, "knn_kl_excess", "Glasses", direction=direction)
        assert found.estimate.value == pytest.approx(kl, abs=0.3)
        assert found.estimate.method == "subsampling"


def test_areas_can_be_recomputed_from_the_evidence(blurred):
    run, _ = blurred
    evidence = run.measurements[0].evidence
    for name in ("Glasses", "Hair"):
        numerator, denominator = (evidence[f"auc/{name}/{term}"] for term in ("numerator", "denominator"))
        assert np.nansum(numerator) / np.nansum(denominator) == pytest.approx(run[f"density.auc@{name}"], abs=1e-12)
    assert evidence["code/Glasses"].shape == (1500, 1)


def test_curves_are_densities_and_include_the_prior(blurred):
    pictures = blurred[0].measurements[0].pictures
    grid = pictures["curves/Hair/grid"]
    for what in ("Black", "Blond", "Brown", "prior/Black"):
        assert np.trapezoid(pictures[f"curves/Hair/{what}"], grid) == pytest.approx(1, abs=2e-3)
    assert grid[pictures["curves/Hair/prior/Brown"].argmax()] == pytest.approx(3, abs=0.1)


def test_two_dimensional_codes_are_drawn_with_their_prior(blurred):
    assert not [key for key in blurred[0].measurements[0].pictures if key.startswith("scatter/")]
    both = measured(prepare(SquaresVAE(blocks=True, scale=0.5), Squares(700), np.arange(700)))
    pictures = both.measurements[0].pictures
    points = pictures["scatter/Glasses/present"]
    assert points.shape[1] == 2
    assert 100 < len(points) <= 500
    assert points.mean(0)[0] > 1 > pictures["scatter/Glasses/absent"].mean(0)[0]
    assert pictures["scatter/Glasses/prior/present"] == pytest.approx(np.array([[2, 0], [SPREAD, 1]]), abs=0.01)
    sheets = dict(density_figures(both.measurements[0]))
    axes = sheets["scatter",].axes[0]
    assert [text.get_text() for text in axes.texts] == ["absent", "present"]
    assert len(axes.patches) == 2
    assert axes.patches[1].width == pytest.approx(4 * SPREAD, abs=0.01)


def test_blocks_are_scored_by_all_their_latent_dimensions():
    codes, labels = two_labels()
    codes[:, 2:] += 1.0 * labels[:, :1]
    layout = LatentLayout(4, {"a": (0, 2, 3), "b": (1,)})
    run = measured(table_subject(codes, labels, SCHEMA, layout))
    d = math.sqrt(4 + 1 + 1)
    assert value(run, "auc", "a").estimate.value == pytest.approx(norm.cdf(d / math.sqrt(2)), abs=0.02)
    assert value(run, "dprime", "a").estimate.value == pytest.approx(d, abs=0.15)
    assert "linear score of 3 latent dimensions" in value(run, "dprime", "a").note


def test_prior_gap_is_the_shift_of_the_prior():
    class Shifted(SquaresVAE):
        def conditional_prior(self, labels):
            prior = super().conditional_prior(labels)
            return Gaussian(prior.loc + 3 * prior.scale, prior.scale)

    data = Squares(400)
    near = value(measured(prepare(SquaresVAE(scale=0.01), data, np.arange(400))), "prior_gap", "Glasses")
    assert near.estimate.value == pytest.approx(near.reference, rel=0.8)
    assert near.estimate.n == 400
    assert near.estimate.low >= 0
    far = measured(prepare(Shifted(scale=0.01), data, np.arange(400)))
    assert value(far, "prior_gap", "Glasses").estimate.value == pytest.approx(3, abs=0.15)
    blocks = measured(prepare(Shifted(blocks=True, scale=0.01), data, np.arange(400)))
    columns = [value(blocks, "prior_gap", "Smile", column=c).estimate.value for c in (2, 3)]
    assert value(blocks, "prior_gap", "Smile").estimate.value == pytest.approx(np.mean(columns), abs=1e-12)


def test_values_that_need_a_conditional_prior_are_left_out_with_a_note():
    codes, labels = two_labels(n=300)
    found = measured(table_subject(codes, labels, SCHEMA, LAYOUT)).measurements[0]
    assert "prior_gap is not applicable: TableVAE has no p(z_c|y)" in found.notes
    assert not {"prior_gap", "beyond", "components"} & {v.name for v in found.values}


def test_variety_beyond_the_label_is_explained_variance():
    """The variety dimension is the parameter plus noise of .5: R2 = 1 / (1 + .25); the label's has an R2 of 0."""
    data = Squares(700)
    both = measured(prepare(SquaresVAE(blocks=True, scale=0.5), data, np.arange(700)))
    for name in ("Glasses", "Hair"):
        assert value(both, "beyond", name).estimate.value == pytest.approx(0.8, abs=0.06)
    cells = [value(both, "components", "Smile", column=c, parameter="Smile shade").estimate.value for c in (2, 3)]
    assert cells == [pytest.approx(0, abs=0.03), pytest.approx(0.8, abs=0.06)]
    assert value(both, "components_c", "Smile").estimate.value > 0.9
    assert value(both, "components_d", "Smile").note.startswith("one parameter")
    label_only = measured(prepare(SquaresVAE(scale=0.5), data, np.arange(700)))
    assert value(label_only, "beyond", "Glasses").estimate.value == pytest.approx(0, abs=0.03)


def test_the_chance_of_beyond_is_that_of_permuted_codes():
    """A regression on d noise dimensions and n images has an expected held-out R2 of about -d / n."""
    data = Squares(700)
    both = measured(prepare(SquaresVAE(blocks=True, scale=0.5), data, np.arange(700)))
    found = value(both, "beyond", "Glasses")
    columns, images = 2, found.estimate.n * 4 / 5
    assert found.chance == pytest.approx(-columns / images, abs=2 * columns / images)
    assert found.chance < 0


def test_neighbours_may_use_raw_codes():
    """One of two latent dimensions encodes the label; scaling the other by 100 makes it dominate raw distances."""
    labels = torch.randint(2, (1200, 1), generator=torch.Generator().manual_seed(1)).float()
    codes = torch.randn(1200, 2, generator=torch.Generator().manual_seed(2))
    codes[:, :1] += 3 * labels
    schema, layout = binary_schema("a"), LatentLayout(2, {"a": (0, 1)})
    found = {}
    for scale in ("pooled", "raw"):
        for factor in (1.0, 100.0):
            subject = table_subject(codes * torch.tensor([1.0, factor]), labels, schema, layout)
            found[scale, factor] = value(measured(subject, replace(QUICK, neighbour_scale=scale)), "knn_kl", "a")
    values = {key: row.estimate.value for key, row in found.items()}
    assert values["pooled", 100.0] == pytest.approx(values["pooled", 1.0], abs=1e-6)
    assert values["raw", 1.0] > 2
    assert values["raw", 100.0] < values["raw", 1.0] / 2
    assert "raw codes" in found["raw", 1.0].note
    assert "raw" not in found["pooled", 1.0].note
    with pytest.raises(UsageError, match="neighbour_scale must be"):
        Density(neighbour_scale="scaled").needs(subject)


def test_the_chance_of_beyond_uses_the_same_baseline_as_the_value():
    """Both are relative to the mean of the other folds."""
    rng, weights = np.random.default_rng(0), ResampleWeights(0, 200, draws=2)
    codes, parameters, folds = rng.standard_normal((200, 6)), rng.random((200, 4)), folds_of(np.arange(200))
    sample = VarietySample(("a", "b", "c", "d"), parameters, codes, tuple(range(6)), 200)
    table = SimpleNamespace(weights=weights, metric=SimpleNamespace(name="density"))
    chance = _chance(table, sample, folds, np.ones(200, bool), 1.0).mean()
    scores = []
    for _ in range(100):
        held_out = cross_fitted_regression(rng.standard_normal((200, 6)), parameters, folds)
        scores.append(np.mean([held_out.r2(v, weights).value for v in range(4)]))
    assert chance == pytest.approx(np.mean(scores), abs=0.005)


def test_concentration_equals_dci():
    """Against Eastwood and Williams' formula, row by row."""
    table = np.random.default_rng(0).random((4, 3))
    rows = table / table.sum(axis=1, keepdims=True)
    each = 1 + (rows * np.log(rows)).sum(axis=1) / np.log(3)
    expected = (each * table.sum(axis=1)).sum() / table.sum()
    assert concentration(table[None], 1)[0] == pytest.approx(expected, abs=1e-12)
    assert concentration(table.T[None], 0)[0] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(concentration(np.zeros((1, 2, 2)), 1)).all()


def test_a_continuous_label_has_a_rank_correlation_and_is_split_at_its_median():
    codes, labels = two_labels(n=500)
    ages = codes[:, 1:2] * -3 + torch.from_numpy(np.random.default_rng(1).standard_normal((500, 1)))
    schema = LabelSchema((Label("a"), Label("age", "continuous")))
    layout = LatentLayout(4, {"a": (0,), "age": (1,)})
    run = measured(table_subject(codes, torch.cat([labels[:, :1].double(), ages], 1), schema, layout))
    expected = abs(spearmanr(codes[:, 1], ages[:, 0]).statistic)
    # the slope differs slightly between folds, which changes a few ranks
    assert value(run, "rank_correlation", "age").estimate.value == pytest.approx(expected, abs=2e-3)
    own, above = value(run, "auc", "age"), (ages > ages.median())[:, 0].numpy()
    assert own.estimate.value == pytest.approx(roc_auc_score(above, -codes[:, 1]), abs=1e-12)
    assert own.note == "above its median against the rest"
    assert value(run, "auc").excluded == 0
    for i, j in (("a", "age"), ("age", "a")):
        leaked = value(run, "cross_auc", i, judged=j).estimate
        assert leaked.low < 0.5 < leaked.high
    curves = nested(run.measurement("density"), "curves")["age"]
    grid, density = curves["grid"], curves["above the median"]
    assert list(curves) == ["grid", "rest", "above the median"]
    middle = float((grid * density).sum() / density.sum())
    assert middle == pytest.approx(float(codes[above, 1].mean()), abs=0.05)
    style = value(run, "style_auc", "age").estimate
    assert style.value < 0.6


@pytest.mark.parametrize("name", ["Glasses", "Smile"])
def test_codes_have_no_gap_to_a_prior_without_spread(name):
    class Certain(GradedSquaresVAE):
        def conditional_prior(self, labels):
            prior = super().conditional_prior(labels)
            return replace(prior, scale=torch.zeros_like(prior.scale))

    found = value(measured(prepare(Certain(), GradedSquares(400), np.arange(400))), "prior_gap", name)
    assert found.note == "p(z_c|y) is a point mass"


def test_the_prior_gap_of_a_continuous_label_compares_each_code_with_the_prior_at_its_value():
    data = GradedSquares(400, missing=0.2)
    gap = value(measured(prepare(GradedSquaresVAE(scale=1e-6), data, np.arange(400))), "prior_gap", "Smile")
    assert gap.estimate.value < 0.2 < 3 < gap.chance
    assert gap.reference == pytest.approx(gap.estimate.value, abs=0.15)

    class Shifted(GradedSquaresVAE):
        def conditional_prior(self, labels):
            prior = super().conditional_prior(labels)
            return Gaussian(prior.loc + 2 * GRADE_SPREAD, prior.scale)

    shifted = value(measured(prepare(Shifted(scale=1e-6), data, np.arange(400))), "prior_gap", "Smile")
    assert shifted.estimate.value == pytest.approx(2, abs=0.2)


def test_a_continuous_label_that_a_code_mirrors_is_no_leakage():
    """OIS and ICL compare the codes with the quarters of the label."""
    labels = torch.rand(2000, 2)
    labels[:, 1] = 0.7 * labels[:, 0] + 0.3 * labels[:, 1]
    schema = LabelSchema((Label("age", "continuous"), Label("size", "continuous")))
    run = measured(table_subject(labels.double(), labels, schema, LatentLayout(2, {"age": (0,), "size": (1,)})))
    assert value(run, "ois").estimate.value < 0.05 < value(run, "ois").chance
    assert value(run, "icl").estimate.value < 0.15


def test_missing_labels_are_excluded_and_counted():
    codes, labels = two_labels(n=600)
    incomplete = labels.clone()
    incomplete[:100, 0] = torch.nan
    run = measured(table_subject(codes, incomplete, SCHEMA, LAYOUT))
    found = value(run, "auc", "a")
    expected = roc_auc_score(labels[100:, 0], codes[100:, 0])
    assert (found.estimate.n, found.excluded) == (500, 100)
    assert found.estimate.value == pytest.approx(expected, abs=1e-6)


def test_a_rare_class_is_undefined_and_counted():
    codes, labels = two_labels(n=400)
    labels[:, 0] = 0
    labels[:15, 0] = 1
    run = measured(table_subject(codes, labels, SCHEMA, LAYOUT))
    for name in ("auc", "dprime", "js", "knn_kl"):
        found = value(run, name, "a")
        assert math.isnan(found.estimate.value)
        assert found.note == "only 15 images of class present, 20 are needed"
    assert value(run, "auc").excluded == 1
    assert run["density.auc"] == run["density.auc@b"]


def test_a_measurement_without_defined_values_is_undefined():
    codes, labels = two_labels(n=30)
    found = measure(table_subject(codes, labels, SCHEMA, LAYOUT), [QUICK]).measurements[0]
    assert found.status == "undefined"
    assert "are needed" in found.reason.text


def test_given_labels_are_marked_and_enter_no_mean():
    class Given(SquaresVAE):
        given = ("Smile",)

    run = measured(prepare(Given(), Squares(300), np.arange(300)))
    assert value(run, "dprime", "Smile").note.startswith("given")
    others = [run[f"density.dprime@{name}"] for name in ("Glasses", "Hair")]
    assert run["density.dprime"] == pytest.approx(np.mean(others), abs=1e-12)


def test_assigned_dimensions_are_noted():
    run = measured(prepare(PlainSquaresVAE(), Squares(800), np.arange(800)))
    found = value(run, "auc", "Glasses")
    assert found.note == "assigned"
    assert found.estimate.value > 0.99


def test_an_unassigned_label_is_undefined_and_counted():
    codes, labels = two_labels(n=400)
    layout = LatentLayout(4, {"b": (1,)})
    run = measured(table_subject(codes, labels, SCHEMA, layout, assigned=True, unassigned=("a",)))
    assert value(run, "auc", "a").note == "unassigned: no latent dimension predicts it above chance"
    assert value(run, "auc").excluded == 1
    assert value(run, "style_auc", "a").estimate.value == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.04)


def test_unassigned_labels_keep_the_order_of_the_labels():
    """Rows in the order of a set of strings would differ from process to process."""
    names = [f"label{i}" for i in range(6)]
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (200, 6)))
    subject = table_subject(
        torch.randn(200, 2), labels, binary_schema(*names), LatentLayout(2, {}), assigned=True, unassigned=tuple(names)
    )
    rows = measured(subject).measurement("density").values
    assert [v.characteristic for v in rows if v.name == "auc" and v.characteristic] == names


def test_a_code_that_equals_its_label_is_two_point_masses():
    _, labels = two_labels(n=400)
    run = measured(table_subject(torch.cat([labels, torch.randn(400, 2)], 1), labels, SCHEMA, LAYOUT))
    assert run["density.auc@a"] == 1
    assert run["density.overlap@a"] == 0
    assert "discrete codes" in value(run, "knn_kl", "a").note


def test_posterior_means_can_be_used_as_codes():
    subject = prepare(SquaresVAE(scale=3.0), Squares(400), np.arange(400))
    sampled, mean = (measured(subject, replace(QUICK, code=code)) for code in ("sample", "mean"))
    assert mean["density.auc@Glasses"] == 1
    assert sampled["density.auc@Glasses"] < 0.95
    with pytest.raises(UsageError, match="code must be"):
        Density(code="modes").needs(subject)  # type: ignore[arg-type]


def test_only_the_requested_characteristics_are_measured():
    subject = prepare(SquaresVAE(), Squares(300), np.arange(300), characteristics=("Smile",))
    found = measured(subject).measurements[0]
    assert {v.characteristic for v in found.values} == {None, "Smile"}


def test_uninformative_codes_score_the_chance_level():
    codes, labels = two_labels(n=1000, shift=0.0)
    run = measured(table_subject(codes, labels, SCHEMA, LAYOUT), Density())
    for name in ("auc", "dprime", "overlap", "js", "wasserstein", "knn_kl"):
        found = value(run, name)
        half = (found.estimate.high - found.estimate.low) / 2
        assert abs(found.estimate.value - found.chance) < 2 * half, name


def test_perfect_areas_have_intervals_and_prior_gaps_have_references():
    run = measured(prepare(SquaresVAE(scale=0.01), Squares(400), np.arange(400), characteristics=("Glasses", "Smile")))
    whole, parts = value(run, "auc").estimate, [value(run, "auc", name).estimate for name in ("Glasses", "Smile")]
    assert whole.value == whole.high == 1
    assert whole.low == pytest.approx(np.mean([part.low for part in parts]))
    assert whole.low < 1
    floors = [value(run, "prior_gap", name).reference for name in ("Glasses", "Smile")]
    assert value(run, "prior_gap").reference == pytest.approx(np.mean(floors))
    for found in run.measurements[0].values:
        if found.name in ("js", "overlap"):
            assert 0 <= found.estimate.low <= found.estimate.value <= found.estimate.high <= 1


def test_names_with_slashes_keep_their_figures_and_tables():
    names = ("Hair/Top", "Hair")
    codes, labels = two_labels(n=200)
    layout = LatentLayout(codes.shape[1], {names[0]: (0,), names[1]: (1,)})
    found = measured(table_subject(codes, labels, binary_schema(*names), layout)).measurement("density")
    assert set(nested(found, "curves")) == set(names)
    assert {"grid", "absent", "present"} <= set(nested(found, "curves")["Hair/Top"])
    assert [parts for parts, _ in Density.figures(found)] == [("curves",), ("effects",)]
