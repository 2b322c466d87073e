"""disent: a checkpoint of its Lightning modules gives the codes and images of its own networks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint import inspect_checkpoint, open_checkpoint
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError
from ccvae_eval.testing import check_model
from tests.adapters.test_lightning_and_pythae import lightning

LATENT = 5


class Encoder(nn.Module):
    """disent's ``EncoderConv64``, written independently of the adapter."""

    def __init__(self, channels: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(channels, 32, 4, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 4, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel, stride=2, padding=2 if kernel == 4 else 1),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel, stride=2, padding=2 if kernel == 4 else 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1600, 256),
            nn.ReLU(),
            nn.Linear(256, outputs),
        )


class Decoder(nn.Module):
    """disent's ``DecoderConv64``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(LATENT, 256),
            nn.ReLU(),
            nn.Linear(256, 1024),
            nn.ReLU(),
            nn.Unflatten(1, (64, 4, 4)),
            nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1),
        )


class AutoEncoder(nn.Module):
    def __init__(self, channels: int = 3, variance: bool = True, kernel: int = 4) -> None:
        super().__init__()
        self._encoder = Encoder(channels, LATENT * (2 if variance else 1), kernel)
        self._decoder = Decoder(channels)


class Framework(nn.Module):
    """A Lightning module of disent: the networks are its ``_model``."""

    def __init__(self, model: AutoEncoder) -> None:
        super().__init__()
        self._model = model


@dataclass
class cfg:
    """The configuration that disent stores as an object."""

    recon_loss: str = "mse"
    latent_distribution: str = "normal"
    loss_reduction: str = "mean"


@pytest.fixture
def external(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Saves a checkpoint with objects of a module that is not importable when the checkpoint is opened."""
    module = ModuleType("disent_frameworks")
    for kind in (cfg, AutoEncoder, Encoder, Decoder):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)

    def save(path: Path, model: AutoEncoder, **config: Any) -> Path:
        sys.modules[module.__name__] = module
        try:
            objects = {"model": model, "cfg": cfg(**config), "batch_augment": None}
            return lightning(path, Framework(model), prefix="", hyper_parameters=objects)
        finally:
            del sys.modules[module.__name__]

    return save


def outputs(model: AutoEncoder, images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model._encoder.model(images), model._decoder.model(codes)


IMAGES, CODES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.linspace(-2, 2, 20)


@pytest.mark.parametrize(("kernel", "channels"), [(2, 1), (4, 3)])
def test_the_adapter_gives_the_codes_and_images_of_disent(
    kernel: int, channels: int, external: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    original = AutoEncoder(channels, kernel=kernel)
    opened = open_checkpoint(external(tmp_path / "last.ckpt", original))
    assert opened.name == "disent"
    images, codes = IMAGES[:, :channels], CODES.reshape(4, LATENT)
    found, shown = outputs(original, images, codes)
    model: Any = opened.model
    q = model.encode(images)
    assert torch.equal(q.loc, found[:, :LATENT])
    assert torch.allclose(q.scale, (0.5 * found[:, LATENT:]).exp())
    assert torch.equal(model.decode(codes), shown.clamp(0, 1))
    check_model(model, images, torch.empty(4, 0))


def test_an_autoencoder_has_codes_without_variance(external: Any, tmp_path: Path) -> None:
    original = AutoEncoder(variance=False)
    model: Any = open_checkpoint(external(tmp_path / "ae.ckpt", original)).model
    q = model.encode(IMAGES)
    assert torch.equal(q.loc, outputs(original, IMAGES, CODES.reshape(4, LATENT))[0])
    assert not q.scale.any()


@pytest.mark.parametrize("loss", ["bce", "bernoulli", "continuous_bernoulli"])
def test_the_loss_of_the_training_decides_on_the_sigmoid(loss: str, external: Any, tmp_path: Path) -> None:
    original, codes = AutoEncoder(), CODES.reshape(4, LATENT)
    path = external(tmp_path / "bce.ckpt", original, recon_loss=loss)
    model: Any = open_checkpoint(path).model
    assert torch.equal(model.decode(codes), outputs(original, IMAGES, codes)[1].sigmoid())


def test_settings_convert_normalised_images_and_early_outputs(external: Any, tmp_path: Path) -> None:
    original, codes = AutoEncoder(), CODES.reshape(4, LATENT)
    path = external(tmp_path / "last.ckpt", original)
    mean, std = torch.tensor([0.2, 0.3, 0.4])[:, None, None], torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    found, shown = outputs(original, (IMAGES - mean) / std, codes)
    model: Any = open_checkpoint(path, settings={"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}).model
    assert torch.allclose(model.encode(IMAGES).loc, found[:, :LATENT], atol=1e-6)
    assert torch.allclose(model.decode(codes), (shown * std + mean).clamp(0, 1))
    early: Any = open_checkpoint(path, settings={"activation": "halved"}).model
    assert torch.equal(early.decode(codes), ((shown + 1) / 2).clamp(0, 1))
    with pytest.raises(CcvaeEvalError, match="one number for each of the 3 channels, got 1 and 1"):
        open_checkpoint(path, settings={"mean": [0.2], "std": [0.5]})
    with pytest.raises(CcvaeEvalError, match="got 3 and 0"):
        open_checkpoint(path, settings={"mean": [0.2, 0.3, 0.4]})
    with pytest.raises(CcvaeEvalError, match="activation"):
        open_checkpoint(path, settings={"activation": "tanh"})


def test_a_checkpoint_without_the_configuration_opens_and_says_so(tmp_path: Path) -> None:
    opened = open_checkpoint(lightning(tmp_path / "last.ckpt", Framework(AutoEncoder()), prefix=""))
    assert opened.name == "disent"
    assert any("the loss is not in the file" in note for note in opened.notes)


def test_a_laplace_posterior_is_refused(external: Any, tmp_path: Path) -> None:
    path = external(tmp_path / "laplace.ckpt", AutoEncoder(), latent_distribution="laplace")
    with pytest.raises(CcvaeEvalError, match="must be a normal distribution, got 'laplace'"):
        open_checkpoint(path)


def test_other_networks_of_disent_are_left_to_the_users_class(tmp_path: Path) -> None:
    original = AutoEncoder()
    original._encoder.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2 * LATENT))
    path = lightning(tmp_path / "linear.ckpt", Framework(original), prefix="")
    with pytest.raises(CheckpointError, match="no installed adapter recognises it"):
        open_checkpoint(path)
    assert [row["name"] for row in inspect_checkpoint(path)["candidates"]] == ["lightning"]
