"""Every built-in value responds to its own perturbations (docs/metrics.md, section 9)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ccvae_eval.calibration import CALIBRATED_METRICS, study
from ccvae_eval.calibration.perturbations import PERTURBATIONS
from ccvae_eval.calibration.study import OBEYED_RANK, STABILITY, Calibrator, calibrate
from ccvae_eval.calibration.verdict import REASONS, reason_without_perturbation
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import ValueSpec
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.evaluation.interventions import Together
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.metrics.accuracy.metric import Accuracy
from ccvae_eval.metrics.disentanglement import group_scores
from ccvae_eval.metrics.diversity.metric import FeatureSpread
from ccvae_eval.metrics.intervention import rows
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, metrics
from study.expected.columns import COLUMNS
from study.expected.correspondence import CORRESPONDENCE
from study.expected.edited import EDITED
from study.expected.group_votes import VOTED
from study.expected.known import CODES, TOGETHER
from study.expected.laws import PANEL
from study.expected.rebuilt import REBUILT
from study.expected.rendered import RENDERED
from tests.support.fakes import Squares, SquaresVAE

pytestmark = pytest.mark.oracle

UNJUDGED = {
    "rank_correlation",  # faces has no continuous label
    "frechet",  # has no interval
    "rmig", "dci_explicitness",  # have no interval
    "sap_continuous", "explicitness_train", "dci_informativeness_train",  # in the published profile only
}  # fmt: skip


def _builtin():
    return [r.name for r in metrics.registrations() if r.distribution == BUILTIN_DISTRIBUTION]


@pytest.mark.parametrize("name", _builtin())
def test_declared_perturbations_exist(name):
    for value, spec in metrics[name].values.items():
        for perturbation in spec.dials:
            assert perturbation in PERTURBATIONS, f"{name}.{value}"


@pytest.mark.parametrize("name", _builtin())
def test_a_value_without_perturbation_has_a_reason(name):
    for value, spec in metrics[name].values.items():
        if not spec.dials and spec.higher_is_better is not None:
            assert (name, value) in REASONS, f"{name}.{value} has a direction, but neither a perturbation nor a reason"
        assert not (spec.dials and (name, value) in REASONS), f"{name}.{value}"


PAGES = "".join(page.read_text() for page in Path("docs").glob("calibration-*.md"))


def test_the_answer_key_has_an_entry_for_every_value_and_own_perturbation():
    tables = (CODES, TOGETHER, COLUMNS, RENDERED, EDITED, CORRESPONDENCE, REBUILT, PANEL, VOTED)
    expected = {key for table in tables for key in table} | {(*STABILITY, "turn"), (*OBEYED_RANK, "idle")}
    own = {
        (n, v, perturbation)
        for n in CALIBRATED_METRICS
        for v, spec in metrics[n].values.items()
        for perturbation in spec.dials
    }
    assert {value for _, value, _ in own - expected} <= UNJUDGED
    assert expected <= own


@pytest.mark.parametrize("name", CALIBRATED_METRICS)
def test_the_docs_have_the_responses_of_every_value(name):
    for value, spec in metrics[name].values.items():
        assert f"| `{value}" in PAGES, f"{name}.{value} is in no table of responses"
        if not spec.dials:
            assert f"| `{name}.{value}` | {reason_without_perturbation(name, value, spec)} |" in PAGES
        for perturbation in spec.dials:
            assert f"| {perturbation} |" in PAGES


@dataclass(frozen=True)
class BrokenAccuracy:
    """Accuracy with a distorted value."""

    how: str

    name: ClassVar[str] = "accuracy"
    version: ClassVar[int] = Accuracy.version
    headline: ClassVar[str] = Accuracy.headline
    default_sample: ClassVar[int] = 100
    laws: ClassVar[frozenset[str]] = frozenset()
    values: ClassVar[Mapping[str, ValueSpec]] = {"balanced_accuracy": Accuracy.values["balanced_accuracy"]}

    def needs(self, subject: Any) -> Needs:
        return Accuracy().needs(subject)

    def start(self, subject: Any) -> Any:
        metric, inner = self, Accuracy().start(subject)

        class BrokenAccumulator:
            def update(self, batch: Any) -> None:
                inner.update(batch)

            def compute(self, weights: Any) -> Any:
                found = inner.compute(weights)
                values = [metric.distorted(v) for v in found.values if v.name == "balanced_accuracy"]
                return replace(found, values=tuple(values))

        return BrokenAccumulator()

    def distorted(self, value: Any) -> Any:
        e = value.estimate
        line: Any = {
            "whole": lambda x: x,
            "upside down": lambda x: 1.44 - x,
            "constant": lambda x: 0 * x + 1.0,
            "too good by a twentieth": lambda x: x + 0.05,
            "half as sensitive": lambda x: 0.5 + x / 2,
        }[self.how]
        ends = sorted((line(e.low), line(e.high)))
        return replace(value, estimate=replace(e, value=line(e.value), low=ends[0], high=ends[1]))


@pytest.mark.parametrize("how", ["whole", "upside down", "constant", "too good by a twentieth", "half as sensitive"])
def test_a_deliberately_broken_metric_fails(how):
    found = Calibrator(
        [BrokenAccuracy(how)], Faces(size=32), dials=["mislabel"], sample=24, steps=4, foreign=False
    ).measure()
    (curve,) = found.own
    assert curve.verdict.passed is (how == "whole"), curve.verdict.why


KEYS = [
    "metric", "value", "dial", "own", "passed", "spearman", "at_zero", "at_end", "known_zero", "known_end", "covers",
]  # fmt: skip


def test_the_json_document_has_its_documented_keys():
    kinds = [metrics["accuracy"]()]
    found = Calibrator(kinds, Faces(size=32), dials=["mislabel"], sample=4, steps=2).measure().as_plain()
    rows = found["calibration"]
    assert rows
    for row in rows:
        assert list(row) == KEYS
    assert len(found["curves"]) == len(rows)
    assert {(row["metric"], row["value"]) for row in found["without"]} == {
        ("accuracy", value) for value in ("majority", "r2", "absolute_error")
    }


@pytest.mark.slow
def test_focus_falls_linearly_with_smear():
    found = calibrate(
        ["locality"],
        Faces(size=32),
        options={"locality": {"steps": 3}},
        dials=["smear"],
        characteristics=["Eyeglasses", "Wearing_Hat"],
        sample=24,
        steps=5,
        judge="none",
        foreign=False,
    )
    (focus,) = [curve for curve in found.own if curve.value == "focus"]
    assert focus.verdict.passed, focus.verdict.why
    start = focus.readings[0].value
    for position, reading in zip(focus.positions, focus.readings, strict=True):
        assert reading.value == pytest.approx((1 - position) * start, abs=0.03)
    assert focus.readings[-1].value == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_feature_spread_is_that_of_resampled_renderings(factor, monkeypatch):
    measured = FeatureSpread.of
    monkeypatch.setattr(FeatureSpread, "of", lambda *arguments: factor * measured(*arguments))
    found = calibrate(
        ["diversity"],
        Faces(size=32),
        dials=["collapse"],
        characteristics=["Eyeglasses", "Hair_Color"],
        sample=48,
        steps=3,
        judge="none",
        foreign=False,
    )
    (spread,) = [curve for curve in found.own if curve.value == "feature_spread"]
    assert spread.verdict.passed is (factor == 1.0), spread.verdict.why


@pytest.mark.slow
def test_identity_of_the_oracle_is_that_of_rendered_swaps():
    found = calibrate(
        ["intervention"],
        Faces(),
        dials=["warp"],
        characteristics=["Wearing_Hat"],
        sample=64,
        steps=2,
        judge="none",
        foreign=False,
    )
    (identity,) = [curve for curve in found.own if curve.value == "identity"]
    assert identity.expected[0] == pytest.approx(identity.readings[0].value, abs=1e-6)
    assert identity.expected[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_consistency_and_restrictiveness_are_the_known_shares_of_rotated_codes(broken, monkeypatch):
    """Broken: the latents are those of other factors."""
    if broken:
        monkeypatch.setattr(group_scores, "aligned_latents", lambda context: {0: 2, 1: 3, 2: 0, 3: 1})
    scores = ("consistency", "restrictiveness")
    found = calibrate(
        ["disentanglement"],
        Faces(size=32),
        options={"disentanglement": {"score": scores}},
        dials=["mix"],
        sample=24,
        steps=3,
        judge="none",
        foreign=False,
    )
    curves = [curve for curve in found.own if curve.value in scores]
    assert len(curves) == 2
    for curve in curves:
        assert not np.isnan(curve.expected).any()
        assert (np.diff(curve.expected) < 0).all()
        assert curve.verdict.passed is not broken, curve.verdict.why


@pytest.mark.slow
def test_votes_of_groups_do_not_use_the_images_that_consistency_renders():
    """At the second step, too, where the oracle has seen the images."""
    values = []
    for scores in (("z_max_var",), ("z_max_var", "consistency")):
        found = Calibrator(
            [metrics["disentanglement"](score=scores)], Faces(size=32), dials=["mix"], sample=8, steps=2
        ).measure()
        (curve,) = [curve for curve in found.own if curve.value == "z_max_var"]
        values.append([reading.value for reading in curve.readings])
    assert values[0] == values[1]


FEW_EDITS = {"axiom_images": 0, "rendered": 0, "feature_images": 0}


def _edited(seed=0, sample=64, steps=3):
    """Curves of the values of labels that are set together and of unfairness."""
    found = calibrate(
        ["intervention"],
        Faces(),
        options={"intervention": FEW_EDITS},
        dials=["idle", "bias"],
        characteristics=["Eyeglasses", "Smiling", "Wearing_Hat"],
        sample=sample,
        steps=steps,
        seed=seed,
        foreign=False,
    )
    return [curve for curve in found.own if curve.value in ("obeyed_together", "unfairness", "obeyed_rank")]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_values_of_labels_set_together_and_by_a_label_are_the_known_ones(broken, monkeypatch):
    """Broken: no label is set together with another one, edits move no label, and ranks are reversed."""
    if broken:
        distance, correlation = rows.unfairness, rows.spearman_estimate
        monkeypatch.setattr(Together, "codes", lambda self, subject, chunk: chunk.codes)
        monkeypatch.setattr(rows, "spearman_estimate", lambda x, y, weights: correlation(-x, y, weights))
        monkeypatch.setattr(rows, "unfairness", lambda before, after, *others: distance(before, before, *others))
    curves = _edited()
    assert [curve.row for curve in curves] == ["obeyed_rank", "obeyed_together set=1", "obeyed_together set=2",
                                               "unfairness"]  # fmt: skip
    for curve in curves:
        assert not np.isnan(curve.expected).any()
        assert curve.verdict.passed is not broken, (curve.row, curve.verdict.why)


@pytest.mark.soak
def test_intervals_of_labels_set_together_and_by_a_label_cover_the_known_values():
    """With new images and new edits without an effect each time."""
    inside: dict[str, list[bool]] = {}
    for seed in range(12):
        for curve in _edited(seed):
            for reading, expected in zip(curve.readings, curve.expected, strict=True):
                inside.setdefault(curve.row, []).append(reading.contains(float(expected)))
    assert all(np.mean(found) > 0.85 for found in inside.values()), inside


@pytest.mark.soak
def test_intervals_of_consistency_and_restrictiveness_cover_the_known_values():
    """With new images and new groups each time, at 0 and 45 degrees."""
    inside: dict[str, list[bool]] = {}
    for seed in range(20):
        found = calibrate(
            ["disentanglement"],
            Faces(size=32),
            options={"disentanglement": {"score": ("consistency", "restrictiveness")}},
            dials=["mix"],
            steps=2,
            seed=seed,
            judge="none",
            foreign=False,
        )
        for curve in found.own:
            for reading, expected in zip(curve.readings, curve.expected, strict=True):
                if reading.defined:
                    inside.setdefault(curve.value, []).append(reading.contains(float(expected)))
    assert set(inside) == {"consistency", "restrictiveness"}
    assert all(np.mean(found) > 0.85 for found in inside.values()), inside


@pytest.mark.slow
def test_a_given_model_is_calibrated_from_its_own_value_to_chance():
    data = Squares(400)
    found = calibrate(
        ["density", "accuracy"],
        data,
        options={"density": {"curve_draws": 50, "permutations": 2}},
        model=SquaresVAE(scale=0.3),
        model_name="squares",
        dials=["shuffle", "mix"],
        sample=10,
        steps=3,
        judge="none",
        foreign=True,
    )
    by_name = {(c.metric, c.value, c.perturbation.name): c for c in found.curves}
    area = by_name["density", "auc", "shuffle"]
    assert area.own
    assert area.readings[0].value > 0.9  # no line separates the middle one of three classes in one dimension
    assert area.expected[0] == area.readings[0].value
    assert area.expected[-1] == area.readings[-1].chance == 0.5
    assert area.readings[-1].value == pytest.approx(0.5, abs=0.15)
    leak = by_name["density", "cross_auc", "mix"]
    # two of three labels have a partner, and each is compared with two labels: 0.5 + 2/3 * 1/2 * 1/2
    assert leak.readings[-1].value == pytest.approx(2 / 3, abs=0.07)
    assert leak.readings[0].value == pytest.approx(1 / 2, abs=0.07)
    # the rotation is undone before the model predicts, so accuracy is invariant
    invariant = by_name["accuracy", "balanced_accuracy", "mix"]
    assert not invariant.own
    assert invariant.moved <= 1


def test_a_resumed_calibration_measures_missing_cells_only(tmp_path):
    def prepared():
        kinds = [metrics["accuracy"]()]
        return Calibrator(kinds, Faces(size=32), dials=["mislabel"], sample=4, steps=3, foreign=False, folder=tmp_path)

    first = prepared()
    assert (first.plan().cells, first.plan().missing) == (3, 3)
    found = first.measure()
    next(iter(sorted(tmp_path.iterdir()))).unlink()
    again = prepared()
    assert again.plan().missing == 1
    assert again.measure().as_plain() == found.as_plain()


def test_an_unknown_setting_is_refused_as_in_an_evaluation():
    with pytest.raises(UsageError, match="metric 'density' has no setting 'lest'"):
        calibrate(["density"], Faces(size=32), options={"density": {"lest": 3}}, judge="none")


@pytest.mark.soak
@pytest.mark.parametrize("name", CALIBRATED_METRICS)
def test_every_value_passes_its_own_perturbations(name, tmp_path):
    found = calibrate([name], foreign=False, folder=tmp_path)
    assert found.judged
    assert not [f"{c.row} at {c.perturbation.name}: {c.verdict.why}" for c in found.failed]
    without = {curve.value for curve in found.own} - {curve.value for curve in found.judged}
    assert without <= UNJUDGED


def test_without_the_answer_key_a_calibration_checks_what_holds_for_any_model(monkeypatch):
    monkeypatch.setattr(study, "answer_key", lambda: None)
    found = calibrate(
        ["density"],
        Faces(size=32),
        options={"density": {"curve_draws": 50, "permutations": 2}},
        dials=["shuffle", "shift"],
        characteristics=["Smiling", "Wearing_Hat"],
        sample=8,
        steps=3,
        judge="none",
        foreign=False,
    )
    curves = {(curve.value, curve.perturbation.name): curve for curve in found.own}
    auc, gap = curves["auc", "shuffle"], curves["prior_gap", "shift"]
    assert auc.expected[0] == auc.readings[0].value
    assert auc.expected[2] == auc.readings[2].chance == 0.5
    assert gap.expected[0] == pytest.approx(gap.readings[0].value, abs=1e-6)
    for curve in found.own:
        assert np.isnan(curve.expected[1])
        assert curve.perturbation.name == "shuffle" or np.isnan(curve.expected[2])
    assert auc.verdict.passed, auc.verdict.why
    assert gap.verdict.passed, gap.verdict.why


def test_without_the_answer_key_a_perturbation_from_another_base_has_no_expected_value(monkeypatch):
    monkeypatch.setattr(study, "answer_key", lambda: None)
    arguments: Any = {"characteristics": ["Smiling"], "sample": 8, "steps": 3, "foreign": False}
    found = Calibrator([metrics["accuracy"]()], Faces(size=32), dials=["temper", "mislabel"], **arguments).measure()
    curves = {(curve.value, curve.perturbation.name): curve for curve in found.own}
    assert np.isnan(curves["calibration_error", "temper"].expected).all()
    assert curves["accuracy", "mislabel"].expected[0] == 1.0
    assert np.isnan(curves["accuracy", "mislabel"].expected[1:]).all()


def test_a_perturbation_that_changes_the_model_at_strength_zero_fails_without_the_answer_key(monkeypatch):
    monkeypatch.setattr(study, "answer_key", lambda: None)
    mislabel = PERTURBATIONS["mislabel"]
    changed = replace(mislabel, perturb=lambda context, strength: mislabel.perturb(context, 0.3 + 0.7 * strength))
    monkeypatch.setattr(study, "perturbation_named", lambda name: changed)
    found = Calibrator(
        [metrics["accuracy"]()], Faces(size=32), dials=["mislabel"], sample=24, steps=4, foreign=False
    ).measure()
    (accuracy,) = [curve for curve in found.own if curve.value == "balanced_accuracy"]
    assert accuracy.verdict.passed is False
    assert "first end" in accuracy.verdict.why
