"""Devices by their names, and exact arithmetic whatever settings the caller uses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.backends import cuda, cudnn

from ccvae_eval.core.devices import device_named, environment, exact_arithmetic
from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.plugins.registry import metrics
from ccvae_eval.training import TrainingSettings, fit
from ccvae_eval.training import prepare as prepare_training
from tests.support.clouds import Clouds
from tests.support.fakes import Squares, SquaresVAE

EXACT = ("ieee", "ieee", "ieee", True, False)


def precision_settings() -> tuple[str | bool, ...]:
    parts = (cudnn.conv, cudnn.rnn, cuda.matmul)
    return *(part.fp32_precision for part in parts), cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def fast() -> Iterator[tuple[str | bool, ...]]:
    """The settings of a caller that prefers speed to precision."""
    before, high, benchmark = cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = True, True
    torch.set_float32_matmul_precision("high")
    yield precision_settings()
    cudnn.allow_tf32, cudnn.benchmark = before, benchmark
    torch.set_float32_matmul_precision(high)


def test_arithmetic_is_exact_inside_and_restored_on_return(fast: tuple[str | bool, ...]) -> None:
    with exact_arithmetic():
        assert precision_settings() == EXACT
    assert precision_settings() == fast != EXACT
    older = cudnn.allow_tf32, cuda.matmul.allow_tf32
    assert older == (True, True), "torch's older settings can be read again"
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        _ = 1 / 0
    assert precision_settings() == fast


class RecordingVAE(SquaresVAE):
    """Records the precision settings of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str | bool, ...]] = set()

    def encode(self, images, labels=None):
        self.seen.add(precision_settings())
        return super().encode(images, labels)

    def decode(self, codes):
        self.seen.add(precision_settings())
        return super().decode(codes)


def test_a_model_is_evaluated_with_exact_arithmetic(fast: tuple[str | bool, ...]) -> None:
    model = RecordingVAE()
    subject = prepare(model, Squares(8), np.arange(8))
    assert model.seen == {EXACT}
    model.seen.clear()
    measure(subject, [metrics["reconstruction"]()])
    assert model.seen == {EXACT}
    assert precision_settings() == fast


def test_training_is_exact_and_restores_the_settings_between_steps(fast: tuple[str | bool, ...]) -> None:
    settings = TrainingSettings(steps=2, batch=20)
    model = prepare_training("vae", {"latent": 3, "hidden": 16}, Clouds(), settings)[0]
    seen = set()
    for layer in model.modules():
        layer.register_forward_pre_hook(lambda *_: seen.add(precision_settings()))
    for _ in fit(model, Clouds(), settings):
        assert precision_settings() == fast
    assert seen == {EXACT}


def test_devices_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:", "cuda:-1", "CPU", ""):
        with pytest.raises(UsageError, match="unknown"):
            device_named(name)
    with pytest.raises(UsageError, match="no CUDA GPU found|not available"):
        device_named("cuda:99")


def test_environment_names_the_device() -> None:
    for name in ("cpu", "mps"):
        assert environment(torch.device(name))["device"] == name, "a device without a model name"
