"""Expected values at the ends of perturbations against closed forms and third-party implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.metrics.matchers.grid import GridMatcher
from ccvae_eval.metrics.shared.region_masks import INSIDE, OUTSIDE, masks_of, point_sums
from ccvae_eval.oracle.model import Coding
from study.expected.columns import concentrated, fitted_areas, separation
from study.expected.correspondence import REACH, losses, matched
from study.expected.group_votes import variance_scores
from study.expected.laws import CodeDistribution, information, rotated_pairs, simulated


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).integers(0, 2, (1500, 4))


def test_a_binary_code_of_a_label_has_its_whole_information(labels):
    cells = np.stack([labels[:, 0], np.random.default_rng(1).integers(0, 2, len(labels))], axis=1)
    mutual = information(cells, labels, 2)
    assert mutual[0, 0] == pytest.approx(math.log(2), abs=2e-3)
    assert mutual[1, 0] < 3e-3


def test_a_rotation_by_45_degrees_halves_the_information_of_each_dimension(labels):
    u = 2.0 * (2 * labels - 1)
    assert np.allclose(np.abs(rotated_pairs(u, 45.0)[:, :2]).sum(1), math.sqrt(8))
    ends = [
        simulated(CodeDistribution(labels.astype(np.int64).tobytes(), 4, 6, degrees), 20) for degrees in (0.0, 45.0)
    ]
    assert ends[0]["modularity"] == pytest.approx(1, abs=1e-3)
    # each dimension encodes two of four labels equally: 1 - 1/3, and (1/2 - 1/4)/(3/4)
    assert ends[1]["modularity"] == pytest.approx(2 / 3, abs=0.05)
    assert ends[1]["infom"] == pytest.approx(1 / 3, abs=0.03)
    assert ends[1]["mig"] < 0.05
    assert ends[1]["snc_raw"] == pytest.approx(3 / 4, abs=0.04)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 45.0])
def test_consistency_and_restrictiveness_are_those_of_simulated_groups(degrees):
    generator, shares, groups, size = np.random.default_rng(0), np.array([0.4, 0.5, 0.35]), 20_000, 16
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def codes(labels, noise):
        u = 2.0 * (2 * labels - 1) + 0.49973 * noise
        return np.stack([cos * u[..., 0] - sin * u[..., 1], sin * u[..., 0] + cos * u[..., 1], u[..., 2]], -1)

    labels = generator.random((100_000, 3)) < shares
    noise = generator.standard_normal(labels.shape)
    spread = codes(labels, noise).var(0)
    found = {"consistency": [], "restrictiveness": []}
    for k in range(3):
        labels = generator.random((groups, size, 3)) < shares
        labels[:, :, k] = labels[:, :1, k]
        within = codes(labels, generator.standard_normal(labels.shape)).var(1, ddof=1).mean(0) / spread
        found["consistency"].append(1 - within[k])
        labels = np.repeat(labels[:, :1], size, 1)
        labels[:, :, k] = generator.random((groups, size)) < shares[k]
        of_picture = generator.standard_normal((groups, 2, 3))
        noise = np.where(labels[:, :, [k]], of_picture[:, :1], of_picture[:, 1:])
        within = codes(labels, noise).var(1, ddof=1).mean(0) / spread
        found["restrictiveness"].append(1 - np.delete(within, k).mean())
    labels = generator.random((100_000, 3)) < shares
    u = 2.0 * (2 * labels - 1) + 0.49973 * generator.standard_normal(labels.shape)
    for name, score in variance_scores(u, shares, degrees).items():
        assert score == pytest.approx(np.mean(found[name]), abs=3e-3), name


def test_the_oracles_classes_are_eight_deviations_apart():
    faces = Faces(size=32)
    block = next(b for b in Coding.of(faces, faces.schema).blocks if b.label.name == "Smiling")
    classes = np.random.default_rng(0).integers(0, 2, 1500).astype(np.int64)
    found = separation(block, classes.tobytes(), 5)
    assert found["dprime"] == pytest.approx(4 / 0.49973, rel=0.03)
    parts = [concentrated(block, classes.tobytes(), degrees) for degrees in (0.0, 45.0)]
    assert parts[0]["components_d"] > 0.97
    # two of three dimensions encode two parameters equally
    halves = (2 * (1 - math.log(2) / math.log(3)) + 1) / 3
    assert parts[1]["components_d"] == pytest.approx(halves, abs=0.05)


def test_trained_probes_of_style_have_a_smaller_area_than_the_optimal_probe():
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


def test_opencv_matches_the_points_that_the_grid_matches():
    faces = Faces(size=64)
    ids = faces.split("test")[:12]
    x = faces.batch(ids).images
    column = faces.schema.index("Eyeglasses")
    y = faces.with_attribute(ids, "Eyeglasses", 1 - faces.labels_of(ids)[:, column])
    grid = GridMatcher()
    for other in (x, y, x.mean(0, keepdim=True).expand_as(x)):
        found = grid.match(grid.features(x), grid.features(other))
        counts = matched(x, other)
        assert torch.equal(found.matched.sum(1).double(), torch.from_numpy(counts[:, 0]))
        assert found.confidence.sum(1).numpy() == pytest.approx(counts[:, 1], abs=1e-3)


def test_opencv_and_the_grid_lose_the_same_share_of_points_in_each_zone():
    faces, grid = Faces(size=64), GridMatcher()
    ids = faces.split("test")[:12]
    x, regions = faces.batch(ids).images, torch.from_numpy(faces.region(ids, "Eyeglasses"))
    y = faces.with_attribute(ids, "Eyeglasses", 1 - faces.labels_of(ids)[:, faces.schema.index("Eyeglasses")])
    y = torch.roll(y, 1, 3)  # so that matched points have moved
    zones = masks_of(regions, int(grid.guard), x)
    found = grid.match(grid.features(x), grid.features(y))
    sums = point_sums(found, zones.membership(found), REACH)
    loss, lost = losses(x, y, zones.masks[:, [INSIDE, OUTSIDE]].transpose(0, 1).bool().numpy())
    for place, zone in enumerate((INSIDE, OUTSIDE)):
        there = sums["count"][:, zone] > 0
        mean = sums["loss"][there, zone] / sums["count"][there, zone]
        assert there.sum() > 6
        assert loss[place, there.numpy()] == pytest.approx(mean.numpy(), abs=1e-5)
        kept = sums["found"][there, zone] / sums["count"][there, zone]
        assert lost[place, there.numpy()] == pytest.approx(1 - kept.numpy(), abs=1e-6)
        assert np.isnan(loss[place, ~there.numpy()]).all()
    assert np.nanmean(loss[1]) == pytest.approx(1, abs=0.05)  # one pixel, without lost points
    assert np.nanmean(lost[0]) > 0.1
