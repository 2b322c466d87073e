"""A stranger's package: built, installed in an environment of its own, found by entry point, tried, evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "strange-vaes"
version = "2.5"

[project.entry-points."ccvae_eval.models"]
good = "strange_vaes:Good"
bad = "strange_vaes:Bad"
torn = "strange_vaes:Torn"
broken = "strange_vaes.missing:Nothing"
sleepy = "strange_vaes.sleepy:Sleepy"
vae = "strange_vaes:Good"

[project.entry-points."ccvae_eval.metrics"]
gloom = "strange_vaes:Gloom"
"""

PACKAGE = """
import torch
from torch import nn
from ccvae_eval import Gaussian, LatentLayout, binary_schema

print("a plugin that talks at import")


class Good(nn.Module):
    input_shape = (3, 32, 32)
    labels = binary_schema("Eyeglasses")
    layout = LatentLayout(4, {"Eyeglasses": (0,)})

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(3072, 8), nn.Linear(4, 3072)

    def encode(self, images, labels=None):
        loc, raw = self.enc(images.flatten(1)).chunk(2, 1)
        return Gaussian(loc, nn.functional.softplus(raw))

    def decode(self, codes):
        return self.dec(codes).sigmoid().reshape(-1, 3, 32, 32)


class Bad(Good):
    def encode(self, images, labels=None):
        q = super().encode(images)
        return Gaussian(q.loc - q.loc.mean(0), q.scale + torch.rand(()))

    def decode(self, codes):
        return super().decode(codes) * 2 - 1


class Torn(Good):
    def decode(self, codes):
        raise RuntimeError("no such layer")


class Gloom:
    pass
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the package, and everything else by way of a .pth line; with a checkpoint, good.pt."""
    source = tmp_path_factory.mktemp("source")
    (source / "strange_vaes").mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "strange_vaes/__init__.py").write_text(PACKAGE)
    (source / "strange_vaes/sleepy.py").write_text("import time\ntime.sleep(600)\n")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source / "dist")]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    home = tmp_path_factory.mktemp("home")
    venv.create(home, with_pip=False)
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", "--prefix", str(home)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True, capture_output=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (packages / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    make = "import torch, strange_vaes; torch.save(strange_vaes.Good().state_dict(), 'good.pt')"
    subprocess.run([str(home / "bin/python"), "-c", make], cwd=home, check=True, capture_output=True)
    return home


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(home / "bin/python"), "-P", "-m", "ccvae_eval.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, **environment},
        timeout=300,
    )


def states(told: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {f"{row['distribution']}:{row['name']}": row for row in json.loads(told.stdout)["models"]}


def test_it_is_listed_from_metadata_alone(home: Path) -> None:
    told = run(home, "list", "models", "--json")
    rows = states(told)
    assert rows["strange-vaes:good"]["version"] == "2.5"
    assert rows["strange-vaes:good"]["state"] == "registered"
    assert rows["strange-vaes:vae"]["state"].startswith("broken: the name is taken twice, use strange-vaes:vae")
    assert rows["ccvae-eval:vae"]["state"].startswith("broken")
    assert "talks" not in told.stdout + told.stderr, "nothing was imported"


def test_with_check_each_is_loaded_in_a_child_with_a_time_limit(home: Path) -> None:
    rows = states(run(home, "list", "models", "--check", "--seconds", "20", "--json"))
    assert rows["strange-vaes:good"]["state"] == "loads"
    assert "No module named 'strange_vaes.missing'" in rows["strange-vaes:broken"]["state"]
    assert rows["strange-vaes:sleepy"]["state"] == "broken: no answer in 20 s"


def test_the_good_model_keeps_the_contract_and_the_bad_one_does_not(home: Path) -> None:
    good = run(home, "check", "good", "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["kept"], "what a plugin prints does not disturb the document"
    bad = run(home, "check", "bad", "--json")
    assert bad.returncode == 4
    said = [row["message"] for row in json.loads(bad.stdout)["tests"] if row["outcome"] == "failed"]
    assert any("belongs to one image alone" in message or "it draws" in message for message in said), said


def test_a_checkpoint_of_it_is_evaluated(home: Path) -> None:
    told = run(
        home, "density", "good.pt", "--model", "good", "--data", "faces,size=32,n=600", "--sample", "100", "--judge",
        "none", "--json", "--no-figures",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["checkpoint"]["model"] == "good"
    switched = run(home, "density", "good.pt", "--model", "good", "--data", "faces,size=32", CCVAE_EVAL_PLUGINS="none")
    assert switched.returncode == 2
    assert "'good' is unknown" in switched.stderr


def test_a_name_that_two_claim_and_a_broken_plugin_are_named(home: Path) -> None:
    twice = run(home, "density", "good.pt", "--model", "vae", "--data", "faces,size=32")
    assert twice.returncode == 2
    assert "ccvae-eval:vae or strange-vaes:vae" in twice.stderr
    broken = run(home, "density", "good.pt", "--model", "broken", "--data", "faces,size=32")
    assert broken.returncode == 4
    assert "plugin 'broken' of the group models cannot be loaded" in broken.stderr
    assert "strange-vaes 2.5" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_a_decoder_that_fails_in_a_run_is_named_with_its_distribution(home: Path) -> None:
    make = "import torch, strange_vaes; torch.save(strange_vaes.Torn().state_dict(), 'torn.pt')"
    subprocess.run([str(home / "bin/python"), "-c", make], cwd=home, check=True, capture_output=True)
    told = run(
        home, "run", "torn.pt", "--model", "torn", "--data", "faces,size=32,n=600", "--sample", "60", "--judge", "none",
        "--metric", "reconstruction", "--json", "--no-figures",
    )  # fmt: skip
    assert told.returncode == 4, told.stderr
    (measurement,) = json.loads(told.stdout)["measurements"]
    text = measurement["reason"]["text"]
    assert text.startswith("strange-vaes 2.5: model 'torn' failed in decode(codes)")
    assert "RuntimeError: no such layer" in text
    assert "ccvae-eval check" in text


def test_what_is_no_metric_says_so(home: Path) -> None:
    told = run(
        home, "run", "good.pt", "--model", "good", "--data", "faces,size=32,n=600", "--sample", "60", "--judge", "none",
        "--metric", "density", "--metric", "gloom", "--json", "--no-figures",
    )  # fmt: skip
    assert told.returncode == 4, told.stderr
    assert "'gloom' is no metric" in told.stderr + told.stdout
