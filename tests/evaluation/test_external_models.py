"""What a stranger's model gets to hear when it is none, fails, or is given other data than it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ccvae_eval
from ccvae_eval.core.errors import LabelMismatchError, PluginError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.plugins import registry
from tests.support.fakes import Squares, SquaresVAE


def evaluated(model: Any) -> Any:
    return ccvae_eval.evaluate(model, Squares(90), metrics=["density"], judge="none", sample=30)


def test_what_is_no_model_says_what_it_lacks() -> None:
    with pytest.raises(PluginError, match="Linear has no layout, labels, encode, decode"):
        evaluated(nn.Linear(2, 2))


def test_a_failing_encode_names_the_model_the_call_and_the_data() -> None:
    model = SquaresVAE()
    model.encode = lambda images, labels=None: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(PluginError, match=r"failed in encode\(images\), images of shape \(3, 32, 32\)") as failed:
        evaluated(model)
    assert "ZeroDivisionError" in failed.value.why
    assert "ccvae-eval check" in failed.value.hint


def test_data_of_another_shape_are_refused_before_the_model_runs() -> None:
    model = SquaresVAE()
    model.input_shape = (3, 64, 64)  # type: ignore[assignment]
    with pytest.raises(LabelMismatchError, match=r"takes inputs of shape \(3, 64, 64\)"):
        evaluated(model)


class Moody(SquaresVAE):
    """Its second argument has no default."""

    def __init__(self, scale: float, size: int = 32) -> None:
        super().__init__(scale=scale, size=size)
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, images: torch.Tensor, labels: Any = None) -> Gaussian:
        return super().encode(images)


def test_load_takes_plugins_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "moody.py").write_text(
        "from tests.evaluation.test_external_models import Moody\nCCVAE_EVAL = {'models': {'moody': Moody}}\n"
    )
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    opened = ccvae_eval.load(tmp_path / "x.pt", settings={"scale": 0.2}, plugins=[tmp_path / "moody.py"])
    assert opened.name == "moody"
    assert opened.model.scale == 0.2
    run = evaluated(opened)
    assert run.header.checkpoint["settings"] == {"scale": 0.2}
