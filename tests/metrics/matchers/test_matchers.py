"""Matchers against brute force, OpenCV and known displacements."""

from __future__ import annotations

from hashlib import sha256

import cv2
import numpy as np
import pytest
import torch
from kornia.feature import ALIKED, LightGlue
from numpy.lib.stride_tricks import sliding_window_view

from ccvae_eval.core.errors import CheckpointError, UsageError
from ccvae_eval.metrics.drift.metric import matcher_named
from ccvae_eval.metrics.matchers.aliked import AlikedMatcher
from ccvae_eval.metrics.matchers.grid import GridMatcher, lattice_of
from ccvae_eval.metrics.matchers.interface import LENGTH, Matcher, grey
from ccvae_eval.metrics.matchers.kornia_sift import KorniaSiftMatcher
from ccvae_eval.metrics.matchers.sift import SiftMatcher
from ccvae_eval.plugins.registry import matchers
from tests.support.edits import textures
from tests.support.paths import SHARED

pytestmark = pytest.mark.oracle

MATCHERS = [GridMatcher(), SiftMatcher(), KorniaSiftMatcher(most=128)]
WEIGHTS = SHARED / "weights/aliked-t16.pth"
NEEDS_WEIGHTS = pytest.mark.skipif(not WEIGHTS.is_file(), reason="shared/weights is missing")
DIGEST = "56782336919d"


def matches(matcher, first, second):
    return matcher.match(matcher.features(first), matcher.features(second))


def correlations(matcher, first, second):
    """Return all correlations of all lattice points of one pair, (K, shifts, shifts), and the patches, (K, p, p)."""
    lattice = lattice_of(matcher, *first.shape)
    patch, search = lattice.patch, lattice.search
    found, patches = [], []
    for x in range(lattice.columns):
        for y in range(lattice.rows):
            top, left = lattice.top + y * lattice.stride, lattice.left + x * lattice.stride
            a = first[top + search :, left + search :][:patch, :patch]
            b = sliding_window_view(second[top:, left:][: lattice.window, : lattice.window], (patch, patch))
            a, b = a - a.mean(), b - b.mean((2, 3), keepdims=True)
            norms = np.sqrt((a**2).sum() * (b**2).sum((2, 3)))
            found.append((a * b).sum((2, 3)) / np.maximum(norms, 1e-12))
            patches.append(a)
    return np.array(found), np.array(patches)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (44, 60)])
def test_grid_is_normalised_cross_correlation(size):
    pictures = torch.cat([textures(2, 64, blur, seed) for seed, blur in enumerate((3, 5))])[..., : size[0], : size[1]]
    first, second = pictures, 0.6 * pictures + 0.4 * pictures.roll(1, 0).roll((1, 1), (2, 3))
    matcher = GridMatcher(corner=0.005)
    found = matches(matcher, first, second)
    a, b = (grey(images).double().numpy() for images in (first, second))
    lattice = lattice_of(matcher, *size)
    shifts = (np.arange(2 * lattice.search + 1) - lattice.search) / lattice.unit
    assert bool(found.matched.any())
    for n in range(len(pictures)):
        expected, _ = correlations(matcher, a[n], b[n])
        flat = expected.reshape(len(expected), -1)
        best, second_best = np.sort(flat)[:, [-1, -2]].T
        y, x = np.unravel_index(flat.argmax(1), expected.shape[1:])
        clear = found.valid[n].numpy() & (best - second_best > 1e-4) & (np.abs(best - matcher.peak) > 1e-4)
        matched = (best >= matcher.peak) & (np.hypot(shifts[x], shifts[y]) <= matcher.reach)
        assert clear.sum() > 20
        np.testing.assert_array_equal(found.matched[n].numpy()[clear], matched[clear])
        both = clear & matched
        np.testing.assert_allclose(found.confidence[n].numpy()[both], best[both], atol=1e-4)
        np.testing.assert_allclose(found.shift[n].numpy()[both], np.stack([shifts[x], shifts[y]], 1)[both], atol=1e-5)


def test_keypoints_have_texture_in_two_directions():
    matcher = GridMatcher(texture=0.05, corner=0.02)
    pictures = torch.cat([textures(2, 64, blur) for blur in (3, 9)])
    found = matcher.features(pictures).textured.numpy()
    for n, picture in enumerate(grey(pictures).double().numpy()):
        _, patches = correlations(matcher, picture, picture)
        lattice = lattice_of(matcher, *picture.shape)
        down, across = (np.gradient(picture, axis=axis) for axis in (0, 1))
        middle = lattice.search + lattice.radius
        expected, clear = [], []
        for index, patch in enumerate(patches):
            x, y = divmod(index, lattice.rows)
            rows, columns = (
                slice(start + step * lattice.stride + middle - 4, start + step * lattice.stride + middle + 5)
                for start, step in ((lattice.top, y), (lattice.left, x))
            )
            gradients = np.stack([across[rows, columns].ravel(), down[rows, columns].ravel()])
            smallest = np.sqrt(max(np.linalg.eigvalsh(gradients @ gradients.T / 81)[0], 0))
            expected.append(patch.std() >= 0.05 and smallest >= 0.02)
            clear.append(abs(patch.std() - 0.05) > 1e-5 and abs(smallest - 0.02) > 1e-5)
        np.testing.assert_array_equal(found[n][clear], np.array(expected)[clear])
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (-1, 1)])
@pytest.mark.parametrize("size", [64, 128])
def test_grid_finds_a_known_shift(shift, size):
    first = textures(3, size, 3 * size // 64)
    pixels = [length * size // LENGTH for length in shift]
    second = first.roll((pixels[1], pixels[0]), (2, 3))

    found = matches(GridMatcher(), first, second)

    assert found.valid.float().mean() > 0.5
    assert bool(found.matched[found.valid].all())
    torch.testing.assert_close(found.shift[found.valid], torch.tensor(shift).float().expand(int(found.valid.sum()), 2))
    torch.testing.assert_close(
        found.displacement[found.valid], torch.full((int(found.valid.sum()),), np.hypot(*shift)).float()
    )


def test_points_that_moved_farther_than_the_reach_are_lost():
    first = textures(3)
    found = matches(GridMatcher(), first, first.roll(3, 3))
    assert not bool(found.matched.any())
    assert bool((found.displacement == 0).all())


def test_grid_is_invariant_to_gain_and_offset():
    first = textures(3)
    found = matches(GridMatcher(), first, 0.5 * first + 0.3)
    assert bool(found.matched[found.valid].all())
    assert bool((found.displacement == 0).all())
    assert float(found.confidence[found.valid].min()) > 0.9999


def test_of_equal_peaks_the_smallest_shift_wins():
    wave = torch.arange(64) % 2 * 0.5 + 0.2
    first = (wave[:, None] + wave[None]).expand(1, 3, 64, 64) / 2
    found = matches(GridMatcher(corner=0.0), first, first)
    assert bool(found.matched[found.valid].all())
    assert bool(found.valid.any())
    assert bool((found.displacement == 0).all())


def test_a_straight_edge_has_no_keypoints():
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 0.8
    assert not bool(GridMatcher().features(edge).textured.any())


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda m: m.name)
def test_blank_images_have_no_matches(matcher):
    blank, rough = torch.full((2, 3, 64, 64), 0.5), textures(2)
    empty = matches(matcher, blank, rough)
    assert empty.valid.sum() == 0
    assert empty.matched.sum() == 0
    lost = matches(matcher, rough, blank)
    assert lost.valid.sum() > 0
    assert lost.matched.sum() == 0
    assert lost.confidence.sum() == 0


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda m: m.name)
def test_an_image_matches_itself(matcher):
    rough = textures(4)
    found = matches(matcher, rough, rough)
    assert bool(found.matched[found.valid].all())
    assert bool((found.displacement == 0).all())
    assert float(found.confidence[found.valid].min()) > 0.999


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda m: m.name)
def test_bits_do_not_depend_on_the_batch(matcher):
    first, second = textures(32), 0.7 * textures(32) + 0.3 * textures(32, seed=1)
    whole = matches(matcher, first, second)
    for rows in (slice(0, 1), slice(3, 20), slice(20, 32)):
        part = matches(matcher, first[rows], second[rows])
        size = part.valid.shape[1]
        for name in ("points", "valid", "matched", "shift", "confidence"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows, :size]), name


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda m: m.name)
@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (2, 1, 64, 64), (2, 3, 8, 8), (1, 3, 1, 1), (2, 2, 40, 64)])
def test_images_of_any_shape_are_accepted(matcher, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = matches(matcher, images, images)
    assert found.valid.shape[0] == shape[0]
    assert found.points.shape == (*found.valid.shape, 2)


def test_results_do_not_depend_on_the_memory_format():
    first, second = textures(2), textures(2, seed=1)
    ordered = matches(GridMatcher(), first, second)
    other = matches(GridMatcher(), *(x.contiguous(memory_format=torch.channels_last) for x in (first, second)))
    torch.testing.assert_close(other.confidence, ordered.confidence)


def test_sift_agrees_with_opencvs_matcher():
    matcher = SiftMatcher()
    first = textures(4)
    second = 0.8 * first.roll(2, 3) + 0.2 * textures(4, seed=1)
    features = matcher.features(first), matcher.features(second)
    found = matcher.match(*features)
    total = 0
    for n, (a, b) in enumerate(zip(*features, strict=True)):
        one, other = (features.descriptors.astype(np.float32) for features in (a, b))
        brute = cv2.BFMatcher(cv2.NORM_L2)
        there = brute.knnMatch(one, other, k=2)
        back = {match.queryIdx: match.trainIdx for (match,) in brute.knnMatch(other, one, k=1)}
        for i, (best, next_best) in enumerate(there):
            ratio = best.distance / next_best.distance
            if abs(ratio - matcher.ratio) < 1e-4:
                continue
            expected = ratio <= matcher.ratio and back[best.trainIdx] == i
            assert bool(found.matched[n, i]) == expected
            if expected:
                total += 1
                assert float(found.confidence[n, i]) == pytest.approx(1 - ratio, abs=1e-4)
                end = found.points[n, i] + found.shift[n, i]
                np.testing.assert_allclose(end, b.points[best.trainIdx], atol=1e-4)
    assert total > 20
    moved = found.shift[found.matched & (found.confidence > 0.5)]
    torch.testing.assert_close(moved.median(0).values, torch.tensor([2.0, 0.0]), atol=0.2, rtol=0)


def test_sift_keeps_one_orientation_per_point():
    images = textures(1)
    features = SiftMatcher().features(images)
    picture = (grey(images) * 255).round().to(torch.uint8).numpy()[0]
    raw = cv2.SIFT.create(contrastThreshold=0.01).detect(picture, None)
    distinct = {(p.pt, p.size) for p in raw}
    assert len(distinct) < len(raw)
    assert len(features[0].points) == len(distinct)


def test_a_single_candidate_is_not_matched():
    matcher = SiftMatcher()
    rough = matcher.features(textures(1))
    lone = [type(rough[0])(rough[0].points[:1], rough[0].descriptors[:1])]
    assert not bool(matcher.match(rough, lone).matched.any())


@pytest.mark.parametrize("name", ["grid", "sift", "kornia-sift", "aliked", "lightglue"])
def test_matchers_are_registered_and_implement_the_interface(name):
    matcher = matchers[name]()
    assert isinstance(matcher, Matcher)
    assert matcher.name == name
    assert matcher == matchers[name]()


@pytest.mark.slow
def test_kornia_keypoints_follow_a_shift():
    first = textures(4)
    found = matches(KorniaSiftMatcher(), first, 0.8 * first.roll(2, 3) + 0.2 * textures(4, seed=1))
    moved = found.shift[found.matched & (found.confidence > 0.3)]
    assert len(moved) > 8
    torch.testing.assert_close(moved.median(0).values, torch.tensor([2.0, 0.0]), atol=0.3, rtol=0)


@NEEDS_WEIGHTS
def test_aliked_with_the_users_weights():
    matcher = matcher_named(f"aliked,weights={WEIGHTS},sha256={DIGEST}")
    assert isinstance(matcher, AlikedMatcher)
    first = textures(2)
    before = torch.get_rng_state()
    itself = matches(matcher, first, first)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(itself.valid.sum()) > 50
    assert bool(itself.matched[itself.valid].all())
    assert float(itself.displacement.max()) == 0
    found = matches(matcher, first, 0.8 * first.roll(2, 3) + 0.2 * textures(2, seed=1))
    moved = found.shift[found.matched & (found.confidence > 0.3)]
    torch.testing.assert_close(moved.median(0).values, torch.tensor([2.0, 0.0]), atol=0.3, rtol=0)
    blank = torch.full((1, 3, 64, 64), 0.5)
    assert not bool(matches(matcher, blank, first[:1]).valid.any())
    assert matches(matcher, torch.rand(1, 2, 40, 64), torch.rand(1, 2, 40, 64)).valid.shape[0] == 1


@NEEDS_WEIGHTS
def test_aliked_refuses_wrong_weights():
    with pytest.raises(CheckpointError, match="the file does not match sha256="):
        matcher_named(f"aliked,weights={WEIGHTS},sha256=0123456789").features(textures(1))
    with pytest.raises(UsageError, match="needs the sha256"):
        matcher_named(f"aliked,weights={WEIGHTS}").features(textures(1))
    with pytest.raises(CheckpointError, match="not the weights"):
        matcher_named(f"aliked,weights={WEIGHTS},sha256={DIGEST},model=aliked-n16").features(textures(1))


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Return files with random weights of both networks, named as the authors name them, and their digests."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        glue = LightGlue(None, input_dim=64, depth_confidence=-1, width_confidence=-1, flash=False, filter_threshold=0)
        finder = ALIKED("aliked-t16", max_num_keypoints=-1, detection_threshold=0.2)
    published = {}
    for name, tensor in glue.state_dict().items():
        _, _, rest = name.partition("transformers.")
        layer, _, what = rest.partition(".")
        kind, _, parameter = what.partition(".")
        published[f"{kind}.{layer}.{parameter}" if rest else name] = tensor
    assert "self_attn.0.Wqkv.weight" in published
    files = {"weights": published, "detector": finder.state_dict()}
    found = {}
    for key, tensors in files.items():
        torch.save(tensors, folder / f"{key}.pth")
        found[key] = folder / f"{key}.pth", sha256((folder / f"{key}.pth").read_bytes()).hexdigest()
    return found, glue.eval()


def lightglue(files, **more):
    (weights, digest), (detector, other) = files["weights"], files["detector"]
    settings = {"weights": weights, "sha256": digest, "detector": detector, "detector_sha256": other}
    settings |= {"model": "aliked-t16", "threshold": 0.0, "sure": 0.0, **more}
    return matcher_named("lightglue," + ",".join(f"{key}={value}" for key, value in settings.items()))


def test_lightglue_matches_like_kornias_network(random_weights, monkeypatch):
    monkeypatch.setattr("kornia.feature.lightglue.load_state_dict_from_url", None)  # nothing is downloaded
    files, network = random_weights
    matcher = lightglue(files)
    first = textures(2)
    second = 0.8 * first.roll(2, 3) + 0.2 * textures(2, seed=1)
    sides = [matcher.features(x) for x in (first, second)]
    found = matcher.match(*sides)
    for row in range(2):
        pair = [
            {
                "keypoints": torch.from_numpy(side[row].points)[None] * 2 - 0.5,  # 128 pixels for 64 units
                "descriptors": torch.from_numpy(side[row].descriptors).float()[None],
                "image_size": torch.tensor([[128, 128]]),
            }
            for side in sides
        ]
        with torch.no_grad():
            output = network({"image0": pair[0], "image1": pair[1]})
        partners = output["matches0"][0]
        count = len(partners)
        assert int(found.valid[row].sum()) == count > 20
        assert torch.equal(found.matched[row, :count], partners >= 0)
        assert bool(found.matched[row].any())
        torch.testing.assert_close(
            found.confidence[row, :count], output["matching_scores0"][0] * (partners >= 0), atol=1e-6, rtol=0
        )
        here = found.matched[row]
        points = found.points[row, here] + found.shift[row, here]
        torch.testing.assert_close(points, torch.from_numpy(sides[1][row].points)[partners[partners >= 0]])
    alone = matcher.match(sides[0][1:], sides[1][1:])
    count = int(alone.valid.sum())
    assert torch.equal(alone.matched[0, :count], found.matched[1, :count])
    blank = matcher.features(torch.full((1, 3, 8, 8), 0.5))
    assert not bool(matcher.match(blank, sides[1][:1]).valid.any())


def test_lightglue_refuses_wrong_weights(random_weights):
    files, _ = random_weights
    swapped = {"weights": files["detector"], "detector": files["weights"]}
    picture = textures(1)
    with pytest.raises(CheckpointError, match="not the weights of LightGlue"):
        lightglue(swapped).features(picture)
    with pytest.raises(CheckpointError, match="not the weights of aliked-t16"):
        lightglue({**files, "detector": files["weights"]}).features(picture)
    with pytest.raises(CheckpointError, match="not the weights of LightGlue for aliked-n16"):
        lightglue(files, model="aliked-n16").features(picture)
    with pytest.raises(CheckpointError, match="the file does not match sha256="):
        lightglue(files, sha256="0123456789").features(picture)
    with pytest.raises(UsageError, match="needs the sha256"):
        lightglue(files, detector_sha256="").features(picture)
    with pytest.raises(UsageError, match="unknown ALIKED variant"):
        lightglue(files, model="aliked").features(picture)


REFUSED = [
    ("aliked", "needs weights"),
    ("lightglue", "lightglue needs weights"),
    ("sift,ratoi=1", "Did you mean 'ratio'"),
    ("sift,ratio=x", "must be a number"),
    ("sfit", "Did you mean 'sift'"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_an_unknown_or_incomplete_matcher_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        matcher_named(text).features(textures(1))
