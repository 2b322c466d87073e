"""Errors of third-party models: incomplete, failing, or incompatible with the data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ccvae_eval
from ccvae_eval.core.errors import LabelMismatchError, PluginError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.plugins import registry
from tests.support.fakes import Squares, SquaresVAE


def evaluated(model: Any) -> Any:
    return ccvae_eval.evaluate(model, Squares(90), metrics=["density"], judge="none", sample=30)


def test_an_incomplete_model_names_its_missing_members() -> None:
    with pytest.raises(PluginError, match="Linear has no layout, labels, encode, decode"):
        evaluated(nn.Linear(2, 2))


def test_a_failing_encode_names_the_model_the_call_and_the_data() -> None:
    model = SquaresVAE()
    model.encode = lambda images, labels=None: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(PluginError, match=r"failed in encode\(images\), images of shape \(3, 32, 32\)") as failed:
        evaluated(model)
    assert "ZeroDivisionError" in failed.value.why
    assert "ccvae-eval check" in failed.value.hint


def test_data_of_another_shape_are_rejected_before_the_model_runs() -> None:
    model = SquaresVAE()
    model.input_shape = (3, 64, 64)  # type: ignore[assignment]
    with pytest.raises(LabelMismatchError, match="the model expects 3 x 64 x 64 images, got 3 x 32 x 32") as refused:
        evaluated(model)
    assert "size=64" in refused.value.hint


class Scaled(SquaresVAE):
    """A model with a required setting."""

    def __init__(self, scale: float, size: int = 32) -> None:
        super().__init__(scale=scale, size=size)
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, images: torch.Tensor, labels: Any = None) -> Gaussian:
        return super().encode(images)


def test_load_accepts_plugins_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "scaled.py").write_text(
        "from tests.evaluation.test_external_models import Scaled\nCCVAE_EVAL = {'models': {'scaled': Scaled}}\n"
    )
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    opened = ccvae_eval.load(tmp_path / "x.pt", settings={"scale": 0.2}, plugins=[tmp_path / "scaled.py"])
    assert opened.name == "scaled"
    assert opened.model.scale == 0.2
    run = evaluated(opened)
    assert run.header.checkpoint["settings"] == {"scale": 0.2}


def same_row_for_all(found: dict[str, Any], call: int) -> dict[str, Any]:
    del call
    return {name: value[:1] for name, value in found.items()}


def fewer_labels_later(found: dict[str, Any], call: int) -> dict[str, Any]:
    return found if call == 1 else dict(list(found.items())[1:])


def a_gaussian_later(found: dict[str, Any], call: int) -> dict[str, Any]:
    return found if call == 1 else {name: Gaussian(value, value.exp()) for name, value in found.items()}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (same_row_for_all, r"for 32 images must have shape \(32, 2\), got \(1, 2\)"),
        (fewer_labels_later, "the labels must be those of the first batch"),
        (a_gaussian_later, "a tensor for every batch, or a Gaussian for every batch"),
    ],
)
def test_predictions_that_do_not_fit_the_images_name_the_model(change: Any, why: str) -> None:
    model, calls = SquaresVAE(), []

    def predict(images: torch.Tensor, codes: torch.Tensor) -> Any:
        calls.append(len(images))
        return change(dict(SquaresVAE.predict(model, images, codes)), len(calls))

    model.predict = predict  # type: ignore[method-assign,assignment]
    subject = prepare(model, Squares(240), Squares(240).split("test"))
    with pytest.raises(PluginError, match=r"failed in predict\(images, codes\)") as failed:
        subject.predicted(sampled=False)
    assert re.search(why, failed.value.why)
