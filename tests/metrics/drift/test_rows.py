"""Rows of drift from given sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccvae_eval.evaluation.result_table import ColumnStore, ResultTable
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.drift.metric import Drift
from ccvae_eval.metrics.drift.rows import DriftRows, dose_pair
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.edits import NAME, EditingVAE, Textures, square, textures

COUNT = 10
GENERATOR = np.random.default_rng(0)
POINTS = np.array([12.0, 30.0, 50.0])
PIXELS = np.array([500.0, 3000.0, 4096.0])


def three(low, high):
    return GENERATOR.uniform(low, high, (COUNT, 3))


def pair(**more):
    return {"loss": three(5, 20), "found": three(4, 8), "displacement": three(1, 4), "l1": three(40, 50), **more}


@pytest.fixture
def sums():
    counted = {"count": np.tile(POINTS, (COUNT, 1)), "size": np.tile(PIXELS, (COUNT, 1)), "ssim": three(10, 20)}
    table = {key: GENERATOR.uniform(5, 9, COUNT) for key in ("keypoints", "matches", "confidence", "correct")}
    found = {
        (NAME, "do"): pair(**counted),
        (NAME, "floor_c"): {**pair(), "l1": three(1, 2)},
        (NAME, "floor_all"): pair(),
        (NAME, "another"): {**pair(), "count": np.tile(POINTS, (COUNT, 1))},
        (NAME, "table"): table,
        ("", "reconstruction"): {key: 2 * column for key, column in table.items()},
        ("", "another"): {"ssim": np.full(COUNT, 0.7), "l1": np.full(COUNT, 0.2), **table},
    }
    found[NAME, "floor_c"]["l1"][0, 0] = 100.0  # the first image changes less than by its noise
    return found


def rows(sums, fewest=8, applies=None, regionless="", doses=()):
    data = Textures(textures(COUNT, 16), square(16))
    subject = prepare(EditingVAE(data, lambda images, ids: images), data, np.arange(COUNT))
    table = ResultTable(Drift(), subject, ResampleWeights(0, COUNT, 200))
    columns = ColumnStore(COUNT)
    for (name, pair), numbers in sums.items():
        columns.put(name, slice(None), {f"{pair}/{key}": column for key, column in numbers.items()})
    added = DriftRows(table, NAME, np.ones(COUNT, bool) if applies is None else applies, columns, regionless)
    added.add_whole()
    added.add_matches(True)
    notes = added.add_regional(fewest)
    for dose in doses:
        added.add_dose(dose, "", fewest)
    values = table.measurement(notes, {}).values
    return {(v.name, *v.at.values()): v for v in values if v.characteristic == NAME}


def test_each_value_equals_its_formula(sums):
    found = rows(sums)
    do, floor, every, another = (sums[NAME, key] for key in ("do", "floor_c", "floor_all", "another"))
    used = np.arange(COUNT) > 0
    inside, outside = do["loss"][used, 0] / 12, do["loss"][used, 1] / 30
    expected = {
        "spill": outside.sum() / inside.sum(),
        "outside": outside.mean(),
        "inside": inside.mean(),
        "outside_excess": (outside - floor["loss"][used, 1] / 30).mean(),
        "floor_c": (floor["loss"][used, 1] / 30).mean(),
        "floor_all": (every["loss"][used, 1] / 30).mean(),
        "lost": (1 - do["found"][used, 1] / 30).mean(),
        "displacement": do["displacement"][used, 1].sum() / do["found"][used, 1].sum(),
        "changed": 0.9,
        "textured": 30.0,
        "ssim_spill": (do["ssim"][used, 1].sum() / 3000) / (do["ssim"][used, 0].sum() / 500),
        "l1_spill": (do["l1"][used, 1].sum() / 3000) / (do["l1"][used, 0].sum() / 500),
        "loss": (do["loss"][:, 2] / 50).mean(),
        "ssim_change": (do["ssim"][:, 2] / 4096).mean(),
        "l1_change": (do["l1"][:, 2] / 4096).mean(),
    }
    for name, number in expected.items():
        assert found[name,].estimate.value == pytest.approx(number, rel=1e-12), name
    assert found["spill",].excluded == 1
    assert found["inside",].chance == pytest.approx((another["loss"][used, 0] / 12).mean())
    assert found["lost",].chance == pytest.approx(1 - (another["found"][used, 1] / 30).mean())
    assert found["ssim_change",].chance == pytest.approx(0.7)
    confidence = sums[NAME, "table"]["confidence"].sum() / sums[NAME, "table"]["matches"].sum()
    assert found["confidence",].estimate.value == pytest.approx(confidence)
    assert found["confidence_drop",].estimate.value == pytest.approx(0, abs=1e-12)
    assert found["matches_drop",].estimate.value == pytest.approx(sums[NAME, "table"]["matches"].mean())


def test_images_without_points_inside_and_outside_are_excluded(sums):
    sums[NAME, "do"]["count"][1:4, 0] = 0
    found = rows(sums)
    assert found["spill",].estimate.n == COUNT - 4
    assert found["l1_spill",].estimate.n == COUNT - 1


def test_images_without_a_known_class_are_excluded(sums):
    applies = np.arange(COUNT) >= 5
    found = rows(sums, applies=applies)
    assert found["spill",].estimate.n == 5
    assert found["matches",].estimate.n == 5
    none = rows(sums, applies=~np.ones(COUNT, bool))
    assert none["spill",].note == "the class of every image is unknown"


def test_with_too_few_points_spill_is_the_ratio_of_ssim(sums):
    found = rows(sums, fewest=31)
    assert found["spill",].estimate == found["ssim_spill",].estimate
    assert found["spill",].note == "1-SSIM: 30 textured points outside in the median image, 31 are needed"
    assert math.isnan(found["outside_excess",].estimate.value)
    assert found["textured",].estimate.value == 30


def test_losses_at_a_dose_equal_their_formula(sums):
    sums[NAME, dose_pair(0.5)] = pair()
    found = rows(sums, doses=(0.5,))
    dose = sums[NAME, dose_pair(0.5)]["loss"][1:]
    assert found["spill", 0.5].estimate.value == pytest.approx((dose[:, 1].sum() / 30) / (dose[:, 0].sum() / 12))
    few = rows(sums, fewest=31, doses=(0.5,))
    assert "31 are needed" in few["spill", 0.5].note
    assert not math.isnan(few["loss", 0.5].estimate.value)


def test_a_chunk_of_one_image_has_no_measured_chance(sums):
    for key in ((NAME, "another"), ("", "another")):
        del sums[key]
    found = rows(sums)
    for name in ("inside", "lost", "matches", "confidence", "ssim_change"):
        assert found[name,].chance is None
        assert not math.isnan(found[name,].estimate.value)


def test_a_ratio_of_rounding_errors_is_undefined(sums):
    sums[NAME, "do"]["ssim"] *= 1e-7
    found = rows(sums)
    assert math.isnan(found["ssim_spill",].estimate.value)
    assert found["ssim_spill",].note == "nothing changes inside the region"


def test_chance_levels_are_measured_with_another_image(sums):
    found = rows(sums)
    another, floor = sums[NAME, "another"], sums[NAME, "floor_c"]
    used = np.arange(COUNT) > 0
    expected = (another["loss"][used, 1] - floor["loss"][used, 1]).mean() / POINTS[1]
    assert found["outside_excess",].chance == pytest.approx(expected)
    moved = another["displacement"][used, 1].sum() / another["found"][used, 1].sum()
    assert found["displacement",].chance == pytest.approx(moved)
    table = sums["", "another"]
    before = sums["", "reconstruction"]
    assert found["matches_drop",].chance == pytest.approx((before["matches"] - table["matches"]).mean())
    assert found["changed",].chance == 0.5
