"""Devices by their names, and arithmetic that no caller's switch makes rougher."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.backends import cuda, cudnn

from ccvae_eval.core.devices import described, device_named, exact_arithmetic
from ccvae_eval.core.errors import UsageError
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.plugins.registry import metrics
from ccvae_eval.training import TrainingSettings, fit
from ccvae_eval.training import prepare as prepare_training
from tests.support.clouds import Clouds
from tests.support.fakes import Squares, SquaresVAE

EXACT = ("ieee", "ieee", "ieee", True, False)


def switches() -> tuple[str | bool, ...]:
    parts = (cudnn.conv, cudnn.rnn, cuda.matmul)
    return *(part.fp32_precision for part in parts), cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def rough() -> Iterator[tuple[str | bool, ...]]:
    """Switches as a program that wants speed sets them."""
    before, high, benchmark = cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = True, True
    torch.set_float32_matmul_precision("high")
    yield switches()
    cudnn.allow_tf32, cudnn.benchmark = before, benchmark
    torch.set_float32_matmul_precision(high)


def test_arithmetic_is_exact_inside_and_as_it_was_on_return(rough: tuple[str | bool, ...]) -> None:
    with exact_arithmetic():
        assert switches() == EXACT
    assert switches() == rough != EXACT
    older = cudnn.allow_tf32, cuda.matmul.allow_tf32
    assert older == (True, True), "the older names of the switches can be read again"
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        _ = 1 / 0
    assert switches() == rough


class Watching(SquaresVAE):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str | bool, ...]] = set()

    def encode(self, images, labels=None):
        self.seen.add(switches())
        return super().encode(images, labels)

    def decode(self, codes):
        self.seen.add(switches())
        return super().decode(codes)


def test_a_model_is_encoded_and_measured_exactly(rough: tuple[str | bool, ...]) -> None:
    model = Watching()
    subject = prepare(model, Squares(8), np.arange(8))
    assert model.seen == {EXACT}
    model.seen.clear()
    evaluate(subject, [metrics["reconstruction"]()])
    assert model.seen == {EXACT}
    assert switches() == rough


def test_a_model_learns_exactly_and_the_switches_are_the_callers_between_steps(rough: tuple[str | bool, ...]) -> None:
    settings = TrainingSettings(steps=2, batch=20)
    model = prepare_training("vae", {"latent": 3, "hidden": 16}, Clouds(), settings)[0]
    seen = set()
    for layer in model.modules():
        layer.register_forward_pre_hook(lambda *_: seen.add(switches()))
    for _ in fit(model, Clouds(), settings):
        assert switches() == rough
    assert seen == {EXACT}


def test_devices_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="unknown"):
        device_named("gpu")
    with pytest.raises(UsageError, match="not there"):
        device_named("cuda:99")
    assert described(torch.device("cpu")) == "cpu"
    assert described(torch.device("mps")) == "mps", "a device without a card's name"
