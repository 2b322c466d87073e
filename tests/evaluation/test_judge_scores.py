"""What the judge's opinions are made into."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ccvae_eval.evaluation.judge_scores import (
    JudgeReliability,
    judged_shift,
    kept_share,
    own_response,
    probability_of,
    seen_as,
)
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.locality.metric import Locality
from tests.support.fakes import Squares, SquaresJudge, SquaresVAE

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


class Confused(SquaresJudge):
    """Takes a smile wherever it sees glasses."""

    def log_probabilities(self, images):
        told = dict(super().log_probabilities(images))
        return told | {"Smile": told["Glasses"]}


def test_the_judges_own_response_is_found_and_told():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=SquaresJudge())
    clear = own_response(subject)
    assert clear["Glasses", "Glasses"] > 0.95
    assert max(share for (i, j), share in clear.items() if i != j) < 1e-6
    muddled = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=Confused())
    assert own_response(muddled)["Glasses", "Smile"] > 0.95
    assert own_response(muddled)["Smile", "Smile"] < 1e-6
    notes = evaluate(muddled, [Locality(steps=3)]).measurement("locality").notes
    assert any("Glasses moves Smile by 1.00" in note for note in notes)
    assert any(note.startswith("the judge's balanced accuracy") and "Glasses 1.00" in note for note in notes)


class Examined(SquaresJudge):
    record = SimpleNamespace(balanced_accuracy={"Glasses": 0.97})


def test_a_trained_judge_is_told_by_its_accuracy_on_real_images_too():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=Examined())
    notes = evaluate(subject, [Locality(steps=3)]).measurement("locality").notes
    (told,) = (note for note in notes if note.startswith("the judge's balanced accuracy"))
    assert "(of real images)" in told
    assert "Glasses 1.00 (0.97)" in told
    assert any("none moves another by more than 0.05" in note for note in notes)


def test_without_counterfactuals_nothing_is_known_of_the_judges_own_response():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64))
    assert own_response(subject) == {}


def test_two_reconstructions_at_random_are_seen_alike_as_often_as_all_pairs_say():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=SquaresJudge())
    agreement = JudgeReliability(subject)
    for chunk in subject.chunks():
        agreement.update(Decoded(subject, chunk, "", subject.decode(chunk.codes), {}))
    seen = subject.judge.log_probabilities(subject.decode(subject.codes))["Hair"].argmax(1).numpy()
    pairs = [seen[a] == seen[b] for a in range(64) for b in range(64) if a != b]
    assert agreement.alike("Hair") == pytest.approx(np.mean(pairs))
