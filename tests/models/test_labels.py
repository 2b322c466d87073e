"""Observed and missing labels, and tables over classes."""

from __future__ import annotations

import math

import pytest
import torch
from ccvae_models.labels import (
    ClassGaussians,
    LabelEncoding,
    entropy,
    expected,
    observed_classes,
    observed_log_prob,
    pick,
    require_discrete_labels,
)

from ccvae_eval.core.errors import UsageError
from ccvae_eval.model.interface import ModelContext
from tests.support.small_models import PRIOR, SCHEMA

NAN = math.nan
LABELS = torch.tensor([[1.0, 2.0, NAN], [NAN, 0.0, 1.0]])
TABLE = torch.arange(18.0).reshape(2, 3, 3)


def test_missing_labels_are_masked() -> None:
    value, observed = observed_classes(LABELS)
    assert value.tolist() == [[1, 2, 0], [0, 0, 1]]
    assert observed.tolist() == [[True, True, False], [False, True, True]]


def test_pick_selects_the_given_classes() -> None:
    values = torch.arange(12.0).reshape(2, 2, 3)
    assert pick(values, torch.tensor([[0, 2], [1, 1]])).tolist() == [[0, 5], [7, 10]]


def test_a_missing_label_has_no_log_probability() -> None:
    assert observed_log_prob(TABLE, LABELS).tolist() == [[1, 5, 0], [0, 12, 16]]


def test_expectations_over_the_classes() -> None:
    p = torch.tensor([0.5, 0.25, 0.25]).expand(2, 3, 3)
    torch.testing.assert_close(expected(p.log(), TABLE), TABLE[..., 0] + 0.75)
    torch.testing.assert_close(entropy(p.log()), torch.full((2, 3), 1.5 * math.log(2)))


def test_each_label_has_the_gaussian_of_its_class() -> None:
    gaussians = ClassGaussians()
    gaussians.start_at(torch.arange(18.0).reshape(3, 3, 2))
    chosen = gaussians.of_class(torch.tensor([[1, 2, 0]]))
    assert chosen.loc.tolist() == [[[2, 3], [10, 11], [12, 13]]]
    torch.testing.assert_close(chosen.scale, torch.full((1, 3, 2), math.log(1 + math.e)))


def test_a_missing_label_is_encoded_as_its_expectation() -> None:
    encoding = LabelEncoding(ModelContext(SCHEMA, (4,), PRIOR))
    found = encoding.encode(LABELS, encoding.prior(2))
    torch.testing.assert_close(found, torch.tensor([[1, 0, 0, 1, 0.625], [0.25, 1, 0, 0, 1]]))
    assert encoding.point_mass(LABELS).loc.isnan().tolist() == [[False] * 4 + [True], [True] + [False] * 4]


def test_a_prior_that_does_not_match_the_labels_is_refused() -> None:
    with pytest.raises(UsageError, match="p\\(y\\) is given for 2 of 3 labels"):
        require_discrete_labels(ModelContext(SCHEMA, (1, 8, 8), PRIOR[:2]), "m2")
    with pytest.raises(UsageError, match="p\\(y\\) must have 2 classes, got 1"):
        require_discrete_labels(ModelContext(SCHEMA, (1, 8, 8), ((1.0,), *PRIOR[1:])), "m2")
