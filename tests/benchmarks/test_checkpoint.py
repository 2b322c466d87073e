"""The price of not trusting a checkpoint: at most 0.2 s for 6 MB, beyond torch's import.

What is bounded is processor time, parent and child together: they work one after the other, so on an idle machine it is
the wall time but for the disk, and on a busy one it does not measure the neighbours. The table shows the wall time.
"""

import resource
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from ccvae_eval.checkpoint import Bundle, read_bundle, write_bundle

MOST_SECONDS = 0.2
MOST_SECONDS_OF_START = 0.12
ROUNDS = 10


def processor_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def timed(path: Path, benchmark: BenchmarkFixture) -> tuple[Bundle, float]:
    """What was read, and the least processor time that it took."""
    seconds = []

    def read() -> Bundle:
        begun = processor_seconds()
        bundle = read_bundle(path)
        seconds.append(processor_seconds() - begun)
        return bundle

    bundle = benchmark.pedantic(read, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["processor_seconds"] = min(seconds)
    return bundle, min(seconds)


@pytest.mark.parametrize("form", ["zip", "legacy", ".pt", ".safetensors"])
def test_guarded_reading_of_six_megabytes(form: str, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    path = tmp_path / f"x{form}"
    weights = nn.Sequential(*(nn.Linear(256, 256) for _ in range(23))).state_dict()
    if form.startswith("."):
        write_bundle(path, weights, {})
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    assert path.stat().st_size > 6_000_000
    bundle, seconds = timed(path, benchmark)
    assert bundle.parameter_count == sum(tensor.numel() for tensor in weights.values())
    assert seconds <= MOST_SECONDS


def test_start_of_the_child(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt")
    _, seconds = timed(tmp_path / "x.pt", benchmark)
    assert seconds <= MOST_SECONDS_OF_START
