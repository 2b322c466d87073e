"""The gallery: single images of the sample, with reconstructions and interventions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Codes
from ccvae_eval.evaluation.pictures import GALLERY_IMAGES, as_bytes, gallery
from ccvae_eval.evaluation.subject import prepare
from tests.support.fakes import SCHEMA, Squares, SquaresVAE


def test_the_gallery_shows_images_reconstructions_and_every_label_set_to_another_class() -> None:
    data = Squares(200)
    subject = prepare(SquaresVAE(), data, np.arange(200))
    found = gallery(subject, [np.arange(0, 200, 2), np.arange(200)])
    ids = found["ids"]
    assert len(ids) == GALLERY_IMAGES
    assert set(ids % 2) == {0}
    assert ids[-1] > 180  # evenly spaced, not the first ones
    np.testing.assert_array_equal(found["image"], as_bytes(data.batch(ids).images).numpy())
    assert np.abs(found["reconstruction"].astype(int) - found["image"]).mean() < 10
    for label in SCHEMA:
        assert found[f"do/{label.name}"].shape == found["image"].shape
        now, then = found[f"label/{label.name}"], found[f"then/{label.name}"]
        np.testing.assert_array_equal(now, data.labels_of(ids)[:, SCHEMA.index(label.name)])
        assert (now != then).all()
        assert (found[f"do/{label.name}"] != found["reconstruction"]).any()


def test_an_intervention_that_is_undefined_is_left_out() -> None:
    subject = prepare(SquaresVAE(), Squares(30), np.arange(30))  # fewer than 20 images of each hair colour
    found = gallery(subject, [np.arange(30)])
    assert len(found["ids"]) == 30
    assert "do/Hair" not in found
    assert "label/Hair" in found


def test_metrics_without_a_common_image_leave_it_empty() -> None:
    subject = prepare(SquaresVAE(), Squares(40), np.arange(40))
    assert gallery(subject, [np.arange(20), np.arange(20, 40)]) == {}


def test_a_model_that_cannot_decode_has_no_gallery() -> None:
    class Broken(SquaresVAE):
        def decode(self, codes: Codes) -> Tensor:
            return torch.full((len(codes), 3, 32, 32), torch.nan)

    subject = prepare(Broken(), Squares(40), np.arange(40))
    assert gallery(subject, [np.arange(40)]) == {}
