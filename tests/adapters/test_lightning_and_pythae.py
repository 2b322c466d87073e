"""Checkpoints of training tools: Lightning and pythae."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ccvae_plugins.lightning import EvaluationCallback
from ccvae_plugins.networks import Perceptron
from ccvae_plugins.pythae import PythaeSettings
from torch import nn

from ccvae_eval.checkpoint import inspect_checkpoint, open_checkpoint
from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import CcvaeEvalError, CheckpointError, UsageError
from ccvae_eval.plugins import registry
from ccvae_eval.testing import check_model
from tests.support.fakes import Squares, SquaresVAE

PLUGIN = """
import torch
from torch import nn
from ccvae_eval.model import LabelSchema, LatentLayout
from ccvae_eval.core.types import Gaussian


class LightningNet(nn.Module):
    def __init__(self, latent, width=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 16), nn.Sigmoid())
        self.layout, self.labels = LatentLayout(latent), LabelSchema(())

    def encode(self, images, labels=None):
        loc, log_variance = self.encoder(images).chunk(2, 1)
        return Gaussian(loc, (log_variance / 2).exp())

    def decode(self, codes):
        return self.decoder(codes).reshape(-1, 1, 4, 4)


CCVAE_EVAL = {"models": {"net": LightningNet}}
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's class, registered from a file."""
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "my_net.py").write_text(PLUGIN)
    registry.add_plugin_file(tmp_path / "my_net.py")
    return registry.models["net"]


def lightning(path: Path, module: nn.Module, prefix: str = "model.", **more: Any) -> Path:
    """A checkpoint as written by Lightning's ``Trainer.save_checkpoint``."""
    optimiser = torch.optim.Adam(module.parameters())
    sum(p.sum() for p in module.parameters()).backward()  # type: ignore[union-attr]
    optimiser.step()
    torch.save(
        {
            "epoch": 3,
            "global_step": 120,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": {prefix + name: tensor for name, tensor in module.state_dict().items()},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [optimiser.state_dict()],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            **more,
        },
        path,
    )
    return path


@pytest.mark.parametrize(
    "parameters", [{"latent": 3, "lr": 1e-3}, {"lr": 1e-3, "model": {"latent": 3}}, {"latent": 3, "width": 8}]
)
def test_a_lightning_checkpoint_of_a_users_class_opens(net: Any, parameters: dict[str, Any], tmp_path: Path) -> None:
    module = net(3)
    path = lightning(tmp_path / "last.ckpt", module, hyper_parameters=parameters)
    opened = open_checkpoint(path)
    assert opened.name == "net", "the only model of the plugin file fits, so no name is needed"
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in module.state_dict().items())
    assert any("latent = 3" in note and "lightning" in note for note in opened.notes)
    assert "prefix 'state_dict.model.' was removed from the names of the weights" in opened.notes
    names = [row["name"] for row in inspect_checkpoint(path)["candidates"]]
    assert names == ["net", "lightning"]


def test_an_explicit_argument_overrides_the_hint(net: Any, tmp_path: Path) -> None:
    path = lightning(tmp_path / "last.ckpt", net(3), hyper_parameters={"latent": 3})
    with pytest.raises(CheckpointError, match="of another shape"):
        open_checkpoint(path, model="net", settings={"latent": 4})


def test_without_a_model_the_error_says_what_is_needed(tmp_path: Path) -> None:
    path = lightning(tmp_path / "last.ckpt", nn.Linear(2, 2), hyper_parameters={"latent": 3})
    with pytest.raises(CheckpointError, match="no installed adapter recognises it") as refused:
        open_checkpoint(path)
    assert "--plugin" in refused.value.hint
    with pytest.raises(UsageError, match="has no class for its model"):
        open_checkpoint(path, model="lightning")
    (row,) = inspect_checkpoint(path)["candidates"]
    assert row["name"] == "lightning"
    assert "--plugin FILE --model NAME" in row["note"]


@pytest.mark.parametrize(
    "frame",
    [
        lambda s: s,
        lambda s: {"model": s, "step": 4},
        lambda s: {"net": s},
        lambda s: {"ema": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "ema": {k: 0 * v for k, v in s.items()}},
    ],
    ids=["plain", "model", "net", "ema", "module and ema"],
)
def test_a_nested_state_dict_opens(net: Any, frame: Any, tmp_path: Path) -> None:
    module = net(3)
    torch.save(frame(module.state_dict()), tmp_path / "x.pt")
    with pytest.raises(UsageError, match="needs latent") as refused:
        open_checkpoint(tmp_path / "x.pt", model="net")
    assert "--set latent=VALUE" in refused.value.hint
    (tmp_path / "x.toml").write_text('model = "net"\n[settings]\nlatent = 3\n')
    opened = open_checkpoint(tmp_path / "x.pt")
    assert all(torch.equal(opened.model.state_dict()[n], t) for n, t in module.state_dict().items())
    check_model(opened.model, torch.rand(3, 1, 4, 4), torch.empty(3, 0))  # type: ignore[arg-type]


def test_inspect_names_missing_arguments_and_differing_sizes(net: Any, tmp_path: Path) -> None:
    torch.save(net(3).state_dict(), tmp_path / "x.pt")
    (row,) = inspect_checkpoint(tmp_path / "x.pt")["candidates"]
    assert row["name"] == "net"
    assert "needs latent. Give --set latent=VALUE" in row["note"]
    (row,) = inspect_checkpoint(tmp_path / "x.pt", {"latent": 3})["candidates"]
    assert (row["fits"], row["missing"]) == ("6 of 6 tensors", [])
    (row,) = inspect_checkpoint(tmp_path / "x.pt", {"latent": 4})["candidates"]
    assert row["fits"] == "3 of 6 tensors"
    assert row["missing"] == ["encoder.3.weight", "encoder.3.bias", "decoder.0.weight"]
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(tmp_path / "x.pt", model="net", settings={"latent": 4})
    assert "All names match, but sizes differ" in refused.value.hint


def pythae(folder: Path, module: nn.Module, custom: bool = False, **config: Any) -> Path:
    """A folder as written by pythae's ``BaseAE.save``."""
    folder.mkdir()
    torch.save({"model_state_dict": module.state_dict()}, folder / "model.pt")
    content = {"name": "VAEConfig", "input_dim": [1, 8, 8], "latent_dim": 5, "reconstruction_loss": "bce", **config}
    (folder / "model_config.json").write_text(json.dumps(content))
    (folder / "environment.json").write_text('{"name": "EnvironmentConfig", "python_version": "3.8"}')
    if custom:
        for name in ("encoder.pkl", "decoder.pkl"):
            (folder / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    return folder


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_pythae_folder_with_default_networks_opens(deterministic: bool, tmp_path: Path) -> None:
    module = Perceptron(PythaeSettings((1, 8, 8), 5, 512, deterministic))
    opened = open_checkpoint(pythae(tmp_path / "final_model", module))
    assert opened.name == "pythae"
    assert opened.bundle.format == "folder"
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        hidden = (images.flatten(1) @ module.encoder.layers[0][0].weight.T + module.encoder.layers[0][0].bias).relu()  # type: ignore[index,union-attr]
        loc = module.encoder.embedding(hidden)  # type: ignore[operator]
    model: Any = opened.model
    assert torch.allclose(model.encode(images).loc, loc, atol=1e-6)
    assert bool((model.encode(images).scale == 0).all()) == deterministic
    check_model(model, images, torch.empty(4, 0))


class PythaeEncoder(nn.Module):
    """pythae's ``Encoder_VAE_MLP``, written independently of the adapter."""

    def __init__(self, pixels: int, latent: int, variance: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(pixels, 512), nn.ReLU())])
        self.embedding = nn.Linear(512, latent)
        if variance:
            self.log_var = nn.Linear(512, latent)


class PythaeDecoder(nn.Module):
    """pythae's ``Decoder_AE_MLP``."""

    def __init__(self, pixels: int, latent: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(latent, 512), nn.ReLU())])
        self.layers.append(nn.Sequential(nn.Linear(512, pixels), nn.Sigmoid()))


class Discriminator(nn.Module):
    """pythae's ``FactorVAEDiscriminator``: six linear layers, here with 20 units instead of 1,000."""

    def __init__(self, latent: int, width: int = 20) -> None:
        super().__init__()
        sizes = [latent, *[width] * 5, 2]
        layers: list[nn.Module] = []
        for inside, outside in pairwise(sizes):
            layers += [nn.Linear(inside, outside), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])


FAMILY = {
    "VAEConfig": True, "BetaVAEConfig": True, "DisentangledBetaVAEConfig": True, "BetaTCVAEConfig": True,
    "INFOVAE_MMD_Config": True, "MSSSIM_VAEConfig": True, "IWAEConfig": True, "FactorVAEConfig": True,
    "Adversarial_AE_Config": True, "VAEGANConfig": True, "AEConfig": False, "WAE_MMD_Config": False,
    "RAE_L2_Config": False,
}  # fmt: skip
"""Names in model_config.json; True if the model has a variance."""
WITH_DISCRIMINATOR = ("FactorVAEConfig", "Adversarial_AE_Config", "VAEGANConfig")


def pythae_model(name: str, pixels: int = 64, latent: int = 5) -> nn.Module:
    """An untrained pythae model with default networks."""
    model = nn.Module()
    model.encoder, model.decoder = PythaeEncoder(pixels, latent, FAMILY.get(name, True)), PythaeDecoder(pixels, latent)
    if name in WITH_DISCRIMINATOR:
        model.discriminator = Discriminator(latent)
    return model


@pytest.mark.parametrize("name", FAMILY)
def test_the_common_models_of_pythae_open(name: str, tmp_path: Path) -> None:
    original: Any = pythae_model(name)
    opened = open_checkpoint(pythae(tmp_path / "final_model", original, name=name))
    model: Any = opened.model
    images, codes = torch.rand(4, 1, 8, 8), torch.randn(4, 5)
    with torch.no_grad():
        hidden = original.encoder.layers[0](images.reshape(-1, 64))
        q = model.encode(images)
        assert torch.equal(q.loc, original.encoder.embedding(hidden))
        scale = (0.5 * original.encoder.log_var(hidden)).exp() if FAMILY[name] else torch.zeros(4, 5)
        assert torch.allclose(q.scale, scale)
        decoded = original.decoder.layers[1](original.decoder.layers[0](codes)).reshape(4, 1, 8, 8)
        assert torch.equal(model.decode(codes), decoded)
    assert any("discriminator" in note for note in opened.notes) == (name in WITH_DISCRIMINATOR)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in original.state_dict().items())


@pytest.mark.parametrize(
    ("name", "part"), [("VAMPConfig", "pseudo_inputs"), ("VQVAEConfig", "quantizer"), ("VAE_IAF_Config", "iaf_flow")]
)
def test_a_model_with_parts_other_than_encoder_and_decoder_is_refused(name: str, part: str, tmp_path: Path) -> None:
    """VAMP bounds its log-variance, VQVAE quantises, a flow transforms the code."""
    original = pythae_model(name)
    original.add_module(part, nn.Linear(3, 2))
    with pytest.raises(CcvaeEvalError, match=f"has parts other than an encoder and a decoder: {part}") as refused:
        open_checkpoint(pythae(tmp_path / "final_model", original, name=name))
    assert "--plugin FILE --model NAME" in refused.value.hint


def test_model_pt_uses_the_config_beside_it(tmp_path: Path) -> None:
    folder = pythae(tmp_path / "final_model", Perceptron(PythaeSettings((1, 8, 8), 5)), input_dim=[1, 4, 16])
    opened = open_checkpoint(folder / "model.pt")
    assert opened.record is not None
    assert opened.record.settings["input_shape"] == [1, 4, 16]
    (folder / "model_config.json").unlink()
    opened = open_checkpoint(folder / "model.pt")
    assert opened.record is not None
    assert opened.record.settings["input_shape"] == [1, 8, 8]
    assert any("is guessed" in note for note in opened.notes)


def test_custom_networks_need_a_class_and_their_pickles_are_not_read(net: Any, tmp_path: Path) -> None:
    folder = pythae(tmp_path / "final_model", net(3), custom=True, name="BetaVAEConfig", latent=3)
    opened = open_checkpoint(folder, model="net")
    assert opened.name == "net"
    assert "encoder.pkl was not read: a pickle can contain code" in opened.notes
    with pytest.raises(UsageError, match="the model has custom networks"):
        open_checkpoint(folder, model="pythae")


def test_folders_that_are_not_a_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder without a checkpoint file"):
        open_checkpoint(tmp_path)
    (tmp_path / "run.json").touch()
    with pytest.raises(CheckpointError, match="It is a run: ccvae-eval inspect"):
        open_checkpoint(tmp_path)
    for number in range(13):
        torch.save({"w": torch.ones(1)}, tmp_path / f"epoch{number:02}.pt")
    with pytest.raises(CheckpointError, match="is a folder of 13 checkpoint files"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "is not valid TOML"),
        ('modl = "net"', "modl is unknown\nDid you mean 'model'"),
        ("model = 3", "model must be a string, got 3"),
        ("settings = 3", "settings must be an object, got 3"),
        ('model = "os"', "needs the model 'os', which is not installed"),
        ('model = "net"\n[settings]\nlatnt = 3', "no argument 'latnt'"),
        ('model = "net"\n[settings]\nlatent = 1000000000', "far too large"),
        ("#" * (2 << 20), "is too large"),
    ],
)
def test_an_invalid_toml_file_is_refused(net: Any, text: str, message: str, tmp_path: Path) -> None:
    torch.save(net(3).state_dict(), tmp_path / "x.pt")
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(CcvaeEvalError, match=message):
        open_checkpoint(tmp_path / "x.pt")


def test_the_terminal_says_what_to_do_about_an_external_file(
    net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` names a missing argument once and reports no failed test; `inspect` points to --plugin."""
    torch.save(net(3).state_dict(), tmp_path / "x.pt")
    arguments = ["check", "net", "--plugin", str(tmp_path / "my_net.py")]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert output.err.count("needs latent") == 1
    assert "promise" not in output.out
    monkeypatch.setattr(registry, "_files", {})
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "x.pt")])
    assert "--plugin FILE" in " ".join("".join(capsys.readouterr()).split())


class Logger:
    """A logger of Lightning that remembers what it logged; TensorBoard's if it has no ``log_image``."""

    def __init__(self, images: bool) -> None:
        self.metrics: list[tuple[dict[str, float], int]] = []
        self.figures: list[tuple[str, int]] = []
        self.experiment = SimpleNamespace(add_image=self._add_image)
        if images:
            self.log_image = lambda key, images, step: self.figures.append((key, step))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((metrics, step))

    def _add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
        assert image.ndim == len(dataformats)
        self.figures.append((tag, step))


@pytest.mark.parametrize("images", [True, False])
def test_the_callback_logs_values_and_two_figures_every_few_epochs(images: bool) -> None:
    module, logger = SimpleNamespace(vae=SquaresVAE()), Logger(images)
    callback = EvaluationCallback(lambda m: m.vae, Squares(180), every=2, sample=60, judge="none")
    trainer = SimpleNamespace(
        sanity_checking=True, is_global_zero=True, current_epoch=1, global_step=40, loggers=[logger]
    )
    callback.on_validation_epoch_end(trainer, module)
    trainer.sanity_checking, trainer.current_epoch = False, 2
    callback.on_validation_epoch_end(trainer, module)
    assert not logger.metrics, "neither in the sanity check nor in the third of every two epochs"
    trainer.current_epoch = 3
    callback.on_validation_epoch_end(trainer, module)
    ((values, step),) = logger.metrics
    assert step == 40
    assert values["density/auc@Glasses"] > 0.9
    assert logger.figures == [("locality-change-maps", 40), ("reconstruction-pairs", 40)]
    assert "lightning" not in sys.modules
    assert "pytorch_lightning" not in sys.modules
