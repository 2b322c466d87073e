"""The first batch of an evaluation: mistakes in the range of pixels, the scale and the mode of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ccvae_eval
from ccvae_eval.core.errors import LabelMismatchError, PluginError
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.judge import selection
from ccvae_eval.model.checks import COMMON_RANGES, require_shape
from ccvae_eval.plugins import registry
from tests.support.fakes import Squares, SquaresVAE

GRID = 4


@pytest.fixture(autouse=True)
def _no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mistake is found before a judge is trained."""
    monkeypatch.setattr(selection, "train_judge", lambda *_, **__: pytest.fail("a judge was trained"))


def means(images: Tensor) -> Tensor:
    """Centred brightness of each square, shape (N, 16)."""
    side = images.shape[-1] // GRID
    return images.mean(1).reshape(len(images), GRID, side, GRID, side).mean((2, 4)).flatten(1)


def drawn(squares: Tensor, size: int = 32) -> Tensor:
    side = size // GRID
    image = squares.reshape(-1, 1, GRID, GRID).repeat_interleave(side, 2).repeat_interleave(side, 3)
    return image.expand(-1, 3, -1, -1)


def logit(pixels: Tensor) -> Tensor:
    return pixels.clamp(0.01, 0.99).logit()


def evaluated(encode: Any, decode: Any, metric: str = "locality", **given: Any) -> Any:
    model = ccvae_eval.wrap(
        encode=encode, decode=decode, dim=16, characteristics={"Glasses": [0], "Smile": [2]}, **given
    )
    return ccvae_eval.evaluate(model, Squares(120), [metric], sample=32, references=False, gallery=False, judge="none")


def encode_signed(images: Tensor) -> tuple[Tensor, Tensor]:
    """An encoder of images in [-1, 1] that were standardised in training."""
    codes = 3 * means(images) + 0.5
    return codes, torch.full_like(codes, 0.1)


def decode_signed(codes: Tensor) -> Tensor:
    return drawn(torch.tanh(codes - 2))


def encode(images: Tensor) -> tuple[Tensor, Tensor]:
    codes = logit(means(images))
    return codes, torch.full_like(codes, 0.1)


def test_a_forgotten_image_range_is_refused() -> None:
    with pytest.raises(PluginError, match=r"pixels from -0\.\d+ to .*expected \[0, 1\]") as refused:
        evaluated(encode_signed, decode_signed, "density")
    assert "image_range=(-1, 1)" in refused.value.hint


def test_a_decoder_of_bytes_is_refused() -> None:
    with pytest.raises(PluginError, match=r"pixels from .* to 2\d\d, expected \[0, 1\]") as refused:
        evaluated(encode, lambda z: 255 * drawn(z.sigmoid()))
    assert "encoder and decoder share another range: image_range=(0, 255) (if only one" in refused.value.hint


def test_logits_are_refused() -> None:
    with pytest.raises(PluginError, match="returned pixels from -") as refused:
        evaluated(encode, drawn)
    assert "logits=True" in refused.value.hint
    assert not evaluated(encode, drawn, logits=True).header.warnings


@pytest.mark.parametrize(("scale", "values"), [("logvar", -4.0), ("logstd", -2.0)])
def test_a_logarithm_given_as_deviation_is_refused(scale: str, values: float) -> None:
    def logarithmic(images: Tensor) -> tuple[Tensor, Tensor]:
        codes = encode(images)[0]
        return codes, torch.full_like(codes, values)

    def decode(codes: Tensor) -> Tensor:
        return drawn(codes.sigmoid())

    with pytest.raises(PluginError, match="negative standard deviations, down to -") as refused:
        evaluated(logarithmic, decode, "density")
    assert f'scale="{scale}"' in refused.value.hint
    assert not evaluated(logarithmic, decode, "density", scale=scale).header.warnings
    model = ccvae_eval.wrap(encode=logarithmic, decode=decode, dim=16, scale=scale)  # type: ignore[arg-type]
    assert torch.allclose(model.encode(torch.rand(2, 3, 32, 32)).scale, torch.tensor(-2.0).exp())


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ccvae_eval.core.errors.UsageError, match="scale must be one of std, logvar, logstd"):
        ccvae_eval.wrap(encode=encode, decode=drawn, dim=16, scale="variance")  # type: ignore[arg-type]


def test_pixels_slightly_outside_the_default_range_are_a_warning() -> None:
    def decode(codes: Tensor) -> Tensor:
        return drawn(1.1 * codes.sigmoid() - 0.05)

    (warning,) = evaluated(encode, decode).header.warnings
    assert "clipped to [0, 1]" in warning
    assert "image_range=(0, 1) clips" in warning
    assert not evaluated(encode, decode, image_range=(0, 1)).header.warnings


@pytest.mark.parametrize("given", [{"logits": True}, {"image_range": (-1, 1)}])
def test_a_setting_that_the_model_does_not_need_is_a_warning(given: dict[str, Any]) -> None:
    notices: list[str] = []
    model = ccvae_eval.wrap(encode=encode, decode=lambda z: drawn(z.sigmoid()), dim=16, **given)
    arguments: dict[str, Any] = {"sample": 64, "judge": "none", "references": False, "notice": notices.append}
    run = ccvae_eval.evaluate(model, Squares(240), ["density"], **arguments)
    assert any("reconstructed better with image_range=(0, 1), logits=False" in text for text in run.header.warnings)
    assert any("reconstructed better" in text for text in notices)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(16)])
def test_a_network_in_training_mode_is_a_warning(layer: nn.Module) -> None:
    run = evaluated(lambda x: layer(means(x)), lambda z: drawn(z.sigmoid()), "density")
    assert any("training mode" in text for text in run.header.warnings)
    layer.eval()
    run = evaluated(lambda x: layer(means(x)), lambda z: drawn(z.sigmoid()), "density")
    assert not any("training mode" in text for text in run.header.warnings)


PLUGIN = """
import torch
from ccvae_eval import Gaussian, LabelSchema, LatentLayout
from tests.model.test_checks import decode_signed, drawn, encode, encode_signed


class Net(torch.nn.Module):
    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.layout, self.labels = LatentLayout(16), LabelSchema(())
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode(self, images, labels=None):
        codes, scale = (encode_signed if self.fault == "signed" else encode)(images)
        return Gaussian(codes, -scale if self.fault == "logvar" else scale)

    def decode(self, codes):
        if self.fault == "signed":
            return decode_signed(codes)
        return drawn(codes) if self.fault == "logits" else 255 * drawn(codes.sigmoid())


CCVAE_EVAL = {"models": {"net": Net}}
"""


@pytest.mark.parametrize(
    ("fault", "what", "hint"),
    [
        ("signed", "returned pixels from -", "--set images.range=[-1,1]"),
        ("bytes", "returned pixels from ", "--set images.range=[0,255]"),
        ("logits", "returned pixels from -", "--set images.logits=true"),
        ("logvar", "negative standard deviations", "(v / 2).exp()"),
    ],
)
def test_the_same_mistakes_in_a_plugin_are_refused(
    fault: str, what: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "net.py").write_text(PLUGIN)
    torch.save({"weight": torch.ones(1)}, tmp_path / "net.pt")
    opened = ccvae_eval.load(tmp_path / "net.pt", settings={"fault": fault}, plugins=[tmp_path / "net.py"])
    with pytest.raises(PluginError) as refused:
        ccvae_eval.evaluate(opened, Squares(240), ["density"], sample=32, cache_dir=tmp_path)
    assert what in refused.value.what
    assert refused.value.where == str(tmp_path / "net.py")
    assert hint in refused.value.hint


def test_no_judge_is_trained_for_a_decoder_that_fails(tmp_path: Path) -> None:
    model = SquaresVAE()
    model.decode = lambda codes: torch.full((len(codes), 3, 32, 32), torch.nan)  # type: ignore[method-assign]
    run = ccvae_eval.evaluate(model, Squares(120), ["locality"], sample=32, references=False, cache_dir=tmp_path)
    assert run.measurement("locality").status == "failed"
    assert "NaN" in run.measurement("locality").reason.text  # type: ignore[union-attr]


def test_no_judge_is_trained_if_each_label_has_one_class(tmp_path: Path) -> None:
    data = Squares(300)
    data._labels[:] = np.where(np.arange(300)[:, None] < 200, data._labels, 0)  # the split `test` begins at 200
    run = ccvae_eval.evaluate(SquaresVAE(), data, ["locality"], sample=32, references=False, cache_dir=tmp_path)
    assert run.header.judge is None


def test_a_decoder_of_numbers_that_are_not_finite_is_left_to_the_metrics() -> None:
    for value in (torch.nan, torch.inf):
        model = ccvae_eval.wrap(
            encode=encode, decode=lambda z, v=value: torch.full((len(z), 3, 32, 32), v), dim=16
        )  # fmt: skip
        assert prepare(model, Squares(120), np.arange(32)).first_batch_warnings() == []


def test_each_common_range_is_tried_once() -> None:
    calls: list[int] = []

    def decode(codes: Tensor) -> Tensor:
        calls.append(len(codes))
        return drawn(codes.sigmoid())

    subject = prepare(ccvae_eval.wrap(encode=encode, decode=decode, dim=16), Squares(120), np.arange(32))
    assert subject.first_batch_warnings() == []
    assert len(calls) == len(COMMON_RANGES)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((3, 32, 32), "Many data sets can be resized: --data NAME:PATH,size=64."),
        (
            (1, 64, 64),
            "The number of channels differs, which resizing does not change. Image files can be read with other "
            "channels: --data folder:PATH,channels=3.",
        ),
    ],
)
def test_resizing_is_advised_only_for_the_right_channels(shape: tuple[int, ...], hint: str) -> None:
    class Network:
        input_shape = (3, 64, 64)

    with pytest.raises(LabelMismatchError) as refused:
        require_shape(Network(), shape, "data")
    assert refused.value.hint == hint
