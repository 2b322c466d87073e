"""Cost of reading an untrusted checkpoint, against a plain safetensors load and the start of a process.

Times are processor time of parent and child process together, which other programs do not affect.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from ccvae_eval.checkpoint import read_bundle, write_bundle
from tests.benchmarks.conftest import Budget
from tests.support import costs

READING = 4.0
STARTING = 4.0
ROUNDS = 10


def process_and_children_seconds() -> float:
    """Processor time of this process and its children so far."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def min_seconds(call: Callable[[], object]) -> float:
    return costs.min_seconds(call, ROUNDS, process_and_children_seconds)


def start_a_process() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", "import json"], check=True)


@pytest.mark.parametrize("form", ["zip", "legacy", ".pt", ".safetensors"])
def test_reading_six_megabytes(form: str, tmp_path: Path, benchmark: BenchmarkFixture, budget: Budget) -> None:
    path, plain = tmp_path / f"x{form}", tmp_path / "plain.safetensors"
    weights = nn.Sequential(*(nn.Linear(256, 256) for _ in range(23))).state_dict()
    if form.startswith("."):
        write_bundle(path, weights, {})
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    safetensors.torch.save_file(dict(weights), plain)
    assert path.stat().st_size > 6_000_000
    bundle = benchmark.pedantic(read_bundle, args=(path,), rounds=3, warmup_rounds=1)
    assert bundle.parameter_count == sum(tensor.numel() for tensor in weights.values())

    def ratio() -> float:
        loading = min_seconds(lambda: safetensors.torch.load_file(plain)) + min_seconds(start_a_process)
        return min_seconds(lambda: read_bundle(path)) / loading

    budget(f"reading a 6 MB checkpoint ({form}) / plain safetensors load and a process start", ratio, READING)


def test_starting_the_child_process(tmp_path: Path, benchmark: BenchmarkFixture, budget: Budget) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(1)}, path)
    benchmark.pedantic(read_bundle, args=(path,), rounds=3, warmup_rounds=1)
    budget(
        "reading a checkpoint of one number / a process start",
        lambda: min_seconds(lambda: read_bundle(path)) / min_seconds(start_a_process),
        STARTING,
    )
