"""The price of not trusting a checkpoint (DESIGN: at most 0.2 s for 6 MB, beyond torch's import).

The least of the rounds is compared: the others measure who else is at work on the machine.
"""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from ccvae_eval.checkpoint import read_bundle, write_bundle

MOST_SECONDS = 0.2
MOST_SECONDS_OF_START = 0.12


@pytest.mark.parametrize("form", ["zip", "legacy", ".pt", ".safetensors"])
def test_guarded_reading_of_six_megabytes(form: str, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    path = tmp_path / f"x{form}"
    weights = nn.Sequential(*(nn.Linear(256, 256) for _ in range(23))).state_dict()
    if form.startswith("."):
        write_bundle(path, weights, {})
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    assert path.stat().st_size > 6_000_000
    bundle = benchmark.pedantic(read_bundle, args=(path,), rounds=10, warmup_rounds=1)
    assert bundle.parameter_count == sum(tensor.numel() for tensor in weights.values())
    if benchmark.enabled:
        assert benchmark.stats["min"] <= MOST_SECONDS


def test_start_of_the_child(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt")
    benchmark.pedantic(read_bundle, args=(tmp_path / "x.pt",), rounds=10, warmup_rounds=1)
    if benchmark.enabled:
        assert benchmark.stats["min"] <= MOST_SECONDS_OF_START
