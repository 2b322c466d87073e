"""Every value of ours answers to its own dials (docs/metrics.md, section 9). The whole takes some minutes."""

import pytest

from ccvae_eval.calibration.calibrating import CARD, Calibrator, calibrate
from ccvae_eval.calibration.dials import DIALS
from ccvae_eval.data.faces import Faces
from ccvae_eval.registry import HOME, metrics
from tests.fakes import Squares, SquaresVAE


def _ours():
    return [r.name for r in metrics.registrations() if r.distribution == HOME]


@pytest.mark.parametrize("name", _ours())
def test_the_dials_that_a_value_declares_exist(name):
    for value, spec in metrics[name].values.items():
        for dial in spec.dials:
            assert dial in DIALS, f"{name}.{value}"
        assert set(spec.known_ends) <= set(spec.dials)


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
@pytest.mark.parametrize("name", CARD)
def test_every_value_passes_its_own_dials(name, tmp_path):
    found = calibrate([name], foreign=False, folder=tmp_path)
    judged = [curve for curve in found.own if curve.verdict.passed is not None]
    assert judged
    assert not [f"{c.value} at {c.dial.name}: {c.verdict.why}" for c in found.failed]
    without = {curve.value for curve in found.own} - {curve.value for curve in judged}
    assert without <= {"rank_correlation"}  # faces has no continuous label
