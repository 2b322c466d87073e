"""The wheel: built, installed in a separate environment, and inspected."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TOP_LEVEL = {"ccvae_eval", "ccvae_models", "ccvae_plugins"}
ASSETS = {
    "ccvae_eval/assets/ccvae-faces64.pt",
    "ccvae_eval/assets/judge-faces64.safetensors",
    *(
        f"ccvae_eval/report/page/templates/{name}"
        for name in (
            "base.html",
            "report.html",
            "comparison.html",
            "style.css",
            "comparison.css",
            "common.js",
            "script.js",
            "comparison.js",
        )
    ),
}
LARGEST_CHECKPOINT, LARGEST_JUDGE = 3_000_000, 200_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def script(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment with the wheel; a .pth file makes its dependencies available."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    # without --ignore-installed, pip would uninstall the package from the environment that runs this test
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", "--prefix", str(home)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True, capture_output=True)
    assert (packages / "ccvae_eval").is_dir(), "installed into the new environment"
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    text = (home / "bin" / "ccvae-eval").read_text().splitlines()
    text[0] = f"#!{home}/bin/python"
    (home / "bin" / "ccvae-eval").write_text("\n".join(text))
    return home / "bin" / "ccvae-eval"


def test_the_wheel_contains_packages_type_markers_and_assets(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    top_level = {name.split("/")[0] for name in sizes if ".dist-info/" not in name}
    assert top_level == TOP_LEVEL
    assert {f"{name}/py.typed" for name in TOP_LEVEL} <= set(sizes)
    assert set(sizes) >= ASSETS
    assert sizes["ccvae_eval/assets/ccvae-faces64.pt"] <= LARGEST_CHECKPOINT
    assert sizes["ccvae_eval/assets/judge-faces64.safetensors"] <= LARGEST_JUDGE
    assert not [name for name in sizes if name.endswith((".jpg", ".jpeg"))], "no photographs"


def test_the_installed_command_shows_help_and_version(script: Path) -> None:
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True, cwd=script.parent)
    assert "locality" in shown.stdout
    version = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, cwd=script.parent)
    assert version.stdout.startswith("ccvae-eval 0.")


def test_the_installed_models_are_found_by_entry_point(script: Path) -> None:
    listed = subprocess.run(
        [script, "list", "models", "--json"], capture_output=True, text=True, check=True, cwd=script.parent
    )
    names = {row["name"] for row in json.loads(listed.stdout)["models"]}
    assert {"vae", "ccvae"} <= names
