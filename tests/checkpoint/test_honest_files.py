"""Files as people really save them open: every tensor equals torch's own reading, and nothing is imported."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ccvae_eval.checkpoint import read_bundle
from tests.support import honest_files
from tests.support.commands import run_command
from tests.support.honest_files import tensors_of
from tests.support.imitated_libraries import imitated_libraries

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("honest")


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, tuple[Path, list[tuple[str, Tensor]]]]:
    """Each file with its tensors as torch reads them where its libraries are installed."""
    found = {}
    with imitated_libraries():
        for name, write in honest_files.STYLES.items():
            path = folder / f"{name}.{'safetensors' if name.startswith('safetensors') else 'pt'}"
            write(path)
            if path.suffix == ".safetensors":
                expected = [*safetensors.torch.load_file(path).items()]
            else:
                expected = [*tensors_of(torch.load(path, weights_only=False, map_location="cpu"))]
            found[name] = path, expected
    return found


def test_there_are_enough_styles() -> None:
    assert len(honest_files.STYLES) >= 40


@pytest.mark.parametrize("name", honest_files.STYLES)
def test_every_tensor_is_found(name: str, written: dict[str, tuple[Path, list[tuple[str, Tensor]]]]) -> None:
    path, expected = written[name]
    before = set(sys.modules)
    found = read_bundle(path).tensors
    assert set(sys.modules) - before <= {"_posixsubprocess"}, "nothing that the file names is imported"
    for one, (other, tensor) in zip(found, expected, strict=True):
        assert re.fullmatch(re.escape(other).replace(r"\?", ".+"), one)
        assert found[one].dtype == tensor.dtype
        assert found[one].shape == tensor.shape
        assert torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (found[one], tensor)))


@pytest.mark.parametrize("name", honest_files.STYLES)
def test_the_command_shows_it(
    name: str, written: dict[str, tuple[Path, list[tuple[str, Tensor]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, expected = written[name]
    assert run_command("inspect", path) == 0
    shown = capsys.readouterr()
    assert shown.err == "" or "No installed adapter or model matches" in shown.err
    count = sum(tensor.numel() for _, tensor in expected)
    assert str(count) in shown.out.replace(",", "")
    assert run_command("inspect", path, "--json") == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert document["parameters"] == count


NOT_USED = {
    "numpy arrays": "mean (numpy._core.multiarray._reconstruct)",
    "numpy generators": "rng (numpy.random._pickle.__randomstate_ctor)",
    "data frames": "table (pandas._libs.internals._unpickle_block)",
    "paths and dates": "day (datetime.date)",
    "enumerations": "mode (train_vae.Mode)",
    "sets ranges slices and bytes": "raw (bytes)",
}


@pytest.mark.parametrize(("name", "part"), NOT_USED.items())
def test_a_note_names_what_is_not_plain_data(
    name: str, part: str, written: dict[str, tuple[Path, list[tuple[str, Tensor]]]]
) -> None:
    (note,) = read_bundle(written[name][0]).notes
    assert note.startswith("neither tensors nor plain data, not used: ")
    assert part in note


PLAIN = {
    "argparse namespace": ("args", {"lr": 0.1, "layers": [1, 2], "out": "x", "data": None}),
    "simple namespace": ("args", {"lr": 0.1, "inner": {"depth": 3}}),
    "class inside a class": ("config", {"latent": 3}),
    "easydict munch yacs and addict": ("Munch", {"lr": 0.1, "net": {"depth": 3}}),
    "dataclass settings": (
        "config",
        {"latent": 10, "optim": {"rate": 1e-3, "betas": [0.9, 0.999]}, "root": "runs/one"},
    ),
    "lightning 2": ("hyper_parameters", {"latent": 10, "root": "x"}),
    "transformers and wandb settings": ("config", {"hidden": 8, "torch_dtype": "torch.float32"}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_settings_are_read_from_objects(name: str, written: dict[str, tuple[Path, list[tuple[str, Tensor]]]]) -> None:
    key, expected = PLAIN[name]
    assert read_bundle(written[name][0]).metadata[key] == expected


def test_an_object_that_refers_to_one_around_it(written: dict[str, tuple[Path, list[tuple[str, Tensor]]]]) -> None:
    config: Any = read_bundle(written["omegaconf"][0]).metadata["config"]
    assert config["_content"]["lr"]["_val"] == 0.1
    assert config["_content"]["lr"]["_parent"] == "omegaconf.dictconfig.DictConfig"
