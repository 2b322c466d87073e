"""A plugin that is written from the tensors of a checkpoint has exactly these tensors, and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ccvae_eval.checkpoint.bundle import read_bundle
from ccvae_eval.checkpoint.plugin_source import plugin_source
from ccvae_eval.core.errors import CheckpointError
from tests.support.commands import run_command
from tests.support.paths import SHARED


class Convolutional(nn.Module):
    """As in PyTorch-VAE: Sequential blocks, two heads, and a linear layer before the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.Flatten()
        )  # fmt: skip
        self.fc_mu, self.fc_var = nn.Linear(16 * 64, 10), nn.Linear(16 * 64, 10)
        self.decoder_input = nn.Linear(10, 16 * 64)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        )


class Perceptron(nn.Module):
    """As in PyTorch's examples: five linear layers without containers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 40), nn.Linear(40, 5), nn.Linear(40, 5)
        self.fc3, self.fc4 = nn.Linear(5, 40), nn.Linear(40, 784)


class Doubled(nn.Module):
    """One layer gives mean and log variance; square kernels; a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.ModuleDict({"a": nn.Conv2d(1, 4, 4, 2, 1), "b": nn.Conv2d(4, 4, 4, 2, 1)})
        self.enc_out = nn.Linear(4 * 16, 12)
        self.dec_in, self.dec = nn.Linear(6, 4 * 16), nn.ModuleList([nn.ConvTranspose2d(4, 4, 4, 2, 1)])
        self.dec_out = nn.ConvTranspose2d(4, 1, 4, 2, 1)
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros(3))


class Flat(nn.Module):
    """No linear layer: latent dimensions are a feature map. Normalisation by groups, attention in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.GroupNorm(1, 8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.to_mean, self.to_logvar = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.decoder = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1))


def written(path: Path) -> Any:
    """The class of the plugin that is written for a checkpoint."""
    names: dict[str, Any] = {}
    exec(compile(plugin_source(read_bundle(path), "mine", "Mine", "mine.py"), "mine.py", "exec"), names)
    return names["CCVAE_EVAL"]["models"]["mine"]


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("model", "shape", "latent"),
    [(Convolutional, (3, 32, 32), 10), (Doubled, (1, 16, 16), 6), (Perceptron, (1, 28, 28), 5)],
)
@pytest.mark.parametrize("prefix", ["", "module.model."])
def test_the_class_has_the_tensors_of_the_file_and_runs(
    model: Any, shape: tuple[int, ...], latent: int, prefix: str, tmp_path: Path
) -> None:
    state = {prefix + key: tensor for key, tensor in model().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if prefix else state, tmp_path / "w.pt")
    found = written(tmp_path / "w.pt")()
    assert shapes(found) == shapes(model())
    assert (found.input_shape, found.layout.dim) == (shape, latent)
    q = found.eval().encode(torch.rand(2, *shape))
    assert q.loc.shape == q.scale.shape == (2, latent)
    assert found.decode(q.loc).shape == (2, *shape)


def test_what_is_not_understood_keeps_its_tensors(tmp_path: Path) -> None:
    torch.save(Flat().state_dict(), tmp_path / "w.pt")
    assert shapes(written(tmp_path / "w.pt")()) == shapes(Flat())


def test_names_are_data_and_never_code(tmp_path: Path) -> None:
    names = ['x.")\nraise SystemExit  #.weight', "x.']); 1/0  # .weight", "x.down-1.bias"]
    torch.save({name: torch.zeros(2, 2) for name in names}, tmp_path / 'w""".pt')
    assert set(shapes(written(tmp_path / 'w""".pt')())) == set(names)


def test_the_published_checkpoint_fits(tmp_path: Path) -> None:
    path = SHARED / "checkpoints/disvae_VAE_mnist/model.pt"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    found = written(path)
    weights = read_bundle(path).tensors
    model = found()
    model.load_state_dict(dict(weights))
    assert (found.input_shape, found.layout.dim) == ((1, 32, 32), 10)
    assert model.decode(model.encode(torch.rand(2, 1, 32, 32)).loc).shape == (2, 1, 32, 32)


def test_the_command_writes_a_plugin_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Convolutional().state_dict(), "{my} w.pt")
    assert run_command("new", "model", "mine", "--from", "{my} w.pt") == 0
    assert "ccvae-eval inspect '{my} w.pt' --plugin mine.py" in capsys.readouterr().out
    assert run_command("inspect", "{my} w.pt", "--plugin", "mine.py") == 0
    assert "mine" in capsys.readouterr().out


def test_only_a_model_is_written_from_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("new", "metric", "mine", "--from", "w.pt") == 2
    assert "only a model can be written from a checkpoint, got the kind 'metric'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "must have 1 to 1,000 layers, got 0"),
        (
            {"lambda.weight": torch.zeros(2, 2)},
            "has tensors that are not those of a module (for example 'lambda.weight')",
        ),
        ({"a b.weight": torch.zeros(2, 2)}, "has tensors that are not those of a module (for example 'a b.weight')"),
        ({f"x{n}.weight": torch.zeros(1, 1) for n in range(1001)}, "must have 1 to 1,000 layers, got 1,001"),
    ],
)
def test_files_that_are_no_model_are_refused(state: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as raised:
        written(tmp_path / "w.pt")
    assert message in str(raised.value)
