"""A GPU gives the same results as the CPU (values, training, matching), and the same bits each time.

These tests need a CUDA device and are skipped without one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ccvae_eval
from ccvae_eval import evaluate
from ccvae_eval.cli.main import app
from ccvae_eval.core.results import Estimate, Value
from ccvae_eval.data.spec import open_data
from ccvae_eval.evaluation.run import Run
from ccvae_eval.metrics.drift.metric import matcher_named
from ccvae_eval.metrics.matchers.aliked import AlikedMatcher
from ccvae_eval.metrics.matchers.interface import Matcher
from ccvae_eval.model.interface import HasConditionalPrior, supports
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, metrics, models
from ccvae_eval.training import TrainingSettings, fit
from ccvae_eval.training import prepare as prepare_training
from tests.support.edits import textures
from tests.support.paths import SHARED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA is not available"),
]

CHECKPOINT = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
WEIGHTS = SHARED / "weights/aliked-t16.pth"
DIGEST = "56782336919d"
COUNT = 64
OPTIONS: dict[str, Any] = {"generation": {"asked_images": 64, "chance_images": 64}}
SMOOTH = {"mse", "psnr", "ssim", "kl", "elbo", "iwae", "inside", "inside_energy", "concentration", "magnitude", "floor"}
"""Means of smooth functions of pixels and codes, without thresholds, ranks, matches or probability differences."""
SETTINGS: dict[str, dict[str, Any]] = {"diva": {"domain": "Smiling", "block": 2}}
LEARN = TrainingSettings(steps=3, batch=32, rate=0.5, validation=0.1)
BUILTIN_MODELS = sorted(r.name for r in models.registrations() if r.distribution == BUILTIN_DISTRIBUTION)


def run_on(device: str, **arguments: Any) -> Run:
    return evaluate(
        CHECKPOINT, metrics=sorted(metrics), limit=COUNT, options=OPTIONS, device=device, references=False, **arguments
    )


@pytest.fixture(scope="module")
def on_gpu() -> Run:
    return run_on("cuda")


def by_address(run: Run) -> dict[Any, Value]:
    return {(m.metric, v.key): v for m in run.measurements for v in m.values}


def ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def test_every_value_agrees_with_the_cpu(on_gpu: Run) -> None:
    there, here = by_address(on_gpu), by_address(run_on("cpu"))
    assert there.keys() == here.keys()
    assert len(here) > 500
    assert {key[0] for _, key in here} >= SMOOTH
    wrong = []
    for (metric, key), value in here.items():
        other, estimate = there[metric, key], value.estimate
        for one, two in zip(ends(estimate), ends(other.estimate), strict=True):
            tolerance = 1e-5 * abs(one) + 1e-8 if value.name in SMOOTH else max(1e-4, 3 / max(estimate.n, 1))
            if math.isnan(one) != math.isnan(two) or abs(one - two) > tolerance * max(1.0, abs(one)):
                wrong.append(f"{metric} {key}: {ends(estimate)} and {ends(other.estimate)}")
                break
    assert not wrong, "\n".join(wrong)


def test_a_gpu_gives_the_same_bits_for_every_batch_size(on_gpu: Run) -> None:
    again = run_on("cuda", batch_size=32)
    there, here = by_address(on_gpu), by_address(again)
    assert there.keys() == here.keys()
    assert all(np.array_equal(ends(there[key].estimate), ends(here[key].estimate), equal_nan=True) for key in here)


def test_precision_and_random_state_are_restored() -> None:
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state(), torch.backends.cudnn.conv.fp32_precision
    evaluate(CHECKPOINT, metrics=["reconstruction"], limit=32, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.backends.cudnn.conv.fp32_precision == before[1]


def trained(name: str, device: str, folder: Path | None = None, **arguments: Any) -> tuple[Any, dict[str, float]]:
    data = open_data("faces,size=32,n=640")
    model = prepare_training(name, SETTINGS.get(name, {}), data, LEARN)[0]
    terms: dict[str, float] = {}
    for event in fit(model, data, LEARN, device=device, folder=folder, **arguments):
        terms = getattr(event, "terms", terms)
    return model, terms


@pytest.mark.parametrize("name", BUILTIN_MODELS)
def test_training_agrees_with_the_cpu_and_is_reproducible(name: str) -> None:
    here, terms = trained(name, "cpu")
    there, others = trained(name, "cuda")
    again, _ = trained(name, "cuda")
    assert {p.device.type for p in there.parameters()} == {"cuda"}
    for key, value in terms.items():
        assert others[key] == pytest.approx(value, rel=2e-3, abs=1e-5, nan_ok=True), key
    # weights differ from the CPU's: for a gradient near 0 Adam's step depends on its sign
    for (key, one), two in zip(there.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), key
    data = open_data("faces,size=32,n=640")
    for model in (here, there):
        device = next(model.parameters()).device.type
        found = evaluate(
            model, data, metrics=["density", "locality", "accuracy"], limit=64, device=device, judge="none"
        )
        assert {m.status for m in found.measurements} <= {"ok", "unsupported", "undefined"}, found.measurements
    if supports(there, HasConditionalPrior):
        labels = torch.zeros(2, len(there.labels), device="cuda")
        assert there.conditional_prior(labels).loc.device.type == "cuda"


def test_resumed_training_gives_the_same_bits(tmp_path: Path) -> None:
    whole, _ = trained("ccvae", "cuda")
    steps = iter([False, True])
    trained("ccvae", "cuda", tmp_path, stop=lambda: next(steps))
    resumed, _ = trained("ccvae", "cuda", tmp_path, resume=True)
    for (key, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), key


MATCHERS = {
    "grid": lambda: matcher_named("grid"),
    "sift": lambda: matcher_named("sift"),
    "kornia-sift": lambda: matcher_named("kornia-sift"),
    "aliked": lambda: AlikedMatcher(weights=str(WEIGHTS), sha256=DIGEST),
}


@pytest.mark.parametrize("name", MATCHERS)
def test_matches_agree_with_the_cpu(name: str) -> None:
    if name == "aliked" and not WEIGHTS.is_file():
        pytest.skip("shared/weights is missing")
    matcher: Matcher = MATCHERS[name]()
    first = textures(6, 64, 1, 0)
    second = first.roll((1, 1), (2, 3))
    found = []
    for device in ("cpu", "cuda"):
        a, b = (matcher.features(images.to(device)) for images in (first, second))
        found.append(matcher.match(a, b))
    counts = [m.matched.sum(1).cpu().numpy() for m in found]
    assert counts[0].min() > 0
    np.testing.assert_allclose(counts[1], counts[0], rtol=0.05, atol=1)


def test_the_command_uses_and_reports_the_gpu() -> None:
    arguments = ["locality", str(CHECKPOINT), "--data", "faces", "--limit", "64", "--device", "cuda", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    named = json.loads(result.stdout)["environment"]["device"]
    assert named.startswith("cuda")
    assert torch.cuda.get_device_name() in named
