"""``ois`` and ``icl`` against closed forms and scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import mutual_info_score, roc_auc_score

from ccvae_eval.metrics.density import impurity
from ccvae_eval.metrics.density.impurity import _normalised_information
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout, binary_schema
from tests.support.densities import LAYOUT, QUICK, SCHEMA, measured, two_labels, value
from tests.support.fakes import table_subject

pytestmark = pytest.mark.oracle


def found_on(codes, labels, schema=SCHEMA, layout=LAYOUT, metric=QUICK):
    return measured(table_subject(codes, labels, schema, layout), metric)


def area(shift: float, other: float, p: float) -> float:
    """Area of a code that shifts with its label, and with another one that is present with probability p."""
    shares = (p * (1 - p), p**2 + (1 - p) ** 2, p * (1 - p))
    return sum(w * norm.cdf((shift + k * other) / math.sqrt(2)) for w, k in zip(shares, (-1, 0, 1), strict=True))


def test_ois_is_the_distance_of_two_matrices_of_areas():
    codes, labels = two_labels(leak=0.8)
    found = value(found_on(codes, labels), "ois")
    z, y = codes.numpy().astype(np.float32), labels.numpy()
    from_codes = np.array([[roc_auc_score(y[:, j], z[:, i]) for j in range(2)] for i in range(2)])
    from_labels = np.array([[max(a := roc_auc_score(y[:, j], y[:, i]), 1 - a) for j in range(2)] for i in range(2)])
    # the sign of an area near chance is fitted to the other folds
    from_codes[1, 0] = min(from_codes[1, 0], 1 - from_codes[1, 0])
    assert found.estimate.value == pytest.approx(np.linalg.norm(from_codes - from_labels), abs=0.02)
    assert found.chance == pytest.approx(np.linalg.norm(0.5 - from_labels), abs=1e-9)


def test_ois_equals_its_closed_form():
    """Areas over mixtures of the other label, present with .4 (a) or .5 (b): the code of a also shifts by .8 with b."""
    codes, labels = two_labels(n=3000, leak=0.8)
    found = value(found_on(codes, labels), "ois").estimate

    blurred, leaked, own = area(2, 0.8, 0.5), area(0.8, 2, 0.4), area(2, 0, 0.5)
    expected = np.linalg.norm([1 - blurred, leaked - 0.5, 1 - own])
    assert found.low < expected < found.high
    assert found.value == pytest.approx(expected, abs=0.02)


def test_correlated_labels_are_no_impurity_and_no_leakage():
    codes, labels = two_labels(n=1000, shift=0.0)
    labels[:, 1] = torch.where(torch.arange(1000) % 5 == 0, labels[:, 1], labels[:, 0])
    codes[:, :2] += 8 * labels
    run = found_on(codes, labels)
    assert run["density.ois"] < 0.06
    assert run["density.icl"] < 0.01
    assert value(run, "ois").chance > 0.8
    assert value(run, "cross_auc", "a", judged="b", stratum="none").estimate.value > 0.8


def test_normalised_information_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 50_000)
    b = np.where(rng.random(50_000) < 0.5, a, rng.integers(0, 3, 50_000))
    entropies = [-(p * np.log(p)).sum() for p in (np.bincount(x) / len(x) for x in (a, b))]
    expected = mutual_info_score(a, b) / math.sqrt(entropies[0] * entropies[1])
    found = _normalised_information(a, [b, a, np.zeros_like(a), np.full_like(a, -1)])
    assert found == pytest.approx([expected, 1.0, 0.0, 0.0], abs=1e-3)
    assert _normalised_information(np.full_like(a, -1), [b]) == 0.0
    assert not len(_normalised_information(a, []))


@pytest.mark.parametrize("cells", [1, 1 << 17, 1 << 30])
def test_information_is_that_of_each_pair_on_its_common_images(cells, monkeypatch):
    monkeypatch.setattr(impurity, "MAX_CELLS", cells)
    rng = np.random.default_rng(0)
    first, *others = (rng.integers(-1, classes, 3000) for classes in (5, 2, 300, 4, 4))
    found = _normalised_information(first, others)
    for other, information in zip(others, found, strict=True):
        both = (first >= 0) & (other >= 0)
        assert _normalised_information(first[both], [other[both]]) == pytest.approx(information, rel=1e-12)


def test_icl_of_codes_that_share_their_noise():
    """Independent labels; the codes are jointly normal within the classes, and one bit each is their own."""
    rng = np.random.default_rng(0)
    labels = (rng.random((1500, 2)) < 0.5).astype(float)
    shared, own = rng.standard_normal((1500, 1)), rng.standard_normal((1500, 2))
    values = []
    for correlation in (0.0, 0.9):
        noise = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        codes = torch.from_numpy(np.column_stack([noise + 6 * labels, own[:, :2]]))
        estimate = value(found_on(codes, torch.from_numpy(labels)), "icl").estimate
        assert estimate.low <= estimate.value <= estimate.high
        values.append(estimate.value)
    # I = -log(1 - r^2) / 2 within classes that do not overlap
    information, entropy = -math.log(1 - 0.9**2) / 2, math.log(20)
    assert values[0] < 0.005
    assert values[0] < values[1] < information / entropy
    assert values[1] == pytest.approx(information / entropy, abs=0.08)


def test_several_dimensions_and_classes():
    rng = np.random.default_rng(0)
    schema = LabelSchema((Label("a"), Label("hair", "categorical", ("x", "y", "z"))))
    labels = np.column_stack([rng.integers(0, 2, 800), rng.integers(0, 3, 800)]).astype(float)
    codes = rng.standard_normal((800, 4))
    codes[:, 0] += 6 * labels[:, 0]
    codes[:, 2] += 6 * (labels[:, 1] == 1)
    codes[:, 3] += 6 * (labels[:, 1] == 2)
    layout = LatentLayout(4, {"a": (0, 1), "hair": (2, 3)})
    pure = found_on(torch.from_numpy(codes), torch.from_numpy(labels), schema, layout)
    assert pure["density.ois"] < 0.08
    assert pure["density.icl"] < 0.02
    codes[:, 1] += 6 * (labels[:, 1] == 1)
    leaking = found_on(torch.from_numpy(codes), torch.from_numpy(labels), schema, layout)
    assert value(leaking, "ois").estimate.low > pure["density.ois"]


def test_one_characteristic_has_nothing_to_leak_into():
    codes, labels = two_labels()
    run = found_on(codes, labels[:, :1], binary_schema("a"), LatentLayout(4, {"a": (0,)}))
    for name in ("ois", "icl"):
        assert value(run, name).note == "there is no other label to compare"


def test_few_images_have_no_interval_of_icl():
    codes, labels = two_labels(n=200)
    found = value(found_on(codes, labels), "icl")
    assert math.isnan(found.estimate.low)
    assert found.note.startswith("no interval: subsamples must have at least 50 images")


def mixed(n: int, seed: int, degrees: float = 20.0):
    codes, labels = two_labels(n=n, shift=4.0, seed=seed)
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    rotated = codes.clone()
    rotated[:, 0], rotated[:, 1] = cos * codes[:, 0] - sin * codes[:, 1], sin * codes[:, 0] + cos * codes[:, 1]
    return rotated, labels


def areas_of_mixed(degrees: float) -> np.ndarray:
    """Area of label j from the i-th rotated code, over mixtures of the other label."""
    sin, cos = 4 * math.sin(math.radians(degrees)), 4 * math.cos(math.radians(degrees))
    shares = (0.4, 0.5)
    return np.array(
        [[area(*((cos, sin) if i == j else (sin, cos)), shares[1 - j]) for j in range(2)] for i in range(2)]
    )


AREAS_ONLY = replace(QUICK, curve_draws=50, permutations=2, neighbours=1)


@pytest.mark.parametrize("draws", [pytest.param(10, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.soak)])
def test_the_intervals_cover(draws):
    """``ois``: the closed form. ``icl``: the mean over samples of the same size, which have as many bins."""
    true = np.linalg.norm(areas_of_mixed(20.0) - [[1, 0.5], [0.5, 1]])
    found = [found_on(*mixed(1000, seed), metric=AREAS_ONLY) for seed in range(draws)]
    areas, shared = ([value(run, name).estimate for run in found] for name in ("ois", "icl"))
    mean = np.mean([e.value for e in shared])
    for estimates, truth in ((areas, true), (shared, mean)):
        assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.9
