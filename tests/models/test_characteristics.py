"""Blocks of latent dimensions, initial class means, and quadrature rules."""

from __future__ import annotations

import itertools

import pytest
import torch
from ccvae_models.characteristics import class_directions, label_blocks, pick
from ccvae_models.quadrature import quasi_random, trapezoid

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.model.interface import Label, LabelSchema

HAIR = Label("Hair", "categorical", ("Bald", "Black", "Blond", "Brown", "Gray"))
SCHEMA = LabelSchema((Label("Glasses"), HAIR, Label("Twins", "categorical", ("no", "yes"))))


@pytest.mark.parametrize(("classes", "dimensions"), list(itertools.product([2, 3, 4, 5, 10], [1, 2, 3, 4, 9])))
def test_initial_class_means_differ(classes: int, dimensions: int) -> None:
    directions = class_directions(classes, dimensions)
    assert directions.shape == (classes, dimensions)
    distances = torch.pdist(directions)
    assert distances.min().item() > 1e-2
    if dimensions > 1:
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(classes))


@pytest.mark.parametrize("classes", [3, 4, 5, 10])
def test_k_minus_1_dimensions_hold_a_regular_simplex(classes: int) -> None:
    distances = torch.pdist(class_directions(classes, classes - 1))
    torch.testing.assert_close(distances, distances[:1].expand_as(distances))


def test_labels_own_consecutive_blocks() -> None:
    assert label_blocks(SCHEMA, block=1, class_block=2) == {"Glasses": (0,), "Hair": (1, 2), "Twins": (3,)}
    assert label_blocks(SCHEMA, block=3, class_block=9) == {
        "Glasses": (0, 1, 2),
        "Hair": (3, 4, 5, 6),
        "Twins": (7, 8, 9),
    }


def test_pick_selects_the_given_classes() -> None:
    values = torch.arange(12.0).reshape(2, 2, 3)
    assert pick(values, torch.tensor([[0, 2], [1, 1]])).tolist() == [[0, 5], [7, 10]]


@pytest.mark.parametrize(("points", "rank"), [(129, 1), (33, 2)])
def test_the_trapezoid_rule_has_the_moments_of_a_gaussian(points: int, rank: int) -> None:
    rule = trapezoid(points, rank)
    p = rule.log_weights.exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert (p @ rule.nodes).tolist() == pytest.approx([0] * rank, abs=1e-12)
    second = torch.einsum("p,pi,pj->ij", p, rule.nodes, rule.nodes)
    torch.testing.assert_close(second, torch.eye(rank, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (p @ rule.nodes**4).tolist() == pytest.approx([3] * rank, abs=1e-8)


def test_quasi_random_draws_are_normal_and_depend_on_the_generator() -> None:
    first, again = (quasi_random(256, 4, torch_stream(0, "shift")) for _ in range(2))
    other = quasi_random(256, 4, torch_stream(1, "shift"))
    assert torch.equal(first.nodes, again.nodes)
    assert not torch.equal(first.nodes, other.nodes)
    assert first.nodes.mean(0).abs().max().item() < 0.03
    assert (first.nodes.T.cov() - torch.eye(4)).abs().max().item() < 0.1
