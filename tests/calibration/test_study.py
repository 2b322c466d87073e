"""Every value of ours answers to its own dials (docs/metrics.md, section 9). The whole takes some minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ccvae_eval.calibration.curves import REASONS, why_without
from ccvae_eval.calibration.defaults import EVERY
from ccvae_eval.calibration.perturbations import PERTURBATIONS
from ccvae_eval.calibration.study import Calibrator, calibrate
from ccvae_eval.core.results import ValueSpec
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.metrics.accuracy.metric import Accuracy
from ccvae_eval.metrics.diversity.metric import FeatureSpread
from ccvae_eval.plugins.registry import HOME, metrics
from study.expected.columns import COLUMNS
from study.expected.correspondence import CORRESPONDENCE
from study.expected.edited import EDITED
from study.expected.group_votes import VOTED
from study.expected.known import CODES
from study.expected.laws import PANEL
from study.expected.rebuilt import REBUILT
from study.expected.rendered import RENDERED
from study.expected.stability import STABILITY
from tests.support.fakes import Squares, SquaresVAE

pytestmark = pytest.mark.oracle

UNJUDGED = {
    "rank_correlation",  # faces has no continuous label
    "frechet",  # has no interval
    "rmig", "dci_explicitness",  # neither have these
    "sap_continuous", "explicitness_train", "dci_informativeness_train",  # of the published profile alone
}  # fmt: skip


def _ours():
    return [r.name for r in metrics.registrations() if r.distribution == HOME]


@pytest.mark.parametrize("name", _ours())
def test_the_dials_that_a_value_declares_exist(name):
    for value, spec in metrics[name].values.items():
        for dial in spec.dials:
            assert dial in PERTURBATIONS, f"{name}.{value}"


@pytest.mark.parametrize("name", _ours())
def test_a_value_without_a_dial_says_why(name):
    for value, spec in metrics[name].values.items():
        if not spec.dials and spec.higher_is_better is not None:
            assert (name, value) in REASONS, f"{name}.{value} has a direction, no dial, and no reason"
        assert not (spec.dials and (name, value) in REASONS), f"{name}.{value}"


PAGES = "".join(page.read_text() for page in Path("docs").glob("calibration-*.md"))


def test_every_value_is_known_somewhere_along_its_own_dials():
    tables = (CODES, COLUMNS, RENDERED, EDITED, CORRESPONDENCE, REBUILT, PANEL, VOTED)
    known = {key for table in tables for key in table} | {(*STABILITY, "turn")}
    own = {(n, v, dial) for n in EVERY for v, spec in metrics[n].values.items() for dial in spec.dials}
    assert {value for _, value, _ in own - known} <= UNJUDGED
    assert known <= own


@pytest.mark.parametrize("name", EVERY)
def test_the_docs_say_of_every_value_what_it_sees(name):
    for value, spec in metrics[name].values.items():
        assert f"| `{value}" in PAGES, f"{name}.{value} is in no table of what values see"
        if not spec.dials:
            assert f"| `{name}.{value}` | {why_without(name, value, spec)} |" in PAGES
        for dial in spec.dials:
            assert f"| {dial} |" in PAGES


@dataclass(frozen=True)
class Broken:
    """Accuracy with a fault in one of its values."""

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

        class Bent:
            def update(self, batch: Any) -> None:
                inner.update(batch)

            def compute(self, weights: Any) -> Any:
                found = inner.compute(weights)
                values = [metric.bent(v) for v in found.values if v.name == "balanced_accuracy"]
                return replace(found, values=tuple(values))

        return Bent()

    def bent(self, value: Any) -> Any:
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
def test_a_metric_that_is_broken_on_purpose_fails(how):
    found = Calibrator([Broken(how)], Faces(size=32), dials=["mislabel"], sample=24, steps=4, foreign=False).measure()
    (curve,) = found.own
    assert curve.verdict.passed is (how == "whole"), curve.verdict.why


KEYS = [
    "metric", "value", "dial", "own", "passed", "spearman", "at_zero", "at_end", "known_zero", "known_end", "covers",
]  # fmt: skip


def test_the_json_has_the_keys_that_were_promised():
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
def test_focus_falls_along_a_straight_line_as_the_change_is_smeared():
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
def test_the_spread_in_features_is_that_of_the_renderer_s_re_draws(factor, monkeypatch):
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
def test_what_a_swap_changes_outside_is_what_the_renderer_s_own_swap_does():
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
    assert identity.known[0] == pytest.approx(identity.readings[0].value, abs=1e-6)
    assert identity.known[0] > 0


@pytest.mark.slow
def test_a_trained_model_s_codes_and_prior_can_be_spoilt():
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
    by_name = {(c.metric, c.value, c.dial.name): c for c in found.curves}
    area = by_name["density", "auc", "shuffle"]
    assert area.own
    assert area.readings[0].value > 0.9  # three classes in one column: the middle one is not told by a line
    assert area.known[-1] == area.readings[-1].chance == 0.5
    assert area.readings[-1].value == pytest.approx(0.5, abs=0.15)
    leak = by_name["density", "cross_auc", "mix"]
    # two of three labels are each other's partner, and are asked for two labels each: .5 + 2/3 * 1/2 * 1/2
    assert leak.readings[-1].value == pytest.approx(2 / 3, abs=0.07)
    assert leak.readings[0].value == pytest.approx(1 / 2, abs=0.07)
    # turned back before it predicts, the model knows what it knew: accuracy does not see the turning
    blind = by_name["accuracy", "balanced_accuracy", "mix"]
    assert not blind.own
    assert blind.moved <= 1


def test_an_interrupted_calibration_measures_only_what_is_missing(tmp_path):
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


@pytest.mark.soak
@pytest.mark.parametrize("name", EVERY)
def test_every_value_passes_its_own_dials(name, tmp_path):
    found = calibrate([name], foreign=False, folder=tmp_path)
    assert found.judged
    assert not [f"{c.row} at {c.dial.name}: {c.verdict.why}" for c in found.failed]
    without = {curve.value for curve in found.own} - {curve.value for curve in found.judged}
    assert without <= UNJUDGED
