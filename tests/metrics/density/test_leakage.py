"""Leakage of labels into other latent dimensions, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.model.interface import LatentLayout
from tests.support.densities import LAYOUT, QUICK, SCHEMA, measured, two_labels, value
from tests.support.fakes import Squares, SquaresVAE, table_subject

pytestmark = pytest.mark.oracle


def test_leakage_within_strata_equals_its_closed_form():
    """The code of a shifts by .8 with b: within either class of a, the area for b is Phi(.8 / sqrt 2)."""
    codes, labels = two_labels(leak=0.8)
    run = measured(table_subject(codes, labels, SCHEMA, LAYOUT))
    found = value(run, "cross_auc", "a", judged="b")
    expected = norm.cdf(0.8 / math.sqrt(2))
    assert found.estimate.low < expected < found.estimate.high
    assert found.estimate.value == pytest.approx(expected, abs=0.03)
    back = value(run, "cross_auc", "b", judged="a").estimate
    assert back.low < 0.5 < back.high
    mean = (found.estimate.value + back.value) / 2
    assert value(run, "cross_auc").estimate.value == pytest.approx(mean, abs=1e-12)


def test_correlated_labels_do_not_count_as_leakage():
    data = Squares(1500, agreement=0.7)
    run = measured(prepare(SquaresVAE(), data, np.arange(1500)))
    within = value(run, "cross_auc", "Glasses", judged="Smile").estimate
    assert within.low < 0.5 < within.high
    over_all = value(run, "cross_auc", "Glasses", judged="Smile", stratum="none")
    labels = data.labels_of(np.arange(1500))
    assert over_all.reference == pytest.approx(roc_auc_score(labels[:, 1], labels[:, 0]), abs=1e-12)
    assert over_all.estimate.value == pytest.approx(over_all.reference, abs=0.04)
    assert over_all.estimate.low > 0.7


def test_a_label_in_the_style_is_found_by_the_regression():
    """Half of the information in each of two style dimensions: the area is Phi(sqrt(.7^2 + .7^2) / sqrt 2)."""
    codes, labels = two_labels()
    codes[:, 2:] += 0.7 * labels[:, :1] * torch.tensor([1.0, -1.0])
    run = measured(table_subject(codes, labels, SCHEMA, LAYOUT))
    assert value(run, "style_auc", "a").estimate.value == pytest.approx(norm.cdf(0.7), abs=0.03)
    assert value(run, "style_auc", "b").estimate.value == pytest.approx(0.5, abs=0.03)
    assert value(run, "style_knn_kl", "a").estimate.value == pytest.approx(0.7**2, abs=0.1)
    assert value(run, "style_knn_kl", "b").estimate.value == pytest.approx(0, abs=0.05)


def test_nonlinear_leakage_into_the_style_is_found_by_neighbours_only():
    """The classes occupy opposite corners, which no line separates; the divergence is known from the densities."""
    codes, labels = two_labels()
    rng = np.random.default_rng(1)
    side, present = rng.choice([-1.0, 1.0], len(codes)), 2 * labels[:, 0].numpy() - 1
    codes[:, 2:] += torch.from_numpy(0.7 * np.stack([side, side * present], 1))
    run = measured(table_subject(codes, labels, SCHEMA, LAYOUT))
    assert value(run, "style_auc", "a").estimate.value == pytest.approx(0.5, abs=0.03)

    def density(x, sign):
        one, two = ((x - corner * np.array([1, sign])) ** 2 for corner in (0.7, -0.7))
        return np.exp(-one.sum(1) / 2) + np.exp(-two.sum(1) / 2)

    draws = rng.choice([-0.7, 0.7], (400_000, 1)) + rng.standard_normal((400_000, 2))
    known = np.log(density(draws, 1) / density(draws, -1)).mean()
    whole = value(run, "style_knn_kl", "a")
    assert whole.estimate.low < known < whole.estimate.high
    assert whole.estimate.value == pytest.approx(known, abs=0.06)
    assert whole.chance == pytest.approx(0, abs=0.05)


def test_the_quadratic_probe_finds_nonlinear_leakage():
    """The label is the sign of a product of two style dimensions."""
    rng = np.random.default_rng(0)
    codes, labels = two_labels()
    style = rng.standard_normal((len(codes), 2))
    hidden = torch.from_numpy(style[:, 0] * style[:, 1] > 0).to(labels.dtype)
    labels = torch.stack([labels[:, 0], hidden], 1)
    layout = LatentLayout(4, {name: (index,) for index, name in enumerate(SCHEMA.names)})
    table = torch.cat([codes[:, :2].double(), torch.from_numpy(style)], 1)
    linear, quadratic = (
        measured(table_subject(table, labels, SCHEMA, layout), replace(QUICK, probe=probe))
        for probe in ("linear", "quadratic")
    )
    name = SCHEMA.names[1]
    assert linear[f"density.style_auc@{name}"] == pytest.approx(0.5, abs=0.05)
    assert quadratic[f"density.style_auc@{name}"] > 0.99
    assert linear[f"density.auc@{name}"] == quadratic[f"density.auc@{name}"]
