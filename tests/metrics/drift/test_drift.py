"""Drift of models whose change is known: local, independent of the region, a shift, a tint, none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.drift.metric import Drift
from ccvae_eval.metrics.drift.rows import RECONSTRUCTED
from tests.support.edits import NAME, EditingVAE, Textures, square, textures

pytestmark = pytest.mark.oracle

COUNT = 64


def measured(edit, *, metric=None, images=None, region="square", scale=0.1, **how):
    images = textures(COUNT) if images is None else images
    mask = square(images.shape[-1]) if isinstance(region, str) else region
    data = Textures(images, mask)
    subject = prepare(EditingVAE(data, edit, scale), data, np.arange(len(data)), **how)
    return measure(subject, [metric or Drift()]).measurements[0]


def value(measurement, name, characteristic=NAME, **at):
    found = [
        v for v in measurement.values if v.name == name and v.characteristic == characteristic and dict(v.at) == at
    ]
    assert len(found) == 1, f"{name} {at}: {len(found)} rows"
    return found[0]


def number(measurement, name, **at):
    return value(measurement, name, **at).estimate.value


def other_textures(images, ids):
    return textures(COUNT, images.shape[-1], seed=7)[ids]


def local(images, ids):
    return torch.where(square(images.shape[-1]), other_textures(images, ids), images)


def everywhere(images, ids):
    return 0.5 * images + 0.5 * other_textures(images, ids)


def one_pixel(images, ids):
    del ids
    return images.roll(1, 3)


def tint(images, ids):
    del ids
    return 0.8 * images + 0.15


def unchanged(images, ids):
    del ids
    return images.clone()


@pytest.fixture(scope="module")
def of_local():
    return measured(local)


@pytest.fixture(scope="module")
def of_everywhere():
    return measured(everywhere)


def test_a_local_change_has_no_spill(of_local):
    for name in ("spill", "outside_excess", "outside", "lost", "displacement", "ssim_spill", "l1_spill"):
        estimate = value(of_local, name).estimate
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0), name
    assert number(of_local, "changed") == 1
    assert number(of_local, "inside") > 1
    assert value(of_local, "spill").estimate.n == COUNT


@pytest.mark.parametrize("name", ["spill", "ssim_spill", "l1_spill"])
def test_a_change_independent_of_the_region_is_at_chance(of_everywhere, name):
    row = value(of_everywhere, name)
    assert row.chance == 1
    assert row.estimate.low < 1 < row.estimate.high
    assert row.estimate.high - row.estimate.low < 0.5


def test_a_shift_of_one_pixel_is_a_loss_of_one():
    found = measured(one_pixel)
    for name in ("spill", "inside", "outside", "loss", "displacement", "outside_excess"):
        assert number(found, name) == pytest.approx(1, abs=1e-6), name
    assert number(found, "lost") == 0
    assert number(found, "matches_drop") == 0


def test_a_lost_point_has_the_loss_of_the_search_radius():
    found = measured(lambda images, ids: images.roll(5, 3))
    assert number(found, "lost") > 0.95
    assert number(found, "outside") == pytest.approx(3, abs=0.1)


def test_a_tint_is_detected_by_ssim_and_l1_alone():
    found = measured(tint)
    assert number(found, "loss") == 0
    assert number(found, "outside") == 0
    assert number(found, "changed") == 1
    spill = value(found, "spill")
    assert math.isnan(spill.estimate.value)
    assert "nothing moves" in spill.note
    assert number(found, "l1_change") > 0.03
    assert number(found, "l1_spill") == pytest.approx(1, abs=0.1)
    assert number(found, "ssim_change") > 0


def test_unchanged_images_are_excluded_and_counted():
    found = measured(unchanged)
    assert number(found, "changed") == 0
    for name in ("spill", "l1_spill", "ssim_spill", "inside", "outside_excess"):
        row = value(found, name)
        assert math.isnan(row.estimate.value), name
        assert row.excluded == COUNT
        assert "nothing changes" in row.note
    assert number(found, "matches_drop") == 0
    assert value(found, "spill", None).excluded == 1


def test_losses_from_first_principles():
    """Outside all points move by one pixel and inside none is found: the ratio is known."""

    def edit(images, ids):
        return torch.where(square(), other_textures(images, ids), images.roll(1, 3))

    found = measured(edit)
    assert number(found, "outside") == pytest.approx(1, abs=1e-6)
    inside = number(found, "inside")
    assert number(found, "spill") == pytest.approx(1 / inside, rel=1e-6)
    numerator, denominator = (found.evidence[f"spill/{NAME}/{part}"] for part in ("numerator", "denominator"))
    assert np.nansum(numerator) / np.nansum(denominator) == pytest.approx(number(found, "spill"), rel=1e-12)
    assert len(numerator) == COUNT


def test_changes_within_the_posteriors_noise_do_not_count():
    """With a wide posterior, redraws change some labels themselves."""
    found = measured(one_pixel, scale=1.5)
    assert 0.6 < number(found, "changed") < 0.95
    assert number(found, "floor_c") == pytest.approx(0, abs=1e-9)
    assert number(found, "outside_excess") == pytest.approx(1, abs=1e-6)
    noiseless = measured(one_pixel, scale=0.0)
    assert number(noiseless, "floor_c") == number(noiseless, "floor_all") == 0
    assert number(noiseless, "changed") == 1


def test_chance_is_another_image(of_local):
    assert value(of_local, "inside").chance > 2
    assert value(of_local, "outside").chance > 2
    assert value(of_local, "lost").chance > 0.7
    row, before = value(of_local, "matches"), value(of_local, "matches", **RECONSTRUCTED)
    assert row.chance < 0.2 * before.estimate.value


def test_matches_and_confidences_with_the_input(of_local):
    before = number(of_local, "matches", **RECONSTRUCTED)
    assert before == number(of_local, "keypoints")
    assert number(of_local, "confidence", **RECONSTRUCTED) == pytest.approx(1, abs=1e-5)
    assert number(of_local, "matches_drop") == pytest.approx(before - number(of_local, "matches"), rel=1e-12)
    drop = value(of_local, "matches_drop").estimate
    assert 0 < drop.low < drop.value < drop.high
    drop = number(of_local, "confidence", **RECONSTRUCTED) - number(of_local, "confidence")
    assert number(of_local, "confidence_drop") == pytest.approx(drop, rel=1e-9)


def test_table_images_limits_the_images_on_which_matches_are_counted(of_local):
    first = measured(local, metric=Drift(table_images=32))
    assert value(first, "matches").estimate.n == 32 < value(of_local, "matches").estimate.n
    assert number(first, "spill") == number(of_local, "spill"), "the headline does not depend on it"
    assert number(first, "matches") == pytest.approx(number(of_local, "matches"), rel=0.1)
    none = measured(local, metric=Drift(table_images=0))
    row = value(none, "matches")
    assert math.isnan(row.estimate.value)
    assert "table_images=0" in row.note
    assert number(none, "spill") == number(of_local, "spill")
    assert value(none, "inside").chance is None


def test_without_a_region_other_values_stay_defined():
    found = measured(one_pixel, region=None)
    for name in ("spill", "outside", "changed", "textured", "l1_spill"):
        row = value(found, name)
        assert math.isnan(row.estimate.value)
        assert row.note == "has no region"
    assert number(found, "loss") == pytest.approx(1, abs=1e-6)
    for name in ("matches", "matches_drop", "confidence", "l1_change", "ssim_change"):
        assert not math.isnan(number(found, name)), name


@pytest.mark.parametrize("mask", [torch.zeros(64, 64, dtype=torch.bool), torch.ones(64, 64, dtype=torch.bool)])
def test_an_empty_or_full_region_is_ignored(mask):
    found = measured(one_pixel, region=mask)
    assert "empty or too large" in value(found, "spill").note


@pytest.mark.parametrize("matcher", ["grid", "sift"])
def test_blank_images_have_no_matches_and_ssim_replaces_the_losses(matcher):
    found = measured(
        lambda images, ids: torch.where(square(), 0.9, images),
        images=torch.arange(COUNT).reshape(-1, 1, 1, 1).expand(-1, 3, 64, 64) / 200 + 0.3,
        metric=Drift(matcher=matcher),
    )
    assert found.status == "ok"
    assert number(found, "keypoints") == 0
    assert number(found, "matches") == 0
    assert number(found, "textured") == 0
    assert math.isnan(number(found, "confidence"))
    assert math.isnan(number(found, "outside"))
    assert "0 textured points outside in the median image, 8 are needed" in value(found, "outside").note
    spill = value(found, "spill")
    assert spill.estimate == value(found, "ssim_spill").estimate
    assert spill.estimate.value == 0
    assert spill.note.startswith("1-SSIM")
    assert any("1-SSIM" in note for note in found.notes)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_have_values_without_intervals(count):
    metric = Drift(source="prior")
    found = measured(local, images=textures(COUNT)[:count], metric=metric)
    spill = value(found, "spill")
    assert spill.estimate.value == 0
    assert math.isnan(spill.estimate.low)
    assert (value(found, "inside").chance is None) == (count == 1)


def test_too_few_images_of_a_class_are_reported_as_the_reason():
    found = measured(local, images=textures(30))
    assert found.status == "undefined"
    assert "20 are needed" in found.reason.text


def test_sift_separates_a_local_change_from_a_global_one():
    metric = Drift(matcher="sift")
    kept, lost = measured(local, metric=metric), measured(everywhere, metric=metric)
    assert value(kept, "spill").estimate.high < 0.5
    assert value(lost, "spill").estimate.low > 0.5
    correct, every = number(kept, "correct_matches"), number(kept, "matches")
    assert 0.8 * every < correct <= every
    assert number(kept, "matches", **RECONSTRUCTED) == number(kept, "keypoints")


def test_grid_reports_no_correct_matches(of_local):
    assert not [v for v in of_local.values if v.name == "correct_matches"]


def test_doses_are_fractions_of_the_path():
    found = measured(one_pixel, metric=Drift(doses=(0.0, 1.0)))
    # at either end half of the images belong to the other class and move by one pixel
    for dose in (0.0, 1.0):
        assert number(found, "loss", dose=dose) == pytest.approx(0.5, abs=1e-6)
        assert number(found, "spill", dose=dose) == pytest.approx(1, abs=1e-6)
        assert value(found, "spill", dose=dose).estimate.n == COUNT / 2
    assert number(found, "spill") == pytest.approx(1, abs=1e-6)


def test_bits_do_not_depend_on_the_batch_size():
    runs = [measured(everywhere, batch_size=size) for size in (32, 256)]
    assert runs[0].values == runs[1].values
    for name, column in runs[0].evidence.items():
        np.testing.assert_array_equal(column, runs[1].evidence[name])


def test_clipped_ranks_are_noted():
    found = measured(local)
    assert any(note.startswith("ranks clipped by transport: Glasses ") for note in found.notes)
    far = textures(COUNT)
    data = Textures(far, square())
    subject = prepare(EditingVAE(data, local), data, np.arange(COUNT))
    # codes far from their class mean relative to the prior's deviation of .1 are clipped
    shifted = subject.posterior.loc.clone()
    shifted[:, 0] *= 1.5
    moved = replace(subject, posterior=replace(subject.posterior, loc=shifted))
    notes = measure(moved, [Drift(source="prior")]).measurements[0].notes
    assert any(note.startswith("warning: more than 10%") for note in notes)


def test_pictures_hold_the_data_of_the_figures(of_local):
    pictures = of_local.pictures
    assert pictures["before"].shape == pictures[f"after/{NAME}"].shape == (8, 64, 64, 3)
    points = pictures[f"keypoints/{NAME}"]
    assert points.shape == (8, 169, 6)
    kept = points[~np.isnan(points[..., 0])]
    assert len(kept) > 8 * 20
    assert set(np.unique(kept[:, 5])) == {0.0, 1.0}
    assert ((kept[:, :2] >= 7) & (kept[:, :2] <= 56)).all()
    matched = kept[kept[:, 5] == 1]
    assert (matched[:, 4] >= 0.8).all()


@pytest.mark.parametrize(
    "settings", [{"matcher": "gird"}, {"doses": (2.0,)}, {"doses": (0.5, 0.5)}, {"window": 4}, {"largest_region": 0.0}]
)
def test_invalid_settings_are_refused(settings):
    with pytest.raises(UsageError):
        Drift(**settings)
