"""Scores from the judge and its reliability."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ccvae_eval.evaluation.judge_scores import (
    JudgeReliability,
    classified_as,
    judge_response,
    judged,
    probability_of,
    total_variation,
    unchanged_share,
)
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.locality.metric import Locality
from tests.support.fakes import GradedJudge, GradedSquares, GradedSquaresVAE, Squares, SquaresJudge, SquaresVAE

LOG_PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]).log()
FLAT = torch.full((2, 3), 1 / 3).log()


def test_the_total_variation_of_a_binary_label_is_the_change_of_its_probability() -> None:
    before, after = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.35, 0.65]]).log()
    assert total_variation(before, after)[0] == pytest.approx(0.55, abs=1e-6)


def test_the_total_variation_is_symmetric_and_zero_for_equal_distributions() -> None:
    assert total_variation(LOG_PROBS, FLAT) == pytest.approx(total_variation(FLAT, LOG_PROBS))
    assert (total_variation(LOG_PROBS, LOG_PROBS) == 0).all()


def test_an_unknown_class_has_no_probability_and_is_never_predicted() -> None:
    classes = torch.tensor([0, -1])
    probability = probability_of(LOG_PROBS, classes)
    assert probability[0] == pytest.approx(0.7, abs=1e-6)
    assert np.isnan(probability[1])
    assert list(classified_as(LOG_PROBS, classes)) == [True, False]


def test_the_unchanged_share_counts_images_of_the_same_class() -> None:
    turned = LOG_PROBS.flip(1)
    assert list(unchanged_share(LOG_PROBS, [LOG_PROBS, turned, LOG_PROBS, turned])) == [0.5, 0.5]


class Confused(SquaresJudge):
    """Predicts a smile wherever it predicts glasses."""

    def log_probabilities(self, images):
        log_probs = dict(super().log_probabilities(images))
        return log_probs | {"Smile": log_probs["Glasses"]}


def test_the_judge_response_is_measured_and_noted():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=SquaresJudge())
    clear = judge_response(subject)
    assert clear["Glasses", "Glasses"] > 0.95
    assert max(change for (i, j), change in clear.items() if i != j) < 1e-6
    muddled = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=Confused())
    assert judge_response(muddled)["Glasses", "Smile"] > 0.95
    assert judge_response(muddled)["Smile", "Smile"] < 1e-6
    notes = measure(muddled, [Locality(steps=3)]).measurement("locality").notes
    assert any("Glasses moves Smile by 1.00" in note for note in notes)
    assert any(note.startswith("the judge's balanced accuracy") and "Glasses 1.00" in note for note in notes)


def test_the_reliability_of_a_continuous_label_is_a_rank_correlation():
    class Blurred(GradedJudge):
        """Errors of the judged value grow with the brightness of another square."""

        def log_probabilities(self, images):
            found = dict(super().log_probabilities(images))
            return found | {"Smile": found["Smile"] + 60 * images[:, :1, 0, 0]}

    data = GradedSquares(200)
    for judge, trusted in ((GradedJudge(), True), (Blurred(), False)):
        subject = prepare(GradedSquaresVAE(), data, np.arange(200), judge=judge)
        reliability = JudgeReliability(subject)
        for chunk in subject.chunks():
            reliability.update(Decoded(subject, chunk, "", subject.decode(chunk.codes), {}))
        values = judge.log_probabilities(subject.decode(subject.codes))["Smile"][:, 0].double()
        levels = subject.levels("Smile")
        # beyond the levels, the judged value is that of the last level
        places = np.interp(values, levels, np.linspace(0, 1, len(levels)))
        expected = spearmanr(places, subject.column("Smile")).statistic
        assert reliability.accuracy["Smile"] == pytest.approx(expected, abs=1e-9)
        assert ("Smile" in reliability.trusted) == trusted
        assert reliability.notes()[0].startswith("the judge's balanced accuracy (continuous: rank correlation) on the")
        why = reliability.why_not("Smile")
        expected_reason = f"the judged values of the reconstructions correlate with the label by only {expected:.2f}"
        assert why == ("" if trusted else expected_reason)


class ValidatedJudge(SquaresJudge):
    record = SimpleNamespace(balanced_accuracy={"Glasses": 0.97})


def test_the_notes_give_the_accuracy_of_a_trained_judge_on_real_images():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=ValidatedJudge())
    notes = measure(subject, [Locality(steps=3)]).measurement("locality").notes
    (accuracy,) = (note for note in notes if note.startswith("the judge's balanced accuracy"))
    assert "(on real images)" in accuracy
    assert "Glasses 1.00 (0.97)" in accuracy
    assert any("none moves another by more than 0.05" in note for note in notes)


def test_the_judge_response_is_empty_without_a_judge():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64))
    assert judge_response(subject) == {}


def test_the_same_class_rate_is_that_of_all_pairs():
    subject = prepare(SquaresVAE(), Squares(64), np.arange(64), judge=SquaresJudge())
    reliability = JudgeReliability(subject)
    for chunk in subject.chunks():
        reliability.update(Decoded(subject, chunk, "", subject.decode(chunk.codes), {}))
    classes = subject.judge.log_probabilities(subject.decode(subject.codes))["Hair"].argmax(1).numpy()
    pairs = [classes[a] == classes[b] for a in range(64) for b in range(64) if a != b]
    assert reliability.same_class_rate("Hair") == pytest.approx(np.mean(pairs))


def test_the_judged_value_is_shared_between_the_two_levels_around_it():
    subject = prepare(GradedSquaresVAE(), GradedSquares(64), np.arange(64), judge=GradedJudge())
    (chunk, *_) = subject.chunks()
    (log_probs,) = judged(subject, [chunk.images])
    levels, value = subject.levels("Smile"), GradedJudge().log_probabilities(chunk.images)["Smile"][:, 0].double()
    shares = log_probs["Smile"].exp()
    torch.testing.assert_close(shares.sum(1), torch.ones(32, dtype=torch.float64))
    torch.testing.assert_close(shares @ levels, value.clamp(levels[0], levels[-1]))
    assert int((shares > 0).sum(1).max()) == 2
    assert torch.equal(log_probs["Smile"].argmax(1), (value[:, None] - levels).abs().argmin(1))
    assert log_probs["Glasses"].shape == (32, 2)
