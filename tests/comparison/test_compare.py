"""Comparison of runs: verdicts, refusals, families, seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test

import ccvae_eval
from ccvae_eval.comparison.compare import WITH_INFLUENCE, Comparison, compare
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Estimate, Reason
from ccvae_eval.evaluation.metric import default_metrics
from ccvae_eval.evaluation.result_table import Mean, Proportion
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.storage import write
from ccvae_eval.metrics.shared.contrasts import RocAuc
from tests.support.comparisons import model, run_of
from tests.support.fakes import Squares, SquaresVAE


def test_a_run_does_not_differ_from_itself() -> None:
    run = model(1)
    found = compare(run, run)
    assert {v.verdict for v in found.values} == {"no evidence of a difference (equal throughout)"}
    assert all(v.difference.value == v.difference.low == v.difference.high == 0 for v in found.values)
    assert all(v.adjusted_p == 1 for v in found.values)


def test_a_much_better_model_is_better_in_every_headline_in_either_order() -> None:
    better, worse = model(1, 1.0, path="b.pt"), model(2)
    for found, label in ((compare(better, worse), "A"), (compare(worse, better), "B")):
        assert [str(v.address) for v in found.means] == [
            "locality.focus", "drift.spill", "accuracy.balanced_accuracy", "density.auc"
        ]  # fmt: skip
        assert {v.verdict for v in found.means} == {f"{label} better"}
        assert found.best(found.values[0].address) == label
    assert found.models == {"A": "a.pt", "B": "b.pt"}
    assert found["drift.spill"].higher == "A"


def test_both_orders_give_the_same_numbers_with_the_other_sign() -> None:
    one, other = compare(model(1), model(2)), compare(model(2), model(1))
    for a, b in zip(one.values, other.values, strict=True):
        assert a.difference.value == pytest.approx(-b.difference.value, abs=1e-12)
        assert (a.difference.low, a.difference.high) == pytest.approx(
            (-b.difference.high, -b.difference.low), abs=1e-12
        )
        assert a.adjusted_p == b.adjusted_p


def test_no_evidence_states_the_smallest_detectable_difference() -> None:
    row = compare(model(1), model(2))["locality.focus"]
    assert row.verdict == f"no evidence of a difference (smallest detectable {row.smallest_detectable:.2g})"
    # (z of .05 / (2 * 4 tests) + z of .8) standard errors
    assert row.smallest_detectable == pytest.approx((2.4977 + 0.8416) * row.difference.standard_error, rel=1e-4)


@pytest.mark.oracle
def test_the_sign_flip_p_value_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(60), rng.random(60) + 0.07
    row = compare(run_of({"m": ("v", {"x": Mean(a)})}), run_of({"m": ("v", {"x": Mean(b)})}))["m.v"]
    expected = permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert 0.005 < expected < 0.2
    assert row.difference.p == pytest.approx(expected, abs=4 * math.sqrt(expected / 20_000))


@pytest.mark.oracle
def test_the_p_value_of_a_mean_over_characteristics_agrees_with_scipy() -> None:
    """Signs flip whole images: both characteristics together, with images that enter only one."""
    rng = np.random.default_rng(4)
    x, y = rng.random((2, 60)), rng.random((2, 60)) - 0.12
    x[0, :20] = np.nan
    runs = [run_of({"m": ("v", {"p": Mean(z[0]), "q": Mean(z[1])})}) for z in (x, y)]
    row = compare(*runs)["m.v"]
    y[0, :20] = np.nan  # only images that enter both runs count
    a, b = (np.nansum(z / [[2 * 40], [2 * 60]], axis=0) for z in (x, y))
    expected = permutation_test(
        (a, b), lambda p, q, axis: np.sum(p - q, axis=axis), permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert row.difference.value == pytest.approx(np.nanmean(x, axis=1).mean() - np.nanmean(y, axis=1).mean())
    assert 0.005 < expected < 0.5
    assert row.difference.p == pytest.approx(expected, abs=4 * math.sqrt(expected / 20_000))


def test_families_are_adjusted_by_holm_and_means_come_first() -> None:
    found = compare(model(1, 0.25), model(2))
    assert [v.address.characteristic for v in found.values] == [None] * 4 + [
        "Smile",
        "Hat",
        "Tie",
        "Smile",
        "Smile",
        "Smile",
    ]
    for family, size in ((found.means, 4), (found.singles, 6)):
        assert {v.family for v in family} == {size}
        ordered = sorted(family, key=lambda v: v.difference.p)
        assert ordered[0].adjusted_p == pytest.approx(min(1, size * ordered[0].difference.p))
        assert all(v.adjusted_p >= v.difference.p for v in family)


def test_more_than_two_models_are_compared_pair_by_pair_in_one_family() -> None:
    found = compare(model(1, 1.0), model(2), model(3, path="c.pt"))
    assert {v.family for v in found.means} == {12}
    assert found["locality.focus", "A", "C"].verdict == "A better"
    assert found.best(found["locality.focus", "A", "B"].address) == "A"
    with pytest.raises(UsageError, match="3 pairs"):
        found["locality.focus"]


def test_chosen_values_and_characteristics() -> None:
    found = compare(model(1), model(2), values=["locality.focus@Hat", "density.auc"])
    assert [str(v.address) for v in found.values] == ["density.auc", "locality.focus@Hat", "density.auc@Smile"]
    found = compare(model(1), model(2), characteristics=["Hat"])
    assert [str(v.address) for v in found.singles] == ["locality.focus@Hat"]
    assert found["locality.focus"].difference.value == pytest.approx(found["locality.focus@Hat"].difference.value)
    with pytest.raises(UsageError, match="Did you mean 'focus'"):
        compare(model(1), model(2), values=["locality.focsu"])


def test_a_value_that_one_model_lacks_leaves_the_mean_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    bad, good = rng.random(50), rng.random(50) + 1
    a = run_of({"m": ("v", {"x": Mean(good), "y": "no region"})})
    b = run_of({"m": ("v", {"x": Mean(good), "y": Mean(bad)})})
    found = compare(a, b)
    assert found["m.v"].equal
    assert found["m.v"].note == "mean over 1 of 2 characteristics, without y"
    assert found["m.v@y"].verdict == "not compared: undefined in A: no region"


def test_a_value_without_contributions_says_why_it_is_not_compared() -> None:
    runs = [model(1), model(2)]
    bare = [replace(r, measurements=tuple(replace(m, evidence={}) for m in r.measurements)) for r in runs]
    assert "it has no contributions of single images" in compare(*bare)["locality.focus"].verdict


def test_a_metric_that_one_model_does_not_support_says_why() -> None:
    a, b = model(1), model(2)
    m = replace(
        b.measurement("drift"), values=(), status="unsupported", reason=Reason("x", "needs a decoder"), evidence={}
    )
    b = replace(b, measurements=(*(o for o in b if o.metric != "drift"), m))
    assert compare(a, b)["drift.spill"].verdict == "not compared: unsupported in B: needs a decoder"


def test_evidence_that_does_not_give_the_value_is_not_compared() -> None:
    run = model(1)
    m = run.measurement("locality")
    other = replace(m, evidence={k: v * 2 if "numerator" in k else v for k, v in m.evidence.items()})
    found = compare(replace(run, measurements=(other,)), model(2))
    assert "the evidence of A gives" in found["locality.focus"].verdict


def test_values_undefined_in_both_runs_have_their_reasons_and_the_option_that_helps() -> None:
    """A reason with a colon is no method of measurement."""
    rng = np.random.default_rng(0)
    runs = []
    for accuracy in (0.12, 0.10):
        run = run_of({"drift": ("spill", {"x": Mean(rng.random(50))})})
        m = run.measurements[0]
        values = tuple(
            replace(v, estimate=Estimate(math.nan), note=f"the judge fails: {accuracy}", remedy="--sample 246")
            for v in m.values
        )
        runs.append(replace(run, measurements=(replace(m, values=values),)))
    assert compare(*runs)["drift.spill"].verdict == (
        "not compared: undefined in A: the judge fails: 0.12 -> --sample 246; "
        "undefined in B: the judge fails: 0.1 -> --sample 246"
    )


def test_the_only_label_is_tested_once() -> None:
    """Its values are those of the means, which would have a second p-value in the family of single characteristics."""
    rng = np.random.default_rng(0)
    runs = [run_of({m: ("v", {"digit": Mean(rng.random(50))}) for m in ("m", "n")}, path=str(k)) for k in range(6)]
    for found in (compare(*runs[:2]), compare({"p": runs[:3], "q": runs[3:]})):
        assert [str(v.address) for v in found.values] == ["m.v", "n.v"]
        assert found["m.v"].family == 2
    assert [str(v.address) for v in compare(*runs[:2], values=["m.v@digit"]).values] == ["m.v@digit"]


def test_a_comparison_is_printed_as_the_command_prints_it() -> None:
    rng = np.random.default_rng(0)
    rows = {"m": ("v", {"x": Mean(rng.random(50))}), "n": ("w", {"x": "has no region"})}
    found = compare(run_of({"n": rows["n"], "m": rows["m"]}), run_of({"n": rows["n"], "m": rows["m"]}))
    lines = str(found).splitlines()
    (compared,) = (k for k, line in enumerate(lines) if line.startswith("m.v"))
    (missing,) = (k for k, line in enumerate(lines) if line.startswith("n.w"))
    assert compared < missing, "what was compared comes first"
    assert lines[missing].split() == ["n.w", "–", "–", "–", "not", "compared"]
    assert "· n.w: undefined in A and B: has no region" in lines, "a reason stands below the table, once"
    assert found._repr_html_() == f"<pre>{escape(str(found))}</pre>"


def test_a_printed_comparison_names_arguments_of_python() -> None:
    rng = np.random.default_rng(0)
    run = run_of({"m": ("v", {"x": Mean(rng.random(50)), "y": "too few images"})})
    (m,) = run.measurements
    values = tuple(v if v.estimate.defined else replace(v, remedy="--sample 246") for v in m.values)
    run = replace(run, measurements=(replace(m, values=values),))
    only = str(compare(run, run, values=["m.v@y"]))
    assert "undefined in A and B: too few images -> sample=246" in only
    assert "0 single characteristics differ (singles has all)" in str(compare(run, run))


def test_values_measured_in_two_ways_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    a, b = (run_of({"drift": ("spill", {"x": Mean(rng.random(50))})}) for _ in range(2))
    m = b.measurements[0]
    noted = tuple(replace(v, note="given; 1-SSIM: 2 textured points") if v.characteristic else v for v in m.values)
    b = replace(b, measurements=(replace(m, values=noted),))
    assert "measured in two ways (A: as defined; B: given; 1-SSIM" in compare(a, b)["drift.spill"].verdict


def test_fewer_than_eight_common_images_are_too_few() -> None:
    rng = np.random.default_rng(0)
    a = run_of({"m": ("v", {"x": Mean(rng.random(20))})}, ids=np.arange(20))
    b = run_of({"m": ("v", {"x": Mean(rng.random(20))})}, ids=np.arange(13, 33))
    assert compare(a, b)["m.v"].verdict == "not compared: 7 images enter both values, 8 are needed"


def test_runs_on_different_images_are_compared_on_those_in_common() -> None:
    """A model without characteristics is evaluated on half of the images."""
    rng = np.random.default_rng(0)
    values, label = rng.random(100), (rng.random(100) < 0.5).astype(float)
    scores = rng.standard_normal(100) + label
    half = np.arange(0, 100, 2)
    a = run_of({"m": ("v", {"x": Mean(values)}), "n": ("w", {"x": RocAuc([scores], [label])})}, ids=np.arange(100))
    b = run_of(
        {"m": ("v", {"x": Mean(values[half])}), "n": ("w", {"x": RocAuc([scores[half]], [label[half]])})}, ids=half
    )
    found = compare(a, b)
    assert found["m.v"].equal
    assert found["m.v"].difference.n == 50
    area = found["n.w"]
    assert area.difference.n == 100, "a ROC area keeps the images of each model"
    assert area.second != area.first
    assert area.adjusted_p > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"digest": "e", "split": "test", "name": "faces"}}, "digest of the data: 'd' and 'e'"),
        ({"data": {"digest": "e", "split": "test", "name": "mine"}}, "data: 'faces' and 'mine'"),
        ({"data": {"digest": "d", "split": "train", "name": "faces"}}, "split: 'test' and 'train'"),
        ({"data": {"digest": "d", "split": "test", "sample": 64}}, "sample: None and 64"),
        ({"seed": 3}, "seed: 0 and 3"),
        ({"judge": {"sha256": "x"}}, "judge: None and 'x'"),
        ({"judge": {"sha256": "01234567" * 8}}, "judge: None and '01234567'"),
        ({"regions": {"source": "boxes"}}, "regions: None and 'boxes'"),
    ],
)
def test_runs_of_different_evaluations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        compare(model(1), model(2, path="b.pt", **change))
    assert error.value.why == message
    assert "ccvae-eval run b.pt" in error.value.hint
    assert "--seed 0" in error.value.hint


def test_a_run_of_an_earlier_version_without_the_image_size_is_compared() -> None:
    data = {"digest": "d", "split": "test", "name": "faces"}
    assert compare(model(1, data=data), model(2, data={**data, "image": [3, 64, 64]})).values


def test_models_of_different_image_sizes_are_told_what_can_be_done() -> None:
    sizes = (
        {"digest": d, "split": "test", "name": f"faces,size={n}", "image": [3, n, n]} for d, n in (("d", 64), ("e", 32))
    )
    (a, b) = (model(k, data=data) for k, data in enumerate(sizes))
    with pytest.raises(UsageError) as error:
        compare(a, b)
    assert (
        "'faces,size=64, 64 x 64 pixels, 3 channels' and 'faces,size=32, 32 x 32 pixels, 3 channels'" in error.value.why
    )
    assert "ccvae-eval table" in error.value.hint
    assert "ccvae-eval run" not in error.value.hint


def test_other_settings_and_versions_are_refused_and_the_command_is_that_of_the_first_run() -> None:
    a, b = model(1, command="ccvae-eval run a.pt --sample 64 -o out/a"), model(2, path="b.pt")
    other = replace(b, measurements=tuple(replace(m, settings={"steps": 5}) for m in b.measurements))
    with pytest.raises(UsageError, match="locality.steps: 11 and 5") as error:
        compare(a, other)
    assert error.value.hint == "Evaluate B as A: ccvae-eval run b.pt --sample 64"
    mine = replace(
        other, header=replace(other.header, command="ccvae-eval run b.pt --sample 9 --plugin 'my own.py' --set k=1")
    )
    with pytest.raises(UsageError) as error:
        compare(a, mine)
    assert error.value.hint == "Evaluate B as A: ccvae-eval run b.pt --sample 64 --plugin 'my own.py' --set k=1"
    both = replace(a, header=replace(a.header, command="ccvae-eval compare a.pt b.pt"))
    with pytest.raises(UsageError) as error:
        compare(both, other)
    assert error.value.hint.startswith(
        "Evaluate B as A: ccvae-eval run b.pt --data faces --split test --judge none --seed 0 -m "
    )
    data = {**both.header.data, "split": "all", "n": 48, "sample": None, "by": "Hat"}
    whole = replace(both, header=replace(both.header, data=data))
    with pytest.raises(UsageError) as error:
        compare(whole, other)
    assert "run b.pt --data faces --limit 48 --by Hat --judge none" in error.value.hint
    other = replace(b, measurements=tuple(replace(m, version=2) for m in b.measurements))
    with pytest.raises(UsageError, match="version of locality: 1 and 2") as error:
        compare(a, other)
    assert "same version of ccvae-eval" in error.value.hint


def test_runs_without_evidence_or_common_metrics_are_refused() -> None:
    with pytest.raises(UsageError, match="the run has no evidence"):
        compare(model(1), replace(model(2), ids={}))
    with pytest.raises(UsageError, match="no metric in common"):
        compare(model(1), replace(model(2), measurements=()))
    with pytest.raises(UsageError, match="two to 26 runs"):
        compare(model(1))


def test_a_written_run_compares_as_the_run_in_memory(tmp_path: Path) -> None:
    runs = model(1, 0.3), model(2)
    read = [ccvae_eval.read(write(run, tmp_path / str(k)) and tmp_path / str(k)) for k, run in enumerate(runs)]
    assert compare(*read).as_plain() == compare(*runs).as_plain()


def seeds(better: float, count: int, first: int) -> list[Run]:
    return [model(first + k, better, path=f"{first + k}.pt") for k in range(count)]


def test_groups_are_compared_over_training_seeds() -> None:
    found = compare({"ours": seeds(0.8, 4, 10), "csvae": seeds(0.0, 4, 20)})
    assert isinstance(found, Comparison)
    assert found.unit == "training seeds"
    assert found["locality.focus"].verdict == "ours better"
    assert found["drift.spill"].better == "ours"
    assert found["locality.focus@Hat"].difference.n == 8


def test_runs_with_judges_of_different_labels_are_told_how_to_share_one() -> None:
    with pytest.raises(UsageError, match="are not comparable") as error:
        compare(model(1, judge={"sha256": "x"}), model(2, path="b.pt", judge={"sha256": "y"}))
    assert "--judge full" in error.value.hint


def test_groups_need_three_different_seeds() -> None:
    with pytest.raises(UsageError, match="'csvae' must have at least 3 runs, got 2"):
        compare({"ours": seeds(0, 3, 10), "csvae": seeds(0, 2, 20)})
    with pytest.raises(UsageError, match="'csvae' has a checkpoint twice"):
        compare({"ours": seeds(0, 3, 10), "csvae": seeds(0, 1, 20) * 3})
    with pytest.raises(UsageError, match="are not comparable"):
        compare({"ours": seeds(0, 3, 10), "csvae": [model(k, path=f"{k}.pt", seed=4) for k in range(3)]})


def test_the_mean_of_groups_is_over_characteristics_defined_for_every_seed() -> None:
    rng = np.random.default_rng(0)
    runs = [
        run_of(
            {"m": ("v", {"x": Mean(rng.random(20)), "y": "none" if k == 0 else Mean(9 + rng.random(20))})}, path=str(k)
        )
        for k in range(6)
    ]
    found = compare({"p": runs[:3], "q": runs[3:]})
    assert found["m.v"].first < 1
    assert found["m.v@y"].verdict == "not compared: undefined for some training seed"


def test_a_proportion_with_few_different_images_has_a_p_value_and_no_interval() -> None:
    a, b = np.ones(100), np.ones(100)
    b[:2] = 0
    row = compare(run_of({"m": ("v", {"x": Proportion(a)})}), run_of({"m": ("v", {"x": Proportion(b)})}))["m.v"]
    assert math.isnan(row.difference.low)
    assert row.difference.p == pytest.approx(0.5, abs=0.02)


def without_influences(run: Run) -> Run:
    """A run as an early version stored it."""
    kept = ({k: a for k, a in m.evidence.items() if not k.endswith("/influence")} for m in run.measurements)
    return replace(run, measurements=tuple(replace(m, evidence=e) for m, e in zip(run.measurements, kept, strict=True)))


@pytest.mark.parametrize("old", ["A", "B", "AB"])
def test_evidence_without_influences_is_not_compared(old: str) -> None:
    runs = [without_influences(model(k)) if label in old else model(k) for k, label in enumerate("AB")]
    found = compare(*runs)
    reason = f"the evidence of {old[0]} was written by an earlier version; evaluate the checkpoint again"
    for address in ("accuracy.balanced_accuracy", "density.auc"):
        assert reason in found[address].verdict
        assert math.isnan(found[address].adjusted_p)
    assert found["locality.focus"].family == 2


def test_the_values_with_influences_are_those_of_an_evaluation() -> None:
    data = Squares(180)
    run = ccvae_eval.evaluate(SquaresVAE(), data, [*default_metrics()], sample=60, judge="none", references=False)
    stored = {(m.metric, key.partition("/")[0]) for m in run for key in m.evidence if key.endswith("/influence")}
    assert stored == WITH_INFLUENCE
