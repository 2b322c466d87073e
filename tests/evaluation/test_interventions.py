"""do() of a model that intervenes in a way of its own."""

from __future__ import annotations

import numpy as np
import torch

from ccvae_eval.evaluation.interventions import Do
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.drift.metric import Drift
from tests.support.fakes import SCHEMA, PlainSquaresVAE, Squares, factor_columns


class Experts(PlainSquaresVAE):
    """No column belongs to a label; do(c = v) paints v's mean at the noise, and shifts another square by .5."""

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


def test_do_is_the_models_own_at_the_images_own_noise():
    model = Experts()
    subject = subject_of(model)
    (chunk, *_) = subject.chunks()
    codes, then = Do("Hair").codes(subject, chunk), subject.target_class("Hair")[chunk.rows]
    column = factor_columns("Hair")[0]
    noise = subject.noise("posterior", chunk.ids, subject.layout.dim)
    torch.testing.assert_close(codes[:, column], 4.0 * then - 2 + 0.1 * noise[:, column])
    torch.testing.assert_close(codes[:, -1], chunk.codes[:, -1] + 0.5)
    assert set(model.calls) == {32}, "the network sees canonical chunks only"
    assert torch.equal(codes, Do("Hair", mode="mean").codes(subject, chunk))


def test_rows_without_a_known_class_stay_as_they_are():
    data = Squares(240, missing=0.4)
    subject = prepare(Experts(), data, np.arange(len(data)))
    (chunk, *_) = subject.chunks()
    unknown = subject.target_class("Hair")[chunk.rows] < 0
    assert 0 < int(unknown.sum()) < len(chunk)
    codes = Do("Hair").codes(subject, chunk)
    assert torch.equal(codes[unknown], chunk.codes[unknown])


def test_drift_measures_every_label_whatever_was_assigned():
    whole = evaluate(subject_of(Experts()), [Drift(table_images=0)]).measurements[0]
    small = evaluate(subject_of(Experts(), batch_size=32), [Drift(table_images=0)]).measurements[0]
    assert whole.status == "ok"
    assert {v.characteristic for v in whole.values} == {*SCHEMA.names, None}
    for ours, theirs in zip(whole.values, small.values, strict=True):
        assert ours.key == theirs.key
        np.testing.assert_equal(ours.estimate.value, theirs.estimate.value)
    assert any("model's own intervention" in note for note in whole.notes)


def test_only_labels_asked_for_are_moved():
    subject = subject_of(Experts(), characteristics=("Smile",))
    assert subject.movable == ("Smile",)
