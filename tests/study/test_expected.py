"""What is known at the ends of dials agrees with closed forms where there are any, and with other people's code."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.metrics.matchers.grid import GridMatcher
from ccvae_eval.metrics.shared.region_masks import INSIDE, OUTSIDE, point_sums, zones_of
from ccvae_eval.oracle.code import Coding
from study.expected.columns import concentrated, fitted_areas, separation
from study.expected.correspondence import REACH, losses, matched
from study.expected.laws import Law, information, simulated, turned


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).integers(0, 2, (1500, 4))


def test_a_code_in_two_bins_of_a_label_tells_all_of_it(labels):
    cells = np.stack([labels[:, 0], np.random.default_rng(1).integers(0, 2, len(labels))], axis=1)
    told = information(cells, labels, 2)
    assert told[0, 0] == pytest.approx(math.log(2), abs=2e-3)
    assert told[1, 0] < 3e-3


def test_turning_by_45_degrees_makes_two_codes_tell_half_of_each_label(labels):
    u = 2.0 * (2 * labels - 1)
    assert np.allclose(np.abs(turned(u, 45.0)[:, :2]).sum(1), math.sqrt(8))
    ends = [simulated(Law(labels.astype(np.int64).tobytes(), 4, 6, degrees), 20) for degrees in (0.0, 45.0)]
    assert ends[0]["modularity"] == pytest.approx(1, abs=1e-3)
    # four labels, of which a code knows two alike: 1 - 1/3, and (1/2 - 1/4)/(3/4)
    assert ends[1]["modularity"] == pytest.approx(2 / 3, abs=0.05)
    assert ends[1]["infom"] == pytest.approx(1 / 3, abs=0.03)
    assert ends[1]["mig"] < 0.05
    assert ends[1]["snc_raw"] == pytest.approx(3 / 4, abs=0.04)


def test_the_oracle_s_classes_lie_eight_deviations_apart():
    faces = Faces(size=32)
    block = next(b for b in Coding.of(faces, faces.schema).blocks if b.label.name == "Smiling")
    classes = np.random.default_rng(0).integers(0, 2, 1500).astype(np.int64)
    found = separation(block, classes.tobytes(), 5)
    assert found["dprime"] == pytest.approx(4 / 0.49973, rel=0.03)
    parts = [concentrated(block, classes.tobytes(), degrees) for degrees in (0.0, 45.0)]
    assert parts[0]["components_d"] > 0.97
    # of three columns two hold half of two parameters each
    halves = (2 * (1 - math.log(2) / math.log(3)) + 1) / 3
    assert parts[1]["components_d"] == pytest.approx(halves, abs=0.05)


def test_fitted_readers_of_style_miss_the_best_reader_s_area_by_what_they_learnt_of_noise():
    faces = Faces(size=32)
    blocks = [b for b in Coding.of(faces, faces.schema).blocks if b.label.name in ("Smiling", "Hair_Color")]
    classes = faces.labels_of(np.arange(1500))[:, [faces.schema.index(b.label.name) for b in blocks]].astype(np.int64)
    assert fitted_areas(blocks, classes, 21, 0.0) == pytest.approx(0.5, abs=1e-12)
    (smiling,) = [place for place, b in enumerate(blocks) if b.label.name == "Smiling"]
    sin, cos = math.sin(math.radians(20)), math.cos(math.radians(20))
    best = norm.cdf(4 * sin / math.hypot(0.5 * sin, cos) / math.sqrt(2))
    few, many = (fitted_areas([blocks[smiling]], classes[:, [smiling]], columns, 20.0) for columns in (1, 40))
    assert few == pytest.approx(best, abs=1e-3)
    assert best - 0.03 < many < best - 0.004


def test_opencv_finds_the_points_that_the_grid_finds():
    faces = Faces(size=64)
    ids = faces.split("test")[:12]
    x = faces.batch(ids).images
    column = faces.schema.index("Eyeglasses")
    y = faces.with_attribute(ids, "Eyeglasses", 1 - faces.labels_of(ids)[:, column])
    ours = GridMatcher()
    for other in (x, y, x.mean(0, keepdim=True).expand_as(x)):
        found = ours.match(ours.features(x), ours.features(other))
        counts = matched(x, other)
        assert torch.equal(found.matched.sum(1).double(), torch.from_numpy(counts[:, 0]))
        assert found.confidence.sum(1).numpy() == pytest.approx(counts[:, 1], abs=1e-3)


def test_opencv_loses_as_many_points_inside_a_region_and_outside_as_the_grid():
    faces, ours = Faces(size=64), GridMatcher()
    ids = faces.split("test")[:12]
    x, regions = faces.batch(ids).images, torch.from_numpy(faces.region(ids, "Eyeglasses"))
    y = faces.with_attribute(ids, "Eyeglasses", 1 - faces.labels_of(ids)[:, faces.schema.index("Eyeglasses")])
    y = torch.roll(y, 1, 3)  # what is found again has moved
    zones = zones_of(regions, int(ours.guard), x)
    found = ours.match(ours.features(x), ours.features(y))
    sums = point_sums(found, zones.of_points(found), REACH)
    loss, gone = losses(x, y, zones.masks[:, [INSIDE, OUTSIDE]].transpose(0, 1).bool().numpy())
    for place, zone in enumerate((INSIDE, OUTSIDE)):
        there = sums["count"][:, zone] > 0
        mean = sums["loss"][there, zone] / sums["count"][there, zone]
        assert there.sum() > 6
        assert loss[place, there.numpy()] == pytest.approx(mean.numpy(), abs=1e-5)
        kept = sums["found"][there, zone] / sums["count"][there, zone]
        assert gone[place, there.numpy()] == pytest.approx(1 - kept.numpy(), abs=1e-6)
        assert np.isnan(loss[place, ~there.numpy()]).all()
    assert np.nanmean(loss[1]) == pytest.approx(1, abs=0.05)  # one pixel, and nothing lost
    assert np.nanmean(gone[0]) > 0.1
