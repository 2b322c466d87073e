"""do() of a model with its own interventions, and do() and paths of continuous labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.evaluation.interventions import (
    Assign,
    Do,
    PriorDraw,
    Swap,
    Traverse,
    chunk_without_images,
    donor_rows,
    path_between,
    why_not,
)
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.drift.metric import Drift
from ccvae_eval.metrics.shared.likelihood import Generate
from ccvae_eval.model.interface import Label, LabelSchema, LatentLayout
from tests.support.fakes import (
    GRADE_SPREAD,
    GRADED,
    SCHEMA,
    GradedSquares,
    GradedSquaresVAE,
    PlainSquaresVAE,
    Squares,
    factor_columns,
    table_subject,
)


class IntervenableVAE(PlainSquaresVAE):
    """No latent dimension belongs to a label; do(c = v) sets one to v's mean plus noise and shifts the last by 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = SCHEMA
        self.calls: list[int] = []

    def intervene(self, images, codes, assignment, noise):
        self.calls.append(len(images))
        out = codes.clone()
        for name, value in assignment.items():
            column = factor_columns(name)[0]
            out[:, column] = 4 * value - 2 + 0.1 * noise[:, column]
            out[:, -1] += 0.5
        return out


def subject_of(model, **how):
    data = Squares(240)
    return prepare(model, data, np.arange(len(data)), **how)


def test_do_is_the_models_intervention_with_the_images_posterior_noise():
    model = IntervenableVAE()
    subject = subject_of(model)
    (chunk, *_) = subject.chunks()
    codes, then = Do("Hair").codes(subject, chunk), subject.target_class("Hair")[chunk.rows]
    column = factor_columns("Hair")[0]
    noise = subject.noise("posterior", chunk.ids, subject.layout.dim)
    torch.testing.assert_close(codes[:, column], 4.0 * then - 2 + 0.1 * noise[:, column])
    torch.testing.assert_close(codes[:, -1], chunk.codes[:, -1] + 0.5)
    assert set(model.calls) == {32}, "the network sees fixed batches only"
    assert torch.equal(codes, Do("Hair", mode="mean").codes(subject, chunk))


def test_images_without_a_known_class_keep_their_codes():
    data = Squares(240, missing=0.4)
    subject = prepare(IntervenableVAE(), data, np.arange(len(data)))
    (chunk, *_) = subject.chunks()
    unknown = subject.target_class("Hair")[chunk.rows] < 0
    assert 0 < int(unknown.sum()) < len(chunk)
    codes = Do("Hair").codes(subject, chunk)
    assert torch.equal(codes[unknown], chunk.codes[unknown])


def test_drift_evaluates_every_label_regardless_of_the_assignment():
    whole = measure(subject_of(IntervenableVAE()), [Drift(table_images=0)]).measurements[0]
    small = measure(subject_of(IntervenableVAE(), batch_size=32), [Drift(table_images=0)]).measurements[0]
    assert whole.status == "ok"
    assert {v.characteristic for v in whole.values} == {*SCHEMA.names, None}
    for one, other in zip(whole.values, small.values, strict=True):
        assert one.key == other.key
        np.testing.assert_equal(one.estimate.value, other.estimate.value)
    assert any("model's own intervention" in note for note in whole.notes)


def test_only_selected_labels_are_movable():
    subject = subject_of(IntervenableVAE(), characteristics=("Smile",))
    assert subject.movable == ("Smile",)


SMILE, FLAW = factor_columns("Smile")[0], factor_columns("Glasses")[0]
PER_UNIT = 4 / 40
"""Change of the code for a change of the label Smile by 1."""


def graded(count=400, model=None, **how):
    missing = how.pop("missing", 0.0)
    data = GradedSquares(count, missing=missing)
    return prepare(model or GradedSquaresVAE(), data, np.arange(count), **how)


def test_the_levels_of_a_continuous_label_are_quantiles_that_occur():
    subject = graded(missing=0.1)
    column = subject.column("Smile")
    known = column[~column.isnan()].double().numpy()
    levels = subject.levels("Smile").numpy()
    assert set(levels) <= set(known)
    np.testing.assert_allclose(levels, np.quantile(known, (0.05, 0.25, 0.5, 0.75, 0.95)), atol=0.3)
    nearest = np.abs(np.nan_to_num(column.numpy())[:, None] - levels).argmin(1)
    np.testing.assert_array_equal(subject.classes("Smile"), np.where(column.isnan(), -1, nearest))
    assert subject.class_name("Smile", 2) == f"{levels[2]:g}"
    assert subject.class_name("Glasses", 1) == "present"
    predicted = subject.current_value("Smile")
    assert float((predicted - GradedSquares(400).batch(np.arange(400)).labels[:, 1]).abs().max()) < 10
    assert bool((subject.current_class("Smile") >= 0).all()), "the model predicts missing labels"
    then, now = subject.target_class("Smile"), subject.current_class("Smile")
    assert set(then.tolist()) == set(range(5))
    assert not bool((then == now).any())


def test_do_moves_a_code_by_the_difference_of_the_values():
    subject = graded()
    chunk = chunk_without_images(subject)
    asked = subject.levels("Smile")[subject.target_class("Smile")]
    own = subject.column("Smile").double()
    expected = chunk.codes[:, SMILE].double() + PER_UNIT * (asked - own)
    by_prior = Do("Smile", source="prior").codes(subject, chunk)
    # a posterior wider than the prior has clipped ranks
    clipped = Do("Smile", source="prior").applied(subject, chunk)[1]
    torch.testing.assert_close(by_prior[~clipped, SMILE].double(), expected[~clipped], atol=1e-5, rtol=0)
    by_codes, few = Do("Smile").applied(subject, chunk)
    assert float(few.double().mean()) < 0.05
    torch.testing.assert_close(by_codes[~few, SMILE].double(), expected[~few], atol=0.05, rtol=0)
    others = [column for column in range(subject.layout.dim) if column != SMILE]
    assert torch.equal(by_codes[:, others], chunk.codes[:, others])
    mean = Do("Smile", mode="mean").codes(subject, chunk)[:, SMILE].double()
    torch.testing.assert_close(mean, PER_UNIT * (asked - 10) - 2, atol=0.05, rtol=0)
    drawn = Do("Smile", mode="sample").codes(subject, chunk)[:, SMILE].double() - mean
    assert float(drawn.std()) == pytest.approx(GRADE_SPREAD, rel=0.15)


def test_do_sets_a_value_that_is_given():
    subject = graded()
    chunk, own = chunk_without_images(subject), subject.column("Smile").double()
    moved, clipped = Do("Smile", value=33.0).applied(subject, chunk)
    expected = chunk.codes[:, SMILE].double() + PER_UNIT * (33 - own)
    torch.testing.assert_close(moved[~clipped, SMILE].double(), expected[~clipped], atol=0.05, rtol=0)
    both = Assign((("Smile", 33.0), ("Glasses", 1))).codes(subject, chunk)
    assert torch.equal(both[:, SMILE], moved[:, SMILE])
    assert torch.equal(both[:, FLAW], Do("Glasses", value=1).codes(subject, chunk)[:, FLAW])
    drawn = Generate((("Smile", 33.0),)).codes(subject, chunk)[:, SMILE].double()
    assert float(drawn.mean()) == pytest.approx(PER_UNIT * 23 - 2, abs=0.04)
    free = Generate().codes(subject, chunk)[:, SMILE].double()
    assert float(free.std()) == pytest.approx(4 / 12**0.5, rel=0.1)


def test_do_there_and_back_restores_the_code_of_a_value_between_the_levels():
    subject = graded()
    chunk, do = chunk_without_images(subject), Do("Smile")
    now, then = subject.current_class("Smile"), subject.target_class("Smile")
    there, clipped = do.between(subject, chunk, now, then)
    assert float((there - chunk.codes)[:, SMILE].abs().min()) > 0.05
    moved = type(chunk)(chunk.rows, chunk.ids, chunk.images, chunk.posterior, there)
    back, _ = do.between(subject, moved, then, now)
    torch.testing.assert_close(back[~clipped], chunk.codes[~clipped], atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", ["codes", "prior"])
def test_the_path_of_a_continuous_label_runs_from_its_lowest_to_its_highest_level(source):
    subject = graded()
    levels = subject.levels("Smile")
    path = path_between(subject, "Smile", 0, 4, source)
    expected = PER_UNIT * (levels[[0, 4]] - 10) - 2
    torch.testing.assert_close(torch.cat([path.start, path.end]), expected, atol=0.05, rtol=0)
    assert path.separation == pytest.approx(PER_UNIT * 2 * 40 / 12**0.5 / GRADE_SPREAD, rel=0.15)
    chunk = chunk_without_images(subject, slice(0, 3))
    middle = Traverse("Smile", 0.5, source).codes(subject, chunk)[:, SMILE].double()
    torch.testing.assert_close(middle, expected.mean().expand(3), atol=0.05, rtol=0)


def test_donors_have_the_level_that_an_image_is_set_to():
    subject = graded()
    donors = donor_rows(subject, "Smile")
    assert torch.equal(subject.current_class("Smile")[donors], subject.target_class("Smile"))
    codes = Swap("Smile").codes(subject, chunk_without_images(subject))
    assert torch.equal(codes[:, SMILE], subject.codes[donors, SMILE])


def test_samples_of_a_continuous_label_have_the_prior_at_the_level():
    subject = graded()
    chunk = chunk_without_images(subject)
    codes = PriorDraw("Smile", 0).codes(subject, chunk)[:, SMILE].double()
    asked = subject.levels("Smile")[subject.target_class("Smile")]
    error = codes - (PER_UNIT * (asked - 10) - 2)
    assert float(error.mean()) == pytest.approx(0, abs=0.04)
    assert float(error.std()) == pytest.approx(GRADE_SPREAD, rel=0.15)


def aged(codes, ages):
    schema = LabelSchema((Label("age", "continuous"),))
    return table_subject(codes, ages[:, None], schema, LatentLayout(1, {"age": (0,)}))


@pytest.mark.parametrize(
    ("codes", "ages", "do", "path"),
    [
        (torch.rand(50, 1), torch.full((50,), torch.nan), "every label is missing", "every label is missing"),
        (
            torch.rand(50, 1), torch.where(torch.arange(50) < 19, torch.rand(50), torch.nan),
            "19 images have the label, 20 are needed", "19 images have the label, 20 are needed",
        ),
        (torch.rand(50, 1), torch.full((50,), 3.0), "the label has one value", "the label has one value"),
        # an angle whose sine is encoded over a whole turn, from cosine to cosine
        (torch.linspace(0, 6.283, 50).cos()[:, None], torch.linspace(0, 6.283, 50), "", "do not depend linearly"),
    ],
)  # fmt: skip
def test_a_continuous_label_without_do_or_path_says_why(codes, ages, do, path):
    subject = aged(codes, ages)
    why = why_not(Do("age"), subject)
    assert why.startswith(do)
    assert bool(why) == bool(do)
    with pytest.raises(UndefinedError, match=path):
        Traverse("age", 0.5).codes(subject, chunk_without_images(subject))


@pytest.mark.parametrize("value", [3.0, torch.nan])
def test_a_continuous_label_without_two_values_has_no_target(value):
    subject = aged(torch.rand(50, 1), torch.full((50,), value))
    assert subject.target_class("age").tolist() == [-1] * 50


def test_an_unknown_class_has_no_value():
    subject = graded(120)
    levels, own = subject.levels("Smile"), float(subject.column("Smile")[0])
    unknown = torch.tensor([0, -1])
    assert subject.class_values("Smile", unknown)[0] == levels[0]
    assert subject.class_values("Smile", unknown).isnan().tolist() == [False, True]
    assert subject.class_values("Glasses", unknown).isnan().tolist() == [False, True]
    known = torch.tensor([int(subject.current_class("Smile")[0]), -1])
    values = subject.class_values("Smile", known, slice(0, 2))
    assert values[0] == own
    assert values.isnan().tolist() == [False, True]


def test_a_model_that_intervenes_is_given_the_value_of_the_level():
    class Intervening(PlainSquaresVAE):
        def __init__(self):
            super().__init__()
            self.labels, self.values = GRADED, set()

        def intervene(self, images, codes, assignment, noise):
            self.values |= {value for name, value in assignment.items() if name == "Smile"}
            return codes + 1

    model = Intervening()
    subject = graded(120, model)
    assert subject.movable == ("Glasses", "Smile")
    (chunk, *_) = subject.chunks()
    assert torch.equal(Do("Smile").codes(subject, chunk), chunk.codes + 1)
    levels = subject.levels("Smile").float()
    assert model.values == {float(levels[k]) for k in subject.target_class("Smile")[chunk.rows].tolist()}
    model.values.clear()
    assert torch.equal(Do("Smile", value=33.0).codes(subject, chunk), chunk.codes + 1)
    assert torch.equal(Assign((("Smile", 33.0),)).codes(subject, chunk), chunk.codes + 1)
    assert model.values == {33.0}
