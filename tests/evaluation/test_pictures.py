"""The gallery: single images of the sample, with reconstructions and interventions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ccvae_eval import evaluate
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Codes
from ccvae_eval.evaluation.pictures import (
    GALLERY_IMAGES,
    as_bytes,
    gallery,
    leaking_pairs,
    require_pairs,
    two_label_grid,
)
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.report.page.pictures import image_classes
from tests.support.fakes import SCHEMA, GradedSquares, GradedSquaresVAE, Squares, SquaresVAE
from tests.support.runs import LABELS, measurement, run_of, value


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


def test_the_gallery_has_the_values_of_a_continuous_label() -> None:
    data = GradedSquares(200, missing=0.1)
    subject = prepare(GradedSquaresVAE(), data, np.arange(200))
    found = gallery(subject, [np.arange(200)])
    np.testing.assert_array_equal(found["label/Smile"], data.labels_of(found["ids"])[:, 1])
    assert np.isnan(found["label/Smile"]).any()
    assert set(found["then/Smile"]) <= set(subject.levels("Smile").numpy().astype(np.float32))
    assert (found["do/Smile"] != found["reconstruction"]).any()
    run = run_of(measurement("density", "auc", [value("auc", 0.8)]))
    shown = image_classes(replace(run, gallery=found))["Smile"]
    assert [text == "unknown" for text in shown["now"]] == np.isnan(found["label/Smile"]).tolist()
    assert shown["then"] == [f"{v:.4g}" for v in found["then/Smile"]]


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


def test_a_categorical_label_is_set_to_each_of_its_classes() -> None:
    subject = prepare(SquaresVAE(), Squares(200), np.arange(200))
    found = gallery(subject, [np.arange(200)])
    hair = found["classes/Hair"]
    np.testing.assert_array_equal(found["moved"], np.arange(6))
    assert hair.shape == (6, 1 + SCHEMA["Hair"].cardinality, 32, 32, 3)
    for image, now in zip(hair, subject.classes("Hair")[:6], strict=True):
        np.testing.assert_array_equal(image[1 + now], image[0])  # its own class leaves an image unchanged
        assert all((image[1 + k] != image[0]).any() for k in range(len(image) - 1) if k != now)
    assert [name for name in found if name.startswith("classes/")] == ["classes/Hair"]


def test_two_labels_move_at_once() -> None:
    subject = prepare(SquaresVAE(), Squares(200), np.arange(200))
    down, across = binary = [label.name for label in SCHEMA if label.kind == "binary"][:2]
    found = gallery(subject, [np.arange(200)], [("Hair", down), ("absent", down), (down, across)])
    np.testing.assert_array_equal(found["pads"], [binary])
    pad = found["pad/0"].astype(int)
    assert pad.shape == (3, 5, 5, 32, 32, 3)
    np.testing.assert_array_equal(pad[0], two_label_grid(subject, down, across)[0])
    assert np.abs(pad[:, 4, 0] - pad[:, 0, 0]).mean() > 1
    assert np.abs(pad[:, 0, 4] - pad[:, 0, 0]).mean() > 1


def test_the_pairs_that_leak_most_come_first_and_once() -> None:
    response = {("a", "a"): 0.9, ("a", "b"): 0.2, ("b", "a"): 0.4, ("c", "a"): 0.3, ("a", "c"): 0.1}
    values = [value("response", number, i, at={"judged": j}) for (i, j), number in response.items()]
    assert leaking_pairs(run_of(measurement("locality", "focus", values))) == [("b", "a"), ("c", "a")]
    assert leaking_pairs(run_of(measurement("locality", "focus", []))) == [LABELS]


def test_the_pairs_of_the_pad_can_be_chosen() -> None:
    first, second = [label.name for label in SCHEMA if label.kind == "binary"][:2]
    said: list[str] = []
    run = evaluate(
        SquaresVAE(), Squares(200), ["accuracy"], sample=96, judge="none", references=False, notice=said.append,
        pairs=[(second, first), (first, second), (second, first)],
    )  # fmt: skip
    assert run.gallery["pads"].tolist() == [[second, first], [first, second], [second, first]]
    np.testing.assert_array_equal(run.gallery["pad/0"], run.gallery["pad/2"])
    assert not any("at once" in text for text in said)


def test_a_chosen_pair_without_paths_is_named() -> None:
    first, second = [label.name for label in SCHEMA if label.kind == "binary"][:2]
    said: list[str] = []
    run = evaluate(
        SquaresVAE(), Squares(40), ["accuracy"], limit=12, judge="none", references=False, notice=said.append,
        pairs=[(first, second)],
    )  # fmt: skip
    assert "pads" not in run.gallery
    assert f"The report does not move {first} and {second} at once: this sample gives no paths." in said


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("Smyle", "Tie"), "label 'Smyle' is unknown or not evaluated"),
        (("Smile", "Hair"), "a pair must be two binary labels, and 'Hair' is categorical"),
        (("Smile", "Smile"), "a pair must be two different labels, got 'Smile,Smile'"),
        (("Smile",), "a pair must be two different labels, got 'Smile'"),
    ],
)
def test_a_pair_must_be_two_binary_labels(pair: tuple[str, ...], said: str) -> None:
    subject = prepare(SquaresVAE(), Squares(40), np.arange(40))
    with pytest.raises(UsageError, match=said):
        require_pairs(subject, [pair])
