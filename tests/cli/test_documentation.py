"""The commands of README and docs, and the rules, recipes and workflow of docs/compare.md, are those of the program."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import ccvae_eval
from ccvae_eval.cli import VERBS
from ccvae_eval.cli.main import OLD_NAMES, load_command
from ccvae_eval.comparison.gate import read_gate
from ccvae_eval.evaluation.result_table import Mean, RatioOfSums
from ccvae_eval.evaluation.storage import write
from ccvae_eval.metrics.accuracy.metric import BalancedAccuracy
from tests.support.comparisons import run_of
from tests.support.runs import pictured_run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXT = (DOCS / "compare.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def commands_in(page: Path) -> set[str]:
    """The command lines in the code blocks of a page, without comments, pipes, redirections and shell variables."""
    blocks = re.findall(r"^ *```.*?\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    text = re.sub(r"\\\n *", "", "".join(blocks)).replace("$n", "8")
    start = r"^ *(?:- run: |cmd: |PYTHONPATH=\. )?"
    found = re.findall(start + r"(ccvae-eval [a-z].*)$", text, re.MULTILINE)
    found += re.findall(r'--wrap "(ccvae-eval [^"]*)"', text)
    return {re.sub(r" +[#>|].*", "", line).strip() for line in found}


COMMANDS = sorted({command for page in PAGES for command in commands_in(page)})
INLINE = sorted(
    {verb for page in PAGES for verb in re.findall(r"`ccvae-eval ([a-z]\S*?)[ `]", page.read_text("utf-8"))}
)


def block(language: str, containing: str) -> str:
    """The one code block of the page in a language that contains a text."""
    (found,) = (b for b in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if containing in b)
    return str(found)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    _, verb, *arguments = shlex.split(line)
    load_command(verb).make_context(verb, arguments)


def test_commands_within_sentences_exist() -> None:
    assert [verb for verb in INLINE if verb not in VERBS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_uses_an_old_name(page: Path) -> None:
    old = rf"(?:{'|'.join(OLD_NAMES)})(?![\w-])|ccvae-eval/demo"
    assert re.findall(old, page.read_text(encoding="utf-8")) == []


def test_the_example_of_mig_gives_its_numbers() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "faq.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    examples = re.findall(r"^(ccvae_eval\.score.*)  # (.*)$", code, re.MULTILINE)
    assert len(examples) == 3
    for call, number in examples:
        exec(f"found = {call}", names)
        assert f"{names['found']:.2f}" == number


def test_the_file_of_rules_is_read(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(block("toml", "[min]"))
    gate = read_gate(tmp_path / "gate.toml")
    assert [rule.kind for rule in gate.rules] == ["min", "min", "max", "max-drop"]
    assert gate.baseline == "runs/main"


def test_the_simulations_are_tests_of_this_name() -> None:
    rows = re.findall(r"\| `(test_\w+)` in ([^|]*) \|", TEXT)
    assert len(rows) == 4
    file = ""
    for name, where in rows:
        file = file if where == "the same file" else where
        assert f"def {name}(" in (Path(__file__).parents[2] / file).read_text(encoding="utf-8")


# --- trackers: each recipe is run with a fake of its library --------------------------------------------------------

RUN = pictured_run()


def recipe(name: str, modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **given: Any) -> dict[str, Any]:
    """Runs the recipe that imports ``name``, with fake modules; its names afterwards."""
    for module, members in modules.items():
        fake = ModuleType(module)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(ccvae_eval, "evaluate", lambda model, data: RUN, raising=False)
    code = block("python", f"import {name}" if "." not in name else name)
    names = {"ccvae_eval": ccvae_eval, "model": "model", "data": "data", "epoch": 7, **given}
    exec(compile(code, f"docs/compare.md, {name}", "exec"), names)
    return names


def test_the_recipe_of_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    recipe("wandb", {"wandb": {"log": lambda values, step: logged.append((values, step))}}, monkeypatch)
    ((values, step),) = logged
    assert (values["locality/focus@Smiling"], step) == (0.5, 7)


def test_the_recipe_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}

    def log_metrics(metrics: dict[str, float], step: int) -> None:
        assert step == 7
        assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in metrics), "MLflow's rule of names"
        logged.update(metrics)

    recipe("mlflow", {"mlflow": {"log_metrics": log_metrics}}, monkeypatch)
    assert logged["locality/focus_Smiling"] == 0.5
    assert len(logged) == len(ccvae_eval.flat(RUN))


def test_the_recipe_of_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def __enter__(self) -> SummaryWriter:
            return self

        def __exit__(self, *_: object) -> None:
            logged.append("closed")

        def add_scalars(self, main_tag: str, values: dict[str, float], step: int) -> None:
            logged.append((main_tag, values["locality/focus@Smiling"], step))

    recipe("torch.utils.tensorboard", {"torch.utils.tensorboard": {"SummaryWriter": SummaryWriter}}, monkeypatch)
    assert logged == [("ccvae-eval", 0.5, 7), "closed"]


def test_the_recipe_of_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Callback:
        """Lightning's base class: hooks that do nothing."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise AssertionError("Lightning's own hook hides that of the evaluation")

    trainers: list[Any] = []
    members = {"Callback": Callback, "Trainer": lambda callbacks: trainers.extend(callbacks)}
    recipe("lightning", {"lightning": members}, monkeypatch)
    (callback,) = trainers
    assert isinstance(callback, Callback)
    assert (callback.every, callback.data, callback.sample) == (5, "folder:data", 256)
    callback.on_fit_start(None, None)
    trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, current_epoch=0)
    callback.on_validation_epoch_end(trainer, None)  # the first of five epochs: no evaluation


# --- DVC and GitHub Actions: the command lines are run by bash --------------------------------------------------------


def bash(command: str, folder: Path, run: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line with bash; ``run`` takes the place of ``ccvae-eval run``, and pip installs nothing."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    python = f"{shlex.quote(sys.executable)} -m ccvae_eval.cli.main"
    program = f'[ "$1" = run ] && {{ shift; {run}; exit; }}\nexec {python} "$@"\n'
    for name, text in {"pip": "exit 0\n", "ccvae-eval": program.replace("PYTHON", python)}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}")
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )


def gated(folder: Path, focus: float) -> None:
    """A run with the values that the rules of the page ask for."""
    random = np.random.default_rng(0)
    label = np.arange(60) % 2.0
    run = run_of(
        {
            "locality": ("focus", {"Eyeglasses": Mean(focus + 0.05 * random.standard_normal(60))}),
            "drift": ("spill", {"Eyeglasses": RatioOfSums(0.01 + 0.01 * random.random(60), np.ones(60))}),
            "accuracy": ("balanced_accuracy", {"Eyeglasses": BalancedAccuracy(label, label)}),
        },
        directions={"drift": False},
    )
    write(run, folder)


@pytest.mark.parametrize(("focus", "code"), [(0.6, 0), (0.2, 1)])
def test_the_steps_of_the_workflow_run_in_bash(tmp_path: Path, focus: float, code: int) -> None:
    gated(tmp_path / "runs" / "main", 0.6)
    gated(tmp_path / "small", focus)
    (tmp_path / "gate.toml").write_text(block("toml", "[min]"))
    steps = re.findall(r"- run: (.*)", block("yaml", "runs-on:"))
    assert [shlex.split(step)[0] for step in steps] == ["pip", "ccvae-eval", "ccvae-eval"]
    summary = tmp_path / "summary.md"
    done = [bash(step, tmp_path, "cp -r small runs/new", GITHUB_STEP_SUMMARY=str(summary)) for step in steps]
    assert [step.returncode for step in done] == [0, 0, code], done[-1].stderr
    (suite,) = ElementTree.parse(tmp_path / "gate.xml").getroot().iter("testsuite")
    failures = 2 * code  # the least focus, and the drop from the baseline
    assert (suite.get("tests"), suite.get("failures")) == ("4", str(failures))
    assert len(list(suite.iter("failure"))) == failures
    lines = summary.read_text().splitlines()
    assert lines[0].startswith("### ccvae-eval gate: ")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + 4
    assert len({line.count(" | ") for line in rows}) == 1


def test_the_stage_of_dvc_runs_in_bash(tmp_path: Path) -> None:
    stage = block("yaml", "stages:")
    (command,) = re.findall(r"cmd: (.*)", stage)
    checkpoint = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
    (tmp_path / "data").mkdir()
    random = np.random.default_rng(0)
    opened = ccvae_eval.load(checkpoint)
    labels = [label.name for label in opened.model.labels]
    lines = [",".join(["image", *labels])]
    for k in range(12):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "data" / f"{k:02}.png")
        lines.append(",".join([f"{k:02}.png", *[str(k % 2)] * (len(labels) - 1), ("Black", "Gray")[k % 2]]))
    (tmp_path / "data" / "attributes.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "model.pt").write_bytes(checkpoint.read_bytes())
    short = "-m reconstruction --limit 8 --judge none --no-figures"
    done = bash(command, tmp_path, f'PYTHON run "$@" {short}')
    assert done.returncode == 0, done.stderr
    (metrics,) = re.findall(r"metrics: \[(\S+):", stage)
    (plots,) = re.findall(r"plots: \[(\S+)\]", stage)
    assert json.loads((tmp_path / metrics).read_text())["measurements"][0]["metric"] == "reconstruction"
    with (tmp_path / plots).open() as file:
        values = {row["name"]: row["value"] for row in csv.DictReader(file)}
    assert float(values["mse"]) > 0
    assert all((tmp_path / name).exists() for name in re.findall(r"\w[\w.]*", stage.split("deps: [")[1].split("]")[0]))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_percentages_are_one_word(page: Path) -> None:
    assert re.findall(r".*\d \\?%.*", page.read_text(encoding="utf-8")) == []
