"""``--precision bf16``: encoder and decoder in bfloat16, within the stated tolerance, and recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ccvae_eval
from ccvae_eval import evaluate
from ccvae_eval.core.errors import UsageError
from ccvae_eval.model.interface import HasConditionalPrior, Trainable, supports
from ccvae_eval.model.wrap import HalfPrecisionModel
from tests.support.commands import run_command

CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
TOLERANCE = 0.01
"""Relative to the float32 value; docs/metrics/reproducibility.md states it."""


def test_networks_run_in_bfloat16_and_return_float32() -> None:
    inner = ccvae_eval.load(CHECKPOINT).model
    model, images = HalfPrecisionModel(inner), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, found = inner.encode(images), model.encode(images)
        pictures, exact_pictures = model.decode(found.loc), inner.decode(found.loc)
    assert found.loc.dtype == found.scale.dtype == pictures.dtype == torch.float32
    assert not torch.equal(found.loc, exact.loc)
    torch.testing.assert_close(found.loc, exact.loc, rtol=0.05, atol=0.05)
    assert not torch.equal(pictures, exact_pictures)
    torch.testing.assert_close(pictures, exact_pictures, rtol=0.05, atol=0.05)
    assert supports(model, HasConditionalPrior)
    assert not supports(model, Trainable)


@pytest.mark.slow
def test_headline_values_keep_the_stated_tolerance_and_the_run_says_so() -> None:
    def run(precision: str) -> ccvae_eval.Run:
        metrics = ["density", "accuracy", "reconstruction"]
        return evaluate(
            CHECKPOINT, metrics=metrics, limit=64, device="cpu", judge="none", references=False, precision=precision,
            options={"reconstruction": {"importance": 1, "gap_images": 0}},
        )  # fmt: skip

    exact, reduced = run("float32"), run("bf16")
    assert reduced.header.environment["precision"] == "bf16"
    assert "precision" not in exact.header.environment
    for address in ("density.auc", "accuracy.balanced_accuracy", "reconstruction.mse", "reconstruction.ssim"):
        assert reduced[address] == pytest.approx(exact[address], rel=TOLERANCE), address
    assert reduced["reconstruction.mse"] != exact["reconstruction.mse"]


def test_an_unknown_precision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="precision must be one of float32, bf16, got 'fp8'"):
        evaluate(CHECKPOINT, precision="fp8")
    assert run_command("density", CHECKPOINT, "--precision", "fp8") == 2
    assert "bf16" in capsys.readouterr().err
