"""do() of a model with its own interventions."""

from __future__ import annotations

import numpy as np
import torch

from ccvae_eval.evaluation.interventions import Do
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.drift.metric import Drift
from tests.support.fakes import SCHEMA, PlainSquaresVAE, Squares, factor_columns


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
