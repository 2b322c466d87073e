"""What the judge's opinions are made into."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.metrics.judging import judged_shift, kept_share, probability_of, seen_as

TOLD = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]).log()
FLAT = torch.full((2, 3), 1 / 3).log()


def test_the_shift_of_a_binary_label_is_the_change_of_its_probability() -> None:
    before, after = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.35, 0.65]]).log()
    assert judged_shift(before, after)[0] == pytest.approx(0.55, abs=1e-6)


def test_the_shift_is_symmetric_and_none_for_the_same_opinion() -> None:
    assert judged_shift(TOLD, FLAT) == pytest.approx(judged_shift(FLAT, TOLD))
    assert (judged_shift(TOLD, TOLD) == 0).all()


def test_an_unknown_class_has_no_probability_and_is_never_seen() -> None:
    classes = torch.tensor([0, -1])
    probability = probability_of(TOLD, classes)
    assert probability[0] == pytest.approx(0.7, abs=1e-6)
    assert np.isnan(probability[1])
    assert list(seen_as(TOLD, classes)) == [True, False]


def test_kept_is_the_share_of_images_with_the_same_answer() -> None:
    turned = TOLD.flip(1)
    assert list(kept_share(TOLD, [TOLD, turned, TOLD, turned])) == [0.5, 0.5]
