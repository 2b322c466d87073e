"""Continuous labels through all metrics, with a model whose true values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ccvae_eval.api import evaluate
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.evaluation.metric import default_metrics, explained_reason
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure, measure_blocks
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.diversity.settings import Diversity
from ccvae_eval.metrics.drift.settings import Drift
from ccvae_eval.metrics.generation.settings import Generation
from ccvae_eval.metrics.intervention.settings import Interventions
from ccvae_eval.metrics.locality.settings import Locality
from ccvae_eval.metrics.shared.assignments import assignment_of
from ccvae_eval.metrics.shared.likelihood import Prior
from ccvae_eval.plugins.registry import metrics
from tests.support.fakes import (
    GRADE_SPREAD,
    LEAST_SMILE,
    MOST_SMILE,
    GradedJudge,
    GradedSquares,
    GradedSquaresVAE,
    PlainSquaresVAE,
    factor_columns,
)

pytestmark = pytest.mark.oracle

COUNT = 240
DECODING = (
    Locality(steps=5), Drift(), Diversity(draws=4, redrawn=32),
    Interventions(repeats=(1,), axiom_images=32, draws=2, rendered=32), Generation(asked_images=64),
)  # fmt: skip
FLAW = factor_columns("Glasses")[0]
SMILE = factor_columns("Smile")[0]


class Idle(GradedSquaresVAE):
    """The decoder ignores the latent dimension of Smile."""

    def decode(self, codes):
        return super().decode(codes.index_fill(1, torch.tensor([SMILE]), 0.0))


class Leaking(GradedSquaresVAE):
    """The latent dimension of Smile also changes the square of Glasses."""

    def decode(self, codes):
        moved = codes.clone()
        moved[:, FLAW] += 1.5 * codes[:, SMILE]
        return super().decode(moved)


def subject_of(model=None, missing=0.0, **how):
    data = GradedSquares(COUNT, missing=missing)
    return prepare(model or GradedSquaresVAE(), data, np.arange(COUNT), judge=GradedJudge(), **how)


@pytest.fixture(scope="module")
def decoded() -> Run:
    return measure(subject_of(), DECODING)


def of_smile(run: Run, metric: str, name: str, **at: object) -> Value:
    (found,) = (
        value
        for measurement in run.measurements if measurement.metric == metric
        for value in measurement.values
        if (value.name, value.characteristic, dict(value.at)) == (name, "Smile", at)
    )  # fmt: skip
    return found


@pytest.mark.slow
def test_every_metric_has_a_number_or_a_reason_for_a_continuous_label(tmp_path) -> None:
    """With a judge that is trained on the images."""
    data = GradedSquares(900)
    names = [*default_metrics(), "intervention", "generation"]
    options = {
        "intervention": {"repeats": (1,), "axiom_images": 32, "rendered": 32},
        "generation": {"asked_images": 32},
    }
    run = evaluate(GradedSquaresVAE(), data, names, options=options, sample=200, cache_dir=tmp_path, references=False)
    for measurement in run.measurements:
        assert measurement.status == "ok", measurement.reason
        for value in measurement.values:
            if value.characteristic == "Smile" and not value.estimate.defined:
                assert value.name != measurement.headline
                assert explained_reason(metrics[measurement.metric], value.note)
    headlines = {
        m.metric: v.estimate.value
        for m in run.measurements
        for v in m.values
        if v.name == m.headline and v.characteristic == "Smile" and not v.at
    }
    assert set(headlines) == {*names} - {"reconstruction"}
    assert headlines["density"] > 0.95
    assert headlines["accuracy"] > 0.9
    assert headlines["locality"] == pytest.approx(1, abs=1e-3)
    assert headlines["drift"] == pytest.approx(0, abs=1e-3)
    assert headlines["intervention"] > 0.7
    assert of_smile(run, "intervention", "obeyed_rank").estimate.low > 0.9
    assert any("rank correlation" in note for m in run.measurements for note in m.notes)


def test_a_perfect_model_gets_the_known_values(decoded) -> None:
    assert of_smile(decoded, "locality", "focus").estimate.value == pytest.approx(1, abs=1e-4)
    assert of_smile(decoded, "locality", "selectivity").estimate.value == pytest.approx(1, abs=1e-4)
    assert of_smile(decoded, "locality", "judged_monotone").estimate.value == pytest.approx(1, abs=1e-6)
    # the judged value moves along the path in equal steps, up to rounding and the quantile .95 of the sample
    assert of_smile(decoded, "locality", "judged_evenness").estimate.value > 0.9
    assert of_smile(decoded, "locality", "path_share").estimate.value == pytest.approx(0.9, abs=0.06)
    assert of_smile(decoded, "drift", "spill").estimate.value == pytest.approx(0, abs=1e-4)
    rank = of_smile(decoded, "intervention", "obeyed_rank")
    assert rank.estimate.low > 0.95
    assert rank.chance is not None
    assert rank.chance < 0
    assert of_smile(decoded, "intervention", "effect").estimate.value > 0.9
    assert of_smile(decoded, "intervention", "kept").estimate.value > 0.98
    assert of_smile(decoded, "intervention", "reversibility", m=1).estimate.value < 0.01
    assert of_smile(decoded, "diversity", "obeyed").estimate.value > 0.9
    assert of_smile(decoded, "diversity", "kept").estimate.value > 0.98
    assert of_smile(decoded, "generation", "obeyed").estimate.value > 0.9
    levels = subject_of().levels("Smile")
    for level in levels:
        assert of_smile(decoded, "generation", "obeyed", **{"class": f"{level:g}"}).estimate.defined


def test_a_decoder_that_ignores_the_label_obeys_nothing() -> None:
    """The judge sees one value in every reconstruction, so it cannot be validated."""
    run = measure(subject_of(Idle()), DECODING)
    rank = of_smile(run, "intervention", "obeyed_rank")
    assert rank.note == "the label or its judged value is constant, so the judge cannot be validated"
    assert of_smile(run, "locality", "changed").estimate.value == 0
    assert "nothing changed" in of_smile(run, "locality", "focus").note


def test_a_leak_into_another_label_is_found() -> None:
    run = measure(subject_of(Leaking()), DECODING)
    assert of_smile(run, "locality", "focus").estimate.high < 0.8
    assert of_smile(run, "drift", "l1_spill").estimate.low > 0.02
    assert of_smile(run, "intervention", "kept").estimate.high < 0.9


def test_codes_that_are_unrelated_to_the_label_have_no_path_and_obey_at_chance() -> None:
    """With the labels permuted among the images."""
    subject = subject_of()
    subject.labels[:, 1] = subject.labels[torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)), 1]
    run = measure(subject, DECODING)
    focus = of_smile(run, "locality", "focus")
    assert focus.estimate.defined or focus.note == "the codes do not depend linearly on the label"
    rank = of_smile(run, "intervention", "obeyed_rank")
    assert rank.note.startswith("the judged values of the reconstructions correlate with the label by only")


def test_missing_values_are_predicted_or_leave_the_image_out() -> None:
    class Silent(GradedSquaresVAE):
        predict = None

    known = measure(subject_of(missing=0.3), DECODING[3:4])
    assert of_smile(known, "intervention", "effect").excluded == 0
    subject = subject_of(Silent(), missing=0.3)
    unknown = measure(subject, DECODING[3:4])
    assert of_smile(unknown, "intervention", "effect").excluded == int(subject.column("Smile").isnan().sum())


def numbers(measurement: Measurement) -> list[tuple[object, ...]]:
    return [(v.key, v.estimate.value, v.estimate.low, v.estimate.high, v.note) for v in measurement.values]


def test_the_batch_size_and_blocks_of_images_change_no_bit(decoded) -> None:
    small = measure(subject_of(batch_size=32), DECODING)
    for one, other in zip(decoded.measurements, small.measurements, strict=True):
        np.testing.assert_equal(numbers(one), numbers(other))
    for metric, whole in zip(DECODING, decoded.measurements, strict=True):
        subject = subject_of()
        chunks = list(subject.chunks())
        merged = measure_blocks(subject, metric, [chunks[:3], chunks[3:]])
        np.testing.assert_equal(numbers(merged), numbers(whole))


def test_data_with_continuous_labels_only_have_a_headline_in_every_metric() -> None:
    run = measure(subject_of(characteristics=("Smile",)), [metrics[name]() for name in ("density", "accuracy")])
    assert [m.status for m in run.measurements] == ["ok", "ok"]
    assert not math.isnan(run["density.auc"])
    assert not math.isnan(run["accuracy.balanced_accuracy"])


def test_the_error_against_the_rendered_value_is_that_of_the_spread_around_it(decoded) -> None:
    """Transport keeps an image's place in the spread around its value, as the renderer does."""
    for where in ("inside", "outside"):
        assert of_smile(decoded, "intervention", "error", where=where).estimate.value == pytest.approx(0, abs=0.01)
    inside = of_smile(decoded, "intervention", "error", where="inside")
    assert inside.chance is not None
    assert inside.chance > 0.1


def test_an_encoder_that_takes_labels_is_given_values_when_an_edit_is_undone() -> None:
    class Given(GradedSquaresVAE):
        given = ("Smile",)

        def __init__(self):
            super().__init__()
            self.seen = []

        def encode(self, images, labels=None):
            if labels is not None:
                self.seen.append(labels[:, 1])
            return super().encode(images, labels)

    model = Given()
    run = measure(subject_of(model), [Interventions(repeats=(1,), axiom_images=32, draws=2, rendered=32)])
    assert of_smile(run, "intervention", "reversibility", m=1).estimate.value < 0.01
    values = torch.cat(model.seen)
    assert float(values.min()) >= LEAST_SMILE
    assert float(values.max()) <= MOST_SMILE


def test_a_plain_vae_has_a_dimension_assigned_to_a_continuous_label() -> None:
    subject = prepare(PlainSquaresVAE(), GradedSquares(480), np.arange(480), judge=GradedJudge())
    assert subject.layout.characteristics["Smile"] == (SMILE,)
    run = measure(subject, [*DECODING[:2], DECODING[3], metrics["accuracy"]()])
    assert of_smile(run, "locality", "focus").estimate.value == pytest.approx(1, abs=1e-3)
    assert of_smile(run, "drift", "spill").estimate.value == pytest.approx(0, abs=1e-3)
    assert of_smile(run, "intervention", "obeyed_rank").estimate.low > 0.95
    assert of_smile(run, "accuracy", "r2").estimate.low > 0.9


def test_the_prior_of_a_continuous_label_is_averaged_over_its_values() -> None:
    """For a uniform label, p(z_c) is the convolution of a uniform and a normal distribution."""
    data = GradedSquares(3000)
    subject = prepare(GradedSquaresVAE(), data, np.arange(3000))
    prior = Prior.of(subject)
    z = torch.zeros(9, subject.layout.dim, dtype=torch.float64)
    z[:, SMILE] = torch.linspace(-1.8, 1.8, 9)
    expected = (norm.cdf((z[:, SMILE] + 2) / GRADE_SPREAD) - norm.cdf((z[:, SMILE] - 2) / GRADE_SPREAD)) / 4
    np.testing.assert_allclose(prior.mixtures["Smile"].log_density(z).exp(), expected, rtol=0.08)
    run = measure(subject.subsample(256), [metrics["reconstruction"](importance=2, draws=16)])
    assert not math.isnan(run["reconstruction.elbo"])
    q = subject.subsample(256).posterior.columns([SMILE])
    at_own = subject.prior_at("Smile", subject.subsample(256).column("Smile"))
    closed = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.loc, q.scale), torch.distributions.Normal(at_own.loc, at_own.scale)
    )
    given = of_smile(run, "reconstruction", "kl", labels="given").estimate.value
    assert given == pytest.approx(float(closed.mean()), rel=1e-5)
    assert of_smile(run, "reconstruction", "kl").estimate.value > given, "the label determines most of the code"


def test_a_continuous_label_without_values_has_no_prior() -> None:
    subject = subject_of()
    subject.labels[:, 1] = torch.nan
    run = measure(subject, [metrics["reconstruction"](importance=2, draws=4), DECODING[2], DECODING[4]])
    assert of_smile(run, "reconstruction", "kl").note == "every label is missing"
    assert of_smile(run, "diversity", "spread").note == "every label is missing"
    assert run.measurements[2].reason is not None
    assert run.measurements[2].reason.text == "every label is missing"


def test_an_assignment_sets_a_value() -> None:
    metrics_with = [
        Interventions(assign="Smile=33.5,Glasses=present", repeats=(1,), axiom_images=0, draws=2, rendered=0),
        Generation(assign="Smile=33.5", asked_images=0),
    ]
    run = measure(subject_of(), metrics_with)
    for metric, text in (("intervention", "Smile=33.5,Glasses=1"), ("generation", "Smile=33.5")):
        assert of_smile(run, metric, "obeyed", do=text).estimate.value > 0.9
    for value in ("9", "51", "high", "nan"):
        with pytest.raises(
            UsageError, match=f"'Smile' must be a number from 10.* to 4.*, as in the images, got '{value}'"
        ):
            assignment_of(f"Smile={value}", subject_of())
