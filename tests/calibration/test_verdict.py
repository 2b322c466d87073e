"""Rules by which a value passes along a perturbation, and the values that each rule rejects."""

import math

import numpy as np
import pytest

from ccvae_eval.calibration.verdict import Reading, check_count, judge, movement, widening

LINE = np.linspace(1, 0, 11)
UNKNOWN = np.full(11, math.nan)


def readings(values, half=0.02):
    return [Reading(float(v), float(v) - half, float(v) + half) for v in values]


def ends(first, last):
    expected = UNKNOWN.copy()
    expected[0], expected[-1] = first, last
    return expected


def test_a_straight_line_passes():
    found = judge(readings(LINE), LINE)
    assert (found.passed, found.spearman, found.covers, found.why) == (True, 1.0, 1.0, "")


def test_widening_is_that_of_bonferroni():
    assert widening(1) == pytest.approx(1)
    assert widening(100) == pytest.approx(3.4808 / 1.9600, abs=1e-3)
    assert check_count(readings(LINE), ends(1, 0)) == 3
    assert check_count([Reading(math.nan)] * 11, ends(1, 0)) == 0


@pytest.mark.parametrize(("first", "last", "says"), [(1.1, 0.0, "first end"), (1.0, -0.1, "last end")])
def test_an_end_away_from_the_expected_value_fails(first, last, says):
    found = judge(readings(LINE), ends(first, last))
    assert found.passed is False
    assert says in found.why


def test_an_end_within_the_widened_interval_passes_but_is_not_covered():
    assert judge(readings(LINE), ends(1.03, 0.0)).passed is False
    found = judge(readings(LINE), ends(1.03, 0.0), wider=widening(100))
    assert found.passed
    assert found.covers == 0.5


def test_a_step_in_the_wrong_direction_fails():
    values = LINE.copy()
    values[5] = values[3] + 0.01  # a wrong step of 0.11 with a sum of half-widths of 0.04
    found = judge(readings(values), ends(1, 0))
    assert found.passed is False
    assert "wrong direction" in found.why


def test_a_value_that_does_not_respond_fails():
    assert "does not respond" in judge(readings(np.full(11, 0.5)), UNKNOWN).why


def test_noise_on_a_plateau_passes():
    values = np.where(np.arange(11) < 4, 1 - 0.25 * np.arange(11), 0.0) + np.tile([0.004, -0.004], 6)[:11]
    found = judge(readings(values), ends(1, 0))
    assert found.passed
    assert found.spearman == pytest.approx(1.0)


def test_without_expected_ends_the_value_must_get_worse():
    assert judge(readings(LINE), UNKNOWN, higher_is_better=True).passed
    assert judge(readings(LINE), UNKNOWN, higher_is_better=False).passed is False


def test_an_expected_value_between_the_ends_is_checked():
    expected = LINE.copy()
    expected[5] += 0.1
    assert "step 5" in judge(readings(LINE), expected).why


def test_a_value_undefined_everywhere_is_not_judged_and_one_undefined_somewhere_fails():
    nothing = [Reading(math.nan, note="no continuous label")] * 11
    found = judge(nothing, UNKNOWN)
    assert found.passed is None
    assert "no continuous label" in found.why
    some = [*readings(LINE)[:10], Reading(math.nan, note="gone")]
    assert judge(some, ends(1, 0)).passed is False


def test_a_value_without_interval_is_not_judged():
    found = judge([Reading(float(v)) for v in LINE], LINE)
    assert found.passed is None
    assert "no interval" in found.why
    assert found.spearman == pytest.approx(1)
    some = [*readings(LINE)[:10], Reading(0.0)]
    assert judge(some, LINE).passed is False


def test_a_value_expected_to_be_constant_must_be_constant():
    constant, flat = readings(np.full(11, 0.5)), ends(0.5, 0.5)
    assert judge(constant, flat).passed
    wandering = np.where(np.arange(11) == 5, 0.6, 0.5)
    assert "step 5" in judge(readings(wandering), flat).why


NOISE = np.random.default_rng(0).normal(0.5, 0.01, 11)
BROKEN = {
    "upside down": LINE[::-1],
    "constant": np.full(11, 1.0),
    "constant at the other end": np.full(11, 0.0),
    "insensitive": NOISE,
    "four fifths of it": 0.8 * LINE,
    "too high by a tenth": LINE + 0.1,
    "never arrives": 0.5 + 0.5 * LINE,
    "jumps back": np.where(np.arange(11) == 7, LINE + 0.5, LINE),
    "only the ends": np.where(np.arange(11) % 10 == 0, LINE, 0.5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_value_fails_among_hundreds_of_checks(name):
    found = judge(readings(BROKEN[name]), LINE if name == "only the ends" else ends(1, 0), wider=widening(400))
    assert found.passed is False, name


def test_an_interval_wider_than_the_response_fails():
    assert "does not respond" in judge(readings(LINE, half=2.0), ends(1, 0)).why


def test_perfect_values_all_pass_in_nineteen_of_twenty_calibrations():
    """False alarms for 40 values with exact intervals and expected ends: many at 95 % each, few at 95 % together."""
    generator, fewest = np.random.default_rng(1), {"plain": 0, "widened": 0}
    for _ in range(40):
        values = [readings(LINE + generator.normal(0, 0.01, 11), half=0.0196) for _ in range(40)]
        for level, wider in (("plain", 1.0), ("widened", widening(3 * 40))):
            fewest[level] += all(judge(v, ends(1, 0), wider=wider).passed for v in values)
    assert fewest["plain"] <= 4
    assert fewest["widened"] >= 34  # of 40 with 0.95 each: 34 or more in 99.7 %


def test_movement_is_in_widened_half_widths():
    near, far = readings([0.5, 0.52]), readings([0.5, 0.9])
    assert movement(*near) < 1 < movement(*far)
    assert movement(near[0], Reading(math.nan)) == math.inf
    assert math.isnan(movement(Reading(math.nan), Reading(math.nan)))
    assert movement(Reading(1.0, 1.0, 1.0), Reading(1.0, 1.0, 1.0)) == 0
