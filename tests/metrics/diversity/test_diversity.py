"""Diversity against brute force over pairs, closed forms, and the redraws of the data set."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import gamma

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.interventions import PriorDraw
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.diversity.metric import Diversity
from ccvae_eval.metrics.shared.image_change import mean_variance, pairwise_spread, recall
from tests.support.fakes import (
    GRID,
    SCHEMA,
    PlainSquaresVAE,
    Squares,
    SquaresJudge,
    SquaresVAE,
    factor_columns,
    rendered,
)

pytestmark = pytest.mark.oracle

COUNT = 64
SIZE = 16
DRAWS = 8
UNBIASING = (2 / (DRAWS - 1)) ** 0.5 * gamma(DRAWS / 2) / gamma((DRAWS - 1) / 2)
"""Expected sample standard deviation of DRAWS standard normal samples (c4 of quality control)."""


class Scaled(SquaresVAE):
    """p(z_c|y) with given standard deviations of the latent dimension of the class and of that of the variety."""

    def __init__(self, label: float, variety: float, *, blocks: bool = True, linear: bool = False) -> None:
        super().__init__(blocks=blocks, size=SIZE)
        self.label, self.variety, self.linear = label, variety, linear

    def conditional_prior(self, labels: torch.Tensor) -> Gaussian:
        prior = super().conditional_prior(labels)
        order = self.layout.characteristic_columns
        labelled = [column in [factor_columns(label.name)[0] for label in SCHEMA] for column in order]
        scale = torch.where(torch.tensor(labelled), self.label, self.variety)
        return Gaussian(prior.loc, scale.expand_as(prior.loc))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if not self.linear:
            return super().decode(codes)
        return rendered(torch.logit(0.5 + 0.02 * codes.clamp(-20, 20), eps=1e-6), SIZE)


class Tinted(Squares):
    """Every second redraw of the variety of Glasses flips Smile."""

    def redraw(self, ids: Any, label: str, value: Any, draw: int) -> torch.Tensor:
        images = super().redraw(ids, label, value, draw)
        if label == "Glasses" and draw % 2:
            smiles = self._classes[np.asarray(ids), SCHEMA.index("Smile")]
            return self.with_variety(ids, {"Glasses": value, "Smile": 1 - smiles}, {})
        return images


class WithoutRegions(Squares):
    """The same images without regions."""

    def region(self, ids: Any, label: str) -> None:
        del ids, label


def subject_of(model: torch.nn.Module, judge: Any = None, data: Squares | None = None) -> Subject:
    images = data or Squares(COUNT, size=SIZE)
    return prepare(model, images, np.arange(len(images)), judge=judge)  # type: ignore[arg-type]


def measured(subject: Subject, metric: Diversity | None = None) -> Measurement:
    return measure(subject, [metric or Diversity()]).measurements[0]


def row(measurement: Measurement, name: str, characteristic: str | None = None, **at: Any) -> Value:
    (found,) = [v for v in measurement.values if (v.name, v.characteristic, v.at) == (name, characteristic, at)]
    return found


def number(measurement: Measurement, name: str, characteristic: str | None = None, **at: Any) -> float:
    return row(measurement, name, characteristic, **at).estimate.value


def rms_over_pairs(draws: np.ndarray, where: np.ndarray) -> float:
    """Return the root mean square over all pairs of images, shape (S, C, H, W)."""
    squares = [np.square(a - b)[:, where].mean() for a, b in combinations(draws, 2)]
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


# --- the pixel functions ---------------------------------------------------------------------------------------------


def test_spread_is_the_root_mean_square_over_all_pairs() -> None:
    draws = torch.rand(6, 3, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    where = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    variance = mean_variance(list(draws)).double().numpy()
    found = pairwise_spread(variance, where.flatten(1).numpy())
    expected = [rms_over_pairs(draws[:, i].double().numpy(), where[i].numpy()) for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_variance_of_selected_draws_equals_numpys() -> None:
    draw = torch.Generator().manual_seed(2)
    draws, chosen = torch.rand(8, 5, 3, 4, 4, generator=draw), torch.rand(5, 8, generator=draw) < 0.5
    found = mean_variance(list(draws), chosen)
    for image in range(5):
        kept = draws[chosen[image], image].double().numpy()
        np.testing.assert_allclose(found[image].numpy(), kept.var(0, ddof=1).mean(0).ravel(), rtol=1e-4, atol=1e-7)


def test_recall_equals_brute_force() -> None:
    draw = np.random.default_rng(3)
    true, drawn = draw.normal(size=(4, 8, 5)), draw.normal(0.5, 0.7, size=(4, 8, 5))
    expected = []
    for t, d in zip(true, drawn, strict=True):
        radius = np.sort(cdist(t, t), 1)[:, 3]
        expected.append((cdist(t, d).min(1) < radius).mean())
    assert 0 < min(expected) < max(expected)
    np.testing.assert_allclose(recall(torch.from_numpy(true), torch.from_numpy(drawn), 3), expected)


# --- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0])
def test_spread_of_a_linear_variety_equals_its_closed_form(deviation: float) -> None:
    found = measured(subject_of(Scaled(0.0, deviation, linear=True), data=Squares(256, size=SIZE)))
    expected = 0.02 * deviation * UNBIASING  # one of the two squares in the region varies: sqrt(2 * 1/2 * var)
    estimate = row(found, "spread").estimate
    error = (estimate.high - estimate.low) / 4
    assert estimate.value == pytest.approx(expected, abs=max(4 * error, 1e-7))
    assert number(found, "spread_outside") == 0
    assert number(found, "spread", where="image") == pytest.approx(estimate.value * GRID / 2**0.5 / GRID / 2, rel=1e-3)


def test_samples_from_the_datas_distribution_have_the_datas_spread() -> None:
    """The data's redraws keep the square of the class, so p(z_c|y) must not vary it either."""
    judge, data = SquaresJudge(), Squares(128, size=SIZE)
    found = measured(subject_of(Scaled(0.0, 1.0), judge, data), Diversity(redrawn=128))
    still = measured(subject_of(Scaled(0.0, 0.0), judge, data), Diversity(redrawn=128))
    for name in SCHEMA.names:
        ratio = row(found, "spread_ratio", name).estimate
        assert abs(ratio.value - 1) < ratio.high - ratio.low
        assert number(found, "spread_score", name) == pytest.approx(min(ratio.value, 1 / ratio.value))
        assert number(found, "recall", name) > number(still, "recall", name) + 0.1
        assert number(found, "obeyed", name) == number(found, "kept", name) == 1


def test_too_much_variety_lowers_the_score() -> None:
    found = measured(subject_of(Scaled(0.0, 8.0)))
    for name in SCHEMA.names:
        assert number(found, "spread_ratio", name) > 1.5
        assert number(found, "spread_score", name) == pytest.approx(1 / number(found, "spread_ratio", name))


@pytest.mark.parametrize("label", [0.0, 3.0])
def test_values_equal_brute_force(label: float) -> None:
    """With a wide prior many samples are not obeyed, and some images have fewer than two that are."""
    judge = SquaresJudge()
    subject = subject_of(Scaled(label, 1.0), judge)
    found = measured(subject)
    for name in ("Glasses", "Hair"):
        region = subject.data.region(subject.ids[:1], name)[0]  # type: ignore[attr-defined]
        column = SCHEMA.index(name)
        valid, obeyed, kept = [], [], []
        for chunk in subject.chunks():
            interventions = [PriorDraw(name, s) for s in range(DRAWS)]
            draws = torch.stack([subject.decode(draw.codes(subject, chunk)) for draw in interventions])
            before = judge.log_probabilities(subject.decode(chunk.codes))
            after = [judge.log_probabilities(images) for images in draws]
            for i, value in enumerate(interventions[0].classes(subject, chunk)):
                sees = np.array([int(t[name][i].argmax()) == int(value) for t in after])
                chosen = draws[torch.from_numpy(sees), i].double().numpy()
                valid.append(sees.mean() * rms_over_pairs(chosen, region))
                obeyed.append(sees.mean())
                others = [other.name for k, other in enumerate(SCHEMA) if k != column]
                stays = [[t[j][i].argmax() == before[j][i].argmax() for t in after] for j in others]
                kept.append(np.mean(stays))
        assert number(found, "spread_valid", name) == pytest.approx(np.mean(valid), rel=1e-5)
        assert number(found, "obeyed", name) == pytest.approx(np.mean(obeyed))
        assert number(found, "kept", name) == pytest.approx(np.mean(kept))
    if label:
        assert number(found, "obeyed", "Glasses") < 0.9
        assert number(found, "spread_valid", "Glasses") < number(found, "spread", "Glasses")


def test_point_masses_score_zero_by_construction() -> None:
    found = measured(subject_of(Scaled(0.0, 0.0), SquaresJudge()))
    for name in ("spread_valid", "spread", "spread_ratio", "spread_score"):
        assert number(found, name) == 0
    assert "by construction" in row(found, "spread_valid", "Glasses").note
    assert number(found, "obeyed") == 1


def test_the_images_own_class_can_be_sampled() -> None:
    subject = subject_of(Scaled(0.0, 1.0), SquaresJudge(), Squares(COUNT, size=SIZE, missing=0.3))
    found = measured(subject, Diversity(value="now"))
    assert number(found, "obeyed") == 1
    assert row(found, "obeyed", "Hair").chance == pytest.approx(1, abs=0.05)


# --- missing inputs and allowed changes ---------------------------------------------------------------------------


def test_a_label_that_changes_in_the_datas_redraws_is_left_out_of_kept() -> None:
    found = measured(subject_of(Scaled(0.0, 1.0), SquaresJudge(), Tinted(COUNT, size=SIZE)))
    smile = row(found, "kept", "Glasses", judged="Smile")
    assert smile.reference == pytest.approx(0.5)
    assert "also changes in the data's redraws" in smile.note
    assert row(found, "kept", "Glasses", judged="Hair").note == ""
    assert number(found, "kept", "Glasses") == number(found, "kept", "Glasses", judged="Hair")
    assert any("Smile may change" in note for note in found.notes)


def test_without_a_judge_the_headline_is_undefined_and_the_spread_defined() -> None:
    subject = subject_of(Scaled(0.5, 1.0))
    assert not Diversity().needs(subject).reconstruction
    found = measured(subject)
    for name in ("spread_valid", "obeyed", "kept"):
        assert np.isnan(number(found, name))
        assert "needs a judge" in row(found, name).note
        assert row(found, name, "Smile").note == "needs a judge"
    assert number(found, "spread") > 0
    assert number(found, "spread_ratio") > 0


def test_without_regions_only_whole_image_values_are_defined() -> None:
    found = measured(subject_of(Scaled(0.5, 1.0), SquaresJudge(), WithoutRegions(COUNT, size=SIZE)))
    located = measured(subject_of(Scaled(0.5, 1.0), SquaresJudge()))
    for name in ("spread", "spread_valid"):
        assert row(found, name, "Smile").note == "has no region"
        assert number(found, name, where="image") == number(located, name, where="image") > 0
    for name in ("spread_outside", "spread_ratio", "recall"):
        assert row(found, name, "Smile").note == "has no region"


def test_a_model_without_a_conditional_prior_is_unsupported() -> None:
    found = measured(subject_of(PlainSquaresVAE(size=SIZE), data=Squares(400, size=SIZE)))
    assert found.status == "unsupported"
    assert found.reason is not None
    assert "p(z_c|y)" in found.reason.text


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(UsageError, match="draws must be at least 4, got 3"):
        Diversity(draws=3)


# --- laws ------------------------------------------------------------------------------------------------------------


def test_bits_do_not_depend_on_the_batch_size_or_the_threads() -> None:
    whole = measured(subject_of(Scaled(2.0, 1.0), SquaresJudge()))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = measured(replace(subject_of(Scaled(2.0, 1.0), SquaresJudge()), batch_size=32))
    torch.set_num_threads(threads)
    assert whole.evidence.keys() == again.evidence.keys()
    for name, column in whole.evidence.items():
        np.testing.assert_array_equal(column, again.evidence[name])


def test_pictures_hold_the_variance_and_some_samples() -> None:
    found = measured(subject_of(Scaled(0.0, 1.0)))
    strip, variance = found.pictures["strip/Glasses"], found.pictures["mean/variance/Glasses"]
    assert (strip.shape, strip.dtype) == ((8, DRAWS, SIZE, SIZE, 3), np.uint8)
    side = SIZE // GRID
    varied = np.zeros((SIZE, SIZE), bool)
    varied[:side, side : 2 * side] = True  # the square of factor 1
    assert (variance[~varied] == 0).all()
    assert variance[varied].min() > 0
