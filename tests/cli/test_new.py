"""``new`` writes files that run, pass their own tests and keep the contract; the tutorial is the model's file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval.cli.main import main
from ccvae_eval.cli.new import written
from tests.support.paths import ROOT, SHARED

DOCS = ROOT / "docs/plugins.md"


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "ccvae_eval.cli.main", *arguments], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("new")
    made = command("new", "model", "my_vae", cwd=home)
    assert made.returncode == 0, made.stderr
    assert "ccvae-eval check my_vae --plugin my_vae.py" in made.stdout
    return home


def test_the_model_s_own_tests_pass(folder: Path) -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "my_vae.py"]
    found = subprocess.run(tests, capture_output=True, text=True, cwd=folder)
    assert "2 passed" in found.stdout, found.stdout


def test_the_model_keeps_the_contract(folder: Path) -> None:
    told = command("check", "my_vae", "--plugin", "my_vae.py", "--json", cwd=folder)
    document = json.loads(told.stdout)
    assert told.returncode == 0
    assert document["kept"]
    assert sum(row["outcome"] == "passed" for row in document["tests"]) == 6


WEIGHTS = SHARED / "weights/aliked-t16.pth"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["metric", "data", "matcher", "features", "report"])
def test_the_other_examples_pass_their_own_tests(kind: str, tmp_path: Path) -> None:
    """The reading of parquet needs pyarrow and ALIKED its weights: without them these tests skip, and say so."""
    made = command("new", kind, f"my-{kind}", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    tests = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null", f"my_{kind}.py"]
    environment = {**os.environ, "ALIKED_WEIGHTS": str(WEIGHTS)}
    found = subprocess.run(tests, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout, found.stdout


def test_a_report_is_written_beside_the_run(tmp_path: Path) -> None:
    """The TensorBoard example through the real command, and what it does with a run that has undefined values."""
    command("new", "report", "board", cwd=tmp_path)
    codes = {"codes": np.random.default_rng(0).normal(size=(80, 2)), "labels": np.arange(80) % 2}
    np.savez(tmp_path / "codes.npz", **codes)
    told = command(
        "density", "codes.npz", "--report", "board", "--plugin", "board.py", "--out", "out", "--sample", "all",
        "--no-figures", cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "out/events.out.tfevents.board").stat().st_size > 100
    unknown = command("density", "codes.npz", "--report", "bord", "--plugin", "board.py", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "Did you mean 'board'?" in unknown.stderr
    assert "plan:" not in unknown.stderr, "said before anything is computed"


def test_a_few_steps_of_training_and_a_report(folder: Path) -> None:
    """From the docs to a run: trained for a moment, evaluated as the file's first lines say."""
    code = "import my_vae, torch; torch.save(my_vae.train(3, 8).state_dict(), 'my_vae.pt')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True)
    told = command(
        "run", "my_vae.pt", "--plugin", "my_vae.py", "--data", "faces,size=32,n=1500", "--sample", "240", "--judge",
        "none", "--metric", "density", "--metric", "accuracy", "--json", "--no-figures", cwd=folder,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    run = json.loads(told.stdout)
    assert run["checkpoint"]["model"] == "my_vae"
    assert {m["metric"]: m["status"] for m in run["measurements"]} == {"density": "ok", "accuracy": "ok"}


def test_the_tutorial_is_the_file() -> None:
    """Every code block between two marks, joined, is what ``new model my_vae`` writes."""
    text = DOCS.read_text()
    part = text.partition("<!-- file:my_vae -->")[2].partition("<!-- end of my_vae -->")[0]
    blocks = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    # the formatter lays the blocks out on its own
    assert "".join("".join(blocks).split()) == "".join(written("model", "my_vae", "my_vae.py").split())


def test_the_smallest_plugin_is_under_20_lines_and_evaluates(tmp_path: Path) -> None:
    """The docs' first example, with the package of the user that it speaks of."""
    text = DOCS.read_text().partition("<!-- smallest:begin -->")[2].partition("<!-- smallest:end -->")[0]
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) < 20
    (tmp_path / "my_model.py").write_text(block)
    package = tmp_path / "elsewhere/my_project"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "vae.py").write_text(USER)
    make = (
        "import sys; sys.path.insert(0, 'elsewhere'); import torch; from my_project.vae import VAE; "
        "torch.save({'net': VAE().state_dict()}, 'weights.pt')"
    )
    subprocess.run([sys.executable, "-c", make], check=True, cwd=tmp_path)
    alone = command("inspect", "weights.pt", "--plugin", "my_model.py", cwd=tmp_path)
    assert alone.returncode == 4
    assert "PYTHONPATH=FOLDER" in alone.stderr
    assert "'my_project' is not installed here" in alone.stderr
    run = [sys.executable, "-P", "-m", "ccvae_eval.cli.main", "check", "mine", "--plugin", "my_model.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "elsewhere")}
    told = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "5 of 5 promises kept" in told.stdout


USER = """
from torch import nn


class VAE(nn.Module):
    def __init__(self, latent=16):
        super().__init__()
        self.enc = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2 * latent))
        self.dec = nn.Linear(latent, 3 * 32 * 32)

    def encode(self, x):
        return self.enc(x).chunk(2, 1)

    def decode(self, z):
        return self.dec(z).reshape(-1, 3, 32, 32)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "model", "ccvae"], "is registered already"),
        (["new", "model", "../x"], "is no name"),
        (["new", "model", "mine", "--out", "mine.txt"], "ends in .py"),
        (["check", "ccvea"], "Did you mean 'ccvae'"),
        (["check", "ccvae", "--kind", "modle"], "Did you mean 'model'"),
        (["check", "npz"], "--kind data"),
    ],
)
def test_a_name_that_will_not_do(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("precious")
    with pytest.raises(SystemExit) as ended:
        main(["new", "model", "mine"])
    assert ended.value.code == 2
    assert Path("mine.py").read_text() == "precious"
    with pytest.raises(SystemExit) as ended:
        main(["new", "model", "mine", "--force"])
    assert ended.value.code == 0
