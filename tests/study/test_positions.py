"""Rank correlation of set and judged positions of sprites, with interventions that have no effect."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ccvae_eval.calibration.perturbations import PERTURBATIONS, PerturbationContext
from ccvae_eval.calibration.study import positions_of
from ccvae_eval.calibration.verdict import judge
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.sets.sprites import Sprites
from ccvae_eval.metrics.intervention import rows
from study.expected.positions import LABEL, CentreModel, centres, known, measured, rank_curve, squares, subject_of


def curve_of(seed=0, steps=3):
    faces = Faces(size=32)
    context = PerturbationContext(faces, faces.split("test")[:4], ("Smiling",), seed=seed)
    return rank_curve(context, PERTURBATIONS["idle"], positions_of(steps), True)


@pytest.mark.parametrize("size", [32, 64])
def test_the_centre_of_a_square_is_its_position(size):
    data, ids = Sprites(size), squares(0)
    assert centres(data.batch(ids).images) == pytest.approx(data.factors(ids)[:, 3:], abs=0.02)


def test_the_model_draws_a_square_at_the_position_that_it_encodes():
    data, ids = Sprites(), squares(0, 32)
    model = CentreModel(data)
    codes = model.encode(data.batch(ids).images).loc
    assert model.encode(model.decode(codes)).loc.numpy() == pytest.approx(codes.numpy(), abs=0.02)


def test_a_share_of_the_interventions_has_no_effect():
    data, ids = Sprites(), squares(0, 200)
    images = data.batch(ids).images
    before = torch.zeros(len(ids), 2)
    chosen = np.zeros(len(ids), bool)
    for idle in (0.0, 0.3, 0.7, 1.0):
        after = CentreModel(data, idle).intervene(images, before, {LABEL: 0.5}, before)
        without = (after == before).all(1).numpy()
        assert not (chosen & ~without).any()
        assert without.mean() == pytest.approx(idle, abs=0.15)
        chosen = without


def test_the_known_value_falls_from_one_to_the_correlation_with_the_own_value():
    subject = subject_of(Sprites(), squares(0), 0.0, 0)
    target, own = subject.target_class(LABEL).numpy(), subject.current_value(LABEL).numpy()
    curve = [known(subject, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert curve[0] == pytest.approx(1, abs=1e-12)
    assert curve[-1] == pytest.approx(spearmanr(target, own).statistic, abs=0.02)
    assert (np.diff(curve) < -0.1).all()


@pytest.mark.parametrize("broken", [False, True])
def test_the_measured_value_is_the_known_one(broken, monkeypatch):
    if broken:
        correlation = rows.spearman_estimate
        monkeypatch.setattr(rows, "spearman_estimate", lambda x, y, weights: correlation(np.abs(x - 0.5), y, weights))
    curve = curve_of(steps=5)
    assert curve.readings[0].value == pytest.approx(1, abs=1e-9) or broken
    assert (np.diff(curve.expected) < 0).all()
    assert judge(curve.readings, curve.expected, True, wider=1.8).passed is not broken


@pytest.mark.soak
def test_the_intervals_cover_the_known_value():
    """With new images and new interventions without an effect each time, at shares of a quarter, a half and one."""
    inside = []
    for seed in range(40):
        ids = squares(seed, 128)
        reference = subject_of(Sprites(), ids, 0.0, seed)
        for share in (0.25, 0.5, 1.0):
            reading = measured(subject_of(Sprites(), ids, share, seed))
            inside.append(reading.contains(known(reference, share)))
    assert np.mean(inside) > 0.9
