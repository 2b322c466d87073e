"""A third-party package: built, installed in a separate environment, found by entry point, checked and evaluated."""

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
name = "other-vaes"
version = "2.5"

[project.entry-points."ccvae_eval.models"]
good = "other_vaes:Good"
bad = "other_vaes:Bad"
failing = "other_vaes:Failing"
broken = "other_vaes.missing:Nothing"
sleepy = "other_vaes.sleepy:Sleepy"
vae = "other_vaes:Good"

[project.entry-points."ccvae_eval.metrics"]
invalid = "other_vaes:NotAMetric"
"""

PACKAGE = """
import torch
from torch import nn
from ccvae_eval import Gaussian, LatentLayout, binary_schema

print("a plugin that prints at import")


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


class Failing(Good):
    def decode(self, codes):
        raise RuntimeError("no such layer")


class NotAMetric:
    pass
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the package and good.pt; a .pth file makes all other packages available."""
    source = tmp_path_factory.mktemp("source")
    (source / "other_vaes").mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "other_vaes/__init__.py").write_text(PACKAGE)
    (source / "other_vaes/sleepy.py").write_text("import time\ntime.sleep(600)\n")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source / "dist")]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    home = tmp_path_factory.mktemp("home")
    venv.create(home, with_pip=False)
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", "--prefix", str(home)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True, capture_output=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (packages / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    make = "import torch, other_vaes; torch.save(other_vaes.Good().state_dict(), 'good.pt')"
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


def states(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {f"{row['distribution']}:{row['name']}": row for row in json.loads(result.stdout)["models"]}


def test_it_is_listed_from_metadata_alone(home: Path) -> None:
    result = run(home, "list", "models", "--json")
    rows = states(result)
    assert rows["other-vaes:good"]["version"] == "2.5"
    assert rows["other-vaes:good"]["state"] == "registered"
    assert rows["other-vaes:vae"]["state"].startswith("broken: the name is registered twice, use other-vaes:vae")
    assert rows["ccvae-eval:vae"]["state"].startswith("broken")
    assert "prints" not in result.stdout + result.stderr, "nothing was imported"


def test_with_check_each_is_loaded_in_a_child_process_with_a_time_limit(home: Path) -> None:
    rows = states(run(home, "list", "models", "--check", "--seconds", "20", "--json"))
    assert rows["other-vaes:good"]["state"] == "loads"
    assert "No module named 'other_vaes.missing'" in rows["other-vaes:broken"]["state"]
    assert rows["other-vaes:sleepy"]["state"] == "broken: loading did not finish within 20 s"


def test_check_passes_the_good_model_and_fails_the_bad_one(home: Path) -> None:
    good = run(home, "check", "good", "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["kept"], "the plugin's output does not corrupt the JSON document"
    bad = run(home, "check", "bad", "--json")
    assert bad.returncode == 4
    messages = [row["message"] for row in json.loads(bad.stdout)["tests"] if row["outcome"] == "failed"]
    assert any("encode must" in message for message in messages), messages


def test_its_checkpoint_is_evaluated(home: Path) -> None:
    result = run(
        home, "density", "good.pt", "--model", "good", "--data", "faces,size=32,n=600", "--sample", "100", "--judge",
        "none", "--json", "--no-figures",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["checkpoint"]["model"] == "good"
    switched = run(home, "density", "good.pt", "--model", "good", "--data", "faces,size=32", CCVAE_EVAL_PLUGINS="none")
    assert switched.returncode == 2
    assert "'good' is not a registered model" in switched.stderr


def test_ambiguous_names_and_broken_plugins_are_reported(home: Path) -> None:
    twice = run(home, "density", "good.pt", "--model", "vae", "--data", "faces,size=32")
    assert twice.returncode == 2
    assert "ccvae-eval:vae or other-vaes:vae" in twice.stderr
    broken = run(home, "density", "good.pt", "--model", "broken", "--data", "faces,size=32")
    assert broken.returncode == 4
    assert "plugin 'broken' of group 'models' cannot be loaded" in broken.stderr
    assert "other-vaes 2.5" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_a_failing_decoder_is_reported_with_its_distribution(home: Path) -> None:
    make = "import torch, other_vaes; torch.save(other_vaes.Failing().state_dict(), 'failing.pt')"
    subprocess.run([str(home / "bin/python"), "-c", make], cwd=home, check=True, capture_output=True)
    result = run(
        home, "run", "failing.pt", "--model", "failing", "--data", "faces,size=32,n=600", "--sample", "60",
        "--judge", "none", "--metric", "reconstruction", "--json", "--no-figures",
    )  # fmt: skip
    assert result.returncode == 4, result.stderr
    (measurement,) = json.loads(result.stdout)["measurements"]
    text = measurement["reason"]["text"]
    assert text.startswith("other-vaes 2.5: model 'failing' failed in decode(codes)")
    assert "RuntimeError: no such layer" in text
    assert "ccvae-eval check" in text


def test_an_invalid_metric_is_reported(home: Path) -> None:
    result = run(
        home, "run", "good.pt", "--model", "good", "--data", "faces,size=32,n=600", "--sample", "60", "--judge", "none",
        "--metric", "density", "--metric", "invalid", "--json", "--no-figures",
    )  # fmt: skip
    assert result.returncode == 4, result.stderr
    assert "'invalid' is not a metric" in result.stderr + result.stdout
