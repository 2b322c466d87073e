"""Cost of help, lists, completion and refusals, which load neither torch nor the other heavy libraries.

The yardstick is the smallest program with typer: help and argument parsing make typer itself load pydantic and rich's
Markdown, which alone take more than twice as long as ``import typer, rich``. Times are processor time of all processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import ccvae_eval
from tests.benchmarks.conftest import Budget
from tests.benchmarks.test_checkpoint import process_and_children_seconds
from tests.support import costs

CHECKPOINT = str(Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt")
MOST = 2.5
ROUNDS = 5
SMALLEST = """
import sys, typer
app = typer.Typer(add_completion=False)

@app.command()
def hello(name: str) -> None:
    print(name)

app()
"""
HELP = [["--help"], ["new", "--help"], ["run", "--help"], ["train", "--help"]]
OTHERS = [
    ["list", "models"], ["explain", "schema"], ["inspect", CHECKPOINT], ["run", "absent.pt"], ["run", "text.pt"],
    ["run", CHECKPOINT, "--data", "fces"], ["runn"],
]  # fmt: skip


def python(folder: Path, code: str, *arguments: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        cwd=folder,
        # bytecode is cached, as in an installation
        env={
            **os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), **environment,
        },
        check=False,
    )  # fmt: skip


def min_seconds(call: Callable[[], object]) -> float:
    return costs.min_seconds(call, ROUNDS, process_and_children_seconds)


ROOT = "from ccvae_eval.cli.main import main; main()"


@pytest.mark.parametrize("arguments", [*HELP, *OTHERS], ids=lambda words: " ".join(Path(word).name for word in words))
def test_a_command_without_torch(
    arguments: list[str], tmp_path: Path, benchmark: BenchmarkFixture, budget: Budget
) -> None:
    (tmp_path / "text.pt").write_text("hello")
    smallest = ["--help"] if arguments in HELP else ["world"]
    benchmark.pedantic(lambda: python(tmp_path, ROOT, *arguments), rounds=3, warmup_rounds=1)
    budget(
        f"`{' '.join(Path(word).name for word in arguments)}` / the smallest program with typer",
        lambda: (
            min_seconds(lambda: python(tmp_path, ROOT, *arguments))
            / min_seconds(lambda: python(tmp_path, SMALLEST, *smallest))
        ),
        MOST,
    )


def test_completion_of_a_command(tmp_path: Path, benchmark: BenchmarkFixture, budget: Budget) -> None:
    asked = {"_CCVAE_EVAL_COMPLETE": "complete_bash", "COMP_WORDS": "ccvae-eval lo", "COMP_CWORD": "1"}
    benchmark.pedantic(lambda: python(tmp_path, ROOT, **asked), rounds=3, warmup_rounds=1)
    budget(
        "completion of a command / the smallest program with typer",
        lambda: (
            min_seconds(lambda: python(tmp_path, ROOT, **asked))
            / min_seconds(lambda: python(tmp_path, SMALLEST, "world"))
        ),
        MOST,
    )
