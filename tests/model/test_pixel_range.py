"""A model with another pixel range, given by ``--set`` or in a TOML file instead of in its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ccvae_eval
from ccvae_eval.checkpoint import inspect_checkpoint, open_checkpoint
from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import CcvaeEvalError, UsageError
from ccvae_eval.model.interface import (
    HasConditionalPrior,
    LabelledVAE,
    Predicts,
    StatesLikelihood,
    TakesShape,
    supports,
    type_name,
    unwrapped,
)
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.model.wrap import PixelRangeModel
from ccvae_eval.plugins import registry
from ccvae_eval.testing import check_model
from ccvae_eval.testing.model_fixtures import model_fixture
from tests.support.fakes import SquaresVAE

PLUGIN = """
import torch
from torch import nn
from ccvae_eval import Gaussian, LatentLayout, LabelSchema


class Plain(nn.Module):
    layout, labels, input_shape = LatentLayout(3), LabelSchema(()), (3, 32, 32)
    likelihood_name = "of its pixels"

    def __init__(self, width=4):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3 * 32 * 32, 3), nn.Linear(3, 3 * 32 * 32)
        self.seen = []

    def encode(self, images, labels=None):
        self.seen.append((images.min().item(), images.max().item()))
        loc = self.encoder(images.flatten(1))
        return Gaussian(loc, torch.ones_like(loc))

    def decode(self, codes):
        return self.decoder(codes).reshape(-1, 3, 32, 32)

    def log_likelihood(self, images, codes):
        return -(images - self.decode(codes)).square().flatten(1).sum(1)


CCVAE_EVAL = {"models": {"plain": Plain}}
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state_dict, and a plugin file with its class next to it."""
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "my.py").write_text(PLUGIN)
    registry.add_plugin_file(tmp_path / "my.py")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(registry.models["plain"]().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize("in_toml", [False, True], ids=["--set", "TOML"])
def test_images_are_converted_in_both_directions(weights: Path, in_toml: bool) -> None:
    images, codes = torch.rand(4, 3, 32, 32), torch.randn(4, 3)
    plain: Any = open_checkpoint(weights, model="plain").model
    if in_toml:
        weights.with_suffix(".toml").write_text("[settings]\nwidth = 5\n[images]\nrange = [0, 255]\n")
    opened = open_checkpoint(weights, settings={} if in_toml else {"width": 5, "images.range": [0, 255]})
    model: Any = opened.model
    assert torch.equal(model.encode(images).loc, plain.encode(images * 255).loc)
    assert torch.equal(model.decode(codes), (plain.decode(codes) / 255).clamp(0, 1))
    assert torch.equal(model.log_likelihood(images, codes), plain.log_likelihood(images * 255, codes))
    assert opened.record is not None
    assert opened.record.settings == {"width": 5, "images.range": [0.0, 255.0], "images.logits": False}
    assert any("[0, 255]" in note for note in opened.notes)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_settings_of_the_call_override_the_toml_file(weights: Path) -> None:
    weights.with_suffix(".toml").write_text("[images]\nrange = [0, 255]\nlogits = true\n")
    model: Any = open_checkpoint(weights, settings={"images.range": [-1, 1]}).model
    inner = unwrapped(model)
    images, codes = torch.rand(4, 3, 32, 32), torch.randn(4, 3)
    assert torch.equal(model.encode(images).loc, inner.encode(images * 2 - 1).loc)
    assert torch.equal(model.decode(codes), inner.decode(codes).sigmoid()), "the sigmoid already lies in [0, 1]"


def test_the_wrapper_has_the_capabilities_of_the_model(weights: Path) -> None:
    model: Any = open_checkpoint(weights, settings={"images.logits": True}).model
    assert supports(model, LabelledVAE)
    assert supports(model, TakesShape)
    assert supports(model, StatesLikelihood)
    assert not supports(model, Predicts)
    assert not supports(model, HasConditionalPrior)
    assert (type_name(model), model.input_shape, model.likelihood_name) == (
        "Plain",
        (3, 32, 32),
        "of its pixels",
    )
    check_model(model, torch.rand(4, 3, 32, 32), torch.empty(4, 0))


class Predicting(SquaresVAE, nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        SquaresVAE.__init__(self)


def test_predict_receives_images_in_the_models_range() -> None:
    seen = []

    class RecordingPredictor(Predicting):
        def predict(self, images: torch.Tensor, codes: torch.Tensor) -> Any:
            seen.append(images)
            return super().predict(images, codes)

    model: Any = PixelRangeModel(RecordingPredictor(), PixelRange(-1, 1))
    assert supports(model, Predicts)
    assert supports(model, HasConditionalPrior)
    model.predict(torch.zeros(2, 3, 32, 32), torch.zeros(2, model.layout.dim))
    assert bool((seen[0] == -1).all())


def test_points_are_not_converted() -> None:
    points = torch.randn(5, 2)
    assert PixelRange(-1, 1, logits=True).to_model(points) is points
    assert PixelRange(-1, 1, logits=True).from_model(points) is points


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images.rang", [-1, 1], "Did you mean 'images.range'"),
        ("images.range", [1, -1], "ascending"),
        ("images.range", [0, float("inf")], "must be finite"),
        ("images.range", 255, "must be two numbers"),
        ("images.range", [False, True], "must be two numbers"),
        ("images.logits", "yes", "must be true or false, got yes"),
        ("image_range", [-1, 1], "Did you mean 'images.range'"),
    ],
)
def test_an_invalid_pixel_setting_is_refused(key: str, value: Any, message: str, weights: Path) -> None:
    with pytest.raises(UsageError, match=message):
        open_checkpoint(weights, model="plain", settings={key: value})


def test_an_invalid_table_in_the_toml_file_names_the_file(weights: Path) -> None:
    weights.with_suffix(".toml").write_text("[images]\nlogit = true\n")
    with pytest.raises(CcvaeEvalError, match="Did you mean 'images.logits'") as refused:
        open_checkpoint(weights)
    assert refused.value.where.endswith("w.toml")
    weights.with_suffix(".toml").write_text("images = 3\n")
    with pytest.raises(CcvaeEvalError, match="w.toml: images must be an object, got 3"):
        open_checkpoint(weights)


def test_inspect_and_check_accept_pixel_settings(weights: Path) -> None:
    (row,) = inspect_checkpoint(weights, {"images.range": [-1, 1]})["candidates"]
    assert row["fits"] == "4 of 4 tensors"
    model: Any = model_fixture("plain", registry.models["plain"], {"images.logits": True}).model
    assert bool((model.decode(torch.randn(4, 3)) > 0).all())


def output_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        main(arguments)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_run_and_a_converted_checkpoint_record_pixel_settings(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a class that converts its images itself gives the same values."""
    plugin, out = ["--plugin", str(weights.with_name("my.py"))], str(weights.with_name("out"))
    common = [
        "--data", "faces,size=32,n=300", "--sample", "40", "--judge", "none", "--json", "--no-figures", "--out", out,
        "--force", "--metric", "reconstruction",
    ]  # fmt: skip
    pixels = ["--set", "images.range=[-1,1]", "--set", "images.logits=true", "--set", "width=5"]
    code, text, err = output_of(["run", str(weights), *plugin, *pixels, *common], capsys)
    assert code == 0, err
    run = json.loads(text)
    assert run["checkpoint"]["settings"] == {"width": 5, "images.range": [-1.0, 1.0], "images.logits": True}
    assert any("the model takes images in [-1, 1]" in warning for warning in run["warnings"])
    (weights.with_name("own.py")).write_text(
        PLUGIN.replace("def encode(self, images, labels=None):", "def encode(self, images, labels=None):\n"
                       "        images = images * 2 - 1")
        .replace("self.decoder(codes).reshape(-1, 3, 32, 32)", "self.decoder(codes).reshape(-1, 3, 32, 32).sigmoid()")
        .replace("(images - self.decode(codes))", "(images - self.decoder(codes).reshape(-1, 3, 32, 32))")
        .replace("plain", "own")
    )  # fmt: skip
    code, text, err = output_of(
        ["run", str(weights), "--plugin", str(weights.with_name("own.py")), "--model", "own", *common], capsys
    )
    assert code == 0, err
    own = json.loads(text)
    values = [{v["name"]: v["value"] for v in r["measurements"][0]["values"]} for r in (run, own)]
    assert values[0]["mse"] == values[1]["mse"]
    assert values[0]["mse"] < 0.5
    converted = str(weights.with_name("c.pt"))
    assert (
        output_of(["convert", str(weights), *plugin, *pixels, "--model", "plain", "--out", converted], capsys)[0] == 0
    )
    code, text, err = output_of(["run", converted, *plugin, *common], capsys)
    assert code == 0, err
    assert json.loads(text)["checkpoint"]["settings"] == run["checkpoint"]["settings"]


def test_a_builtin_model_rejects_pixel_settings(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Path(ccvae_eval.__file__).parent / "assets/ccvae-faces64.pt"
    code, _out, err = output_of(["run", str(checkpoint), "--set", "images.logits=true"], capsys)
    assert code == 2
    assert "was trained on images in [0, 1]" in err
