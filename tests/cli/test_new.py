"""``new``: the templates run, pass their own tests and conform; docs/plugins.md shows the model template."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ccvae_eval.cli.main import main
from ccvae_eval.cli.new import filled_template
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


def test_the_tests_in_the_model_template_pass(folder: Path) -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "my_vae.py"]
    found = subprocess.run(tests, capture_output=True, text=True, cwd=folder)
    assert "2 passed" in found.stdout, found.stdout


def test_the_model_template_conforms(folder: Path) -> None:
    done = command("check", "my_vae", "--plugin", "my_vae.py", "--json", cwd=folder)
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert document["kept"]
    passed = [row["test"] for row in document["tests"] if row["outcome"] == "passed"]
    assert len(passed) == 6
    assert {"Shapes, ranges and determinism", "An image's codes do not depend on its batch"} < set(passed)


def test_check_reads_the_settings_beside_the_plugin_and_keeps_the_sentences_of_a_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (folder / "my_vae.py").read_text()
    (folder / "other.py").write_text(text.replace("return self.decoder(codes)", "return 3 * self.decoder(codes)"))
    (folder / "other.toml").write_text('[settings]\nlatent = "many"\n')
    done = command("check", "my_vae", "--plugin", "other.py", cwd=folder)
    assert "'<' not supported between instances of 'str' and 'int'" in done.stderr, "the constructor was given 'many'"
    (folder / "other.toml").write_text("[settings]\nlatent = 4\n")
    monkeypatch.setenv("COLUMNS", "1000")
    shown = command("check", "my_vae", "--plugin", "other.py", cwd=folder).stdout
    assert re.search(r"Shapes, ranges and determinism +failed +the result of decode must be in \[0, 1\]", shown)
    assert "expected [0, 1]. If" in shown
    assert "\\n" not in shown


WEIGHTS = SHARED / "weights/aliked-t16.pth"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["metric", "data", "matcher", "features", "report"])
def test_the_tests_in_the_other_templates_pass(kind: str, tmp_path: Path) -> None:
    """Without pyarrow or the ALIKED weights, the tests that need them are skipped."""
    made = command("new", kind, f"my-{kind}", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    tests = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null", f"my_{kind}.py"]
    environment = {**os.environ, "ALIKED_WEIGHTS": str(WEIGHTS)}
    found = subprocess.run(tests, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout, found.stdout


def test_the_report_template_writes_a_file_beside_the_run(tmp_path: Path) -> None:
    """The TensorBoard report through the command line, for a run with undefined values."""
    command("new", "report", "board", cwd=tmp_path)
    codes = {"codes": np.random.default_rng(0).normal(size=(80, 2)), "labels": np.arange(80) % 2}
    np.savez(tmp_path / "codes.npz", **codes)
    done = command(
        "density", "codes.npz", "--report", "board", "--plugin", "board.py", "--out", "out", "--sample", "all",
        "--no-figures", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/events.out.tfevents.board").stat().st_size > 100
    unknown = command("density", "codes.npz", "--report", "bord", "--plugin", "board.py", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "Did you mean 'board'?" in unknown.stderr
    assert "plan:" not in unknown.stderr, "refused before anything is computed"


def test_the_model_template_trains_and_is_evaluated(folder: Path) -> None:
    """A few steps of training, then the evaluation that the template's docstring names."""
    code = "import my_vae, torch; torch.save(my_vae.train(3, 8).state_dict(), 'my_vae.pt')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True)
    done = command(
        "run", "my_vae.pt", "--plugin", "my_vae.py", "--data", "faces,size=32,n=1500", "--sample", "240", "--judge",
        "none", "--metric", "density", "--metric", "accuracy", "--json", "--no-figures", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["checkpoint"]["model"] == "my_vae"
    assert {m["metric"]: m["status"] for m in run["measurements"]} == {"density": "ok", "accuracy": "ok"}


def test_the_docs_show_the_whole_template() -> None:
    """The code blocks between the two marks, joined, equal the file that ``new model my_vae`` writes."""
    text = DOCS.read_text()
    part = text.partition("<!-- file:my_vae -->")[2].partition("<!-- end of my_vae -->")[0]
    blocks = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    # without white space: the formatter reformats blocks of Markdown
    assert "".join("".join(blocks).split()) == "".join(filled_template("model", "my_vae", "my_vae.py").split())


def _marked(mark: str) -> str:
    """The code block of docs/plugins.md between two marks."""
    text = DOCS.read_text().partition(f"<!-- {mark}:begin -->")[2].partition(f"<!-- {mark}:end -->")[0]
    (block,) = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that docs/plugins.md describes: a user's package, its weights, the first plugin, and images."""
    home = tmp_path_factory.mktemp("project")
    (home / "my_model.py").write_text(_marked("smallest"))
    (home / "my_project").mkdir()
    (home / "my_project/__init__.py").write_text("")
    (home / "my_project/vae.py").write_text(USER_PACKAGE)
    save = "import torch; from my_project.vae import VAE; torch.save({'net': VAE().state_dict()}, 'weights.pt')"
    subprocess.run([sys.executable, "-c", save], check=True, cwd=home)
    (home / "PATH").mkdir()
    random = np.random.default_rng(0)
    for i in range(200):
        cv2.imwrite(str(home / f"PATH/{i}.png"), random.integers(0, 256, (32, 32, 3), np.uint8))
    rows = [f"{i}.png,{i % 2},{i // 2 % 2}" for i in range(200)]
    (home / "PATH/attributes.csv").write_text("\n".join(["file,Smiling,Male", *rows]))
    return home


def test_the_first_example_of_the_docs_is_under_20_lines() -> None:
    assert len([line for line in _marked("smallest").splitlines() if line.strip()]) < 20


@pytest.mark.parametrize(
    ("number", "options", "output"),
    [
        (0, "", "mine"),
        (1, "", "5 of 5 tests passed"),
        (2, "--metric density --judge none --no-figures --out out", "density"),
    ],
)
def test_the_first_commands_of_the_docs_work(number: int, options: str, output: str, project: Path) -> None:
    line = _marked("commands").splitlines()[number].partition("#")[0]
    line = line.replace("ccvae-eval", f"{sys.executable} -P -m ccvae_eval.cli.main")
    done = subprocess.run(f"{line} {options}", shell=True, capture_output=True, text=True, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert output in done.stdout


def test_a_package_that_is_not_found_is_named_with_the_remedy(project: Path) -> None:
    done = command("inspect", "weights.pt", "--plugin", "my_model.py", cwd=project)
    assert done.returncode == 4
    assert "'my_project': PYTHONPATH=FOLDER" in done.stderr


USER_PACKAGE = """
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
        (["new", "model", "../x"], "is not a valid name"),
        (["new", "model", "mine", "--out", "mine.txt"], "must end in .py"),
        (["check", "ccvea"], "Did you mean 'ccvae'"),
        (["check", "ccvae", "--kind", "modle"], "Did you mean 'model'"),
        (["check", "npz"], "--kind data"),
    ],
)
def test_invalid_arguments_are_refused(
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


def test_an_existing_file_is_kept_without_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("precious")
    with pytest.raises(SystemExit) as ended:
        main(["new", "model", "mine"])
    assert ended.value.code == 2
    assert Path("mine.py").read_text() == "precious"
    with pytest.raises(SystemExit) as ended:
        main(["new", "model", "mine", "--force"])
    assert ended.value.code == 0
