"""Blocks of latent dimensions, class priors, and quadrature rules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from ccvae_models.characteristics import ClassPriors, class_directions, group_by_classes, label_blocks
from ccvae_models.quadrature import quasi_random, trapezoid
from torch.distributions import Normal, kl_divergence

from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.core.types import Gaussian
from ccvae_eval.model.interface import Label, LabelSchema, ModelContext

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


BLOCKS = label_blocks(SCHEMA, block=1, class_block=2)
PRIORS = ClassPriors(SCHEMA, BLOCKS, 2.0)
CODES = torch.randn(3, 5, generator=torch_stream(0, "codes"))


def test_narrow_blocks_are_padded() -> None:
    assert PRIORS.select(CODES).tolist() == [
        [[z[0], 0], [z[1], z[2]], [z[3], 0]] for z in CODES.tolist()
    ]  # fmt: skip
    assert (PRIORS.posterior(Gaussian(CODES, CODES.abs())).scale[:, [0, 2], 1] == 1).all()


def test_the_padding_enters_no_density_and_no_divergence() -> None:
    p = Normal(PRIORS.all_classes.loc, PRIORS.all_classes.scale)
    expected = p.log_prob(torch.nan_to_num(PRIORS.select(CODES)).unsqueeze(2))
    found = PRIORS.log_prob(CODES)
    torch.testing.assert_close(found[:, 0], expected[:, 0, :, 0])
    torch.testing.assert_close(found[:, 1], expected[:, 1].sum(-1))
    q, y = Gaussian(CODES, CODES.abs() + 0.1), torch.tensor([[1.0, 2.0, 0.0]]).expand(3, -1)
    kl = PRIORS.kl(q, y)
    own = kl_divergence(Normal(q.loc[:, 0], q.scale[:, 0]), Normal(PRIORS.loc[0, 1, 0], p.scale[0, 1, 0]))
    torch.testing.assert_close(kl[:, 0], own)


def test_a_missing_label_has_no_prior_and_no_divergence() -> None:
    y = torch.tensor([[1.0, math.nan, 0.0]])
    prior = PRIORS.conditional(y)
    assert prior.loc.isnan().tolist() == prior.scale.isnan().tolist() == [[False, True, True, False]]
    kl = PRIORS.kl(Gaussian(CODES[:1], CODES[:1].abs()), y)
    assert kl[0, 1] == 0
    assert (kl[0, [0, 2]] > 0).all()


def test_groups_by_number_of_classes_start_at_the_priors_of_the_padded_table() -> None:
    context = ModelContext(SCHEMA, (4,), ((0.5, 0.5), (0.2,) * 5, (0.3, 0.7)))
    groups = group_by_classes(context, BLOCKS, 2.0, points=9, draws=8)
    assert {name: group.indices for name, group in groups.items()} == {"classes2": [0, 2], "classes5": [1]}
    y = torch.tensor([[1.0, 4.0, math.nan], [0.0, 2.0, 1.0]])
    expected = PRIORS.conditional(y).loc
    for group in groups.values():
        torch.testing.assert_close(group.conditional(y).loc, expected[:, group.dimensions], equal_nan=True)
        torch.testing.assert_close(group.log_prob(CODES), PRIORS.log_prob(CODES)[:, group.indices, : group.classes])


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
