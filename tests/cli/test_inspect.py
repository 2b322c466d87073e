"""``inspect``: long metadata, numbers that are not finite, and folders whose run is not a file."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ccvae_plugins.disvae import DisvaeSettings
from ccvae_plugins.networks import Burgess

from ccvae_eval.evaluation.storage import write
from tests.support.commands import run_command
from tests.support.runs import measurement, run_of, value

WEIGHT = {"weight": torch.ones(2)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.pt"


def test_numbers_that_json_lacks_are_null(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Early stopping begins with an infinite best loss, and a loss may be NaN."""
    torch.save({**WEIGHT, "best": math.inf, "losses": [1.0, math.nan], "scheduler": {"best": -math.inf}}, path)
    assert run_command("inspect", path, "--json") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["metadata"] == {"best": None, "losses": [1.0, None], "scheduler": {"best": None}}
    assert run_command("inspect", path) == 0
    assert "best ∞" in capsys.readouterr().out


def test_long_metadata_are_shown_cut(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table wrapped a text of many words in quadratic time."""
    long = {f"text {i}": "a " * 500_000 for i in range(15)}
    torch.save({**WEIGHT, **long, "losses": [0.5] * 50_000, "table": {str(i): i for i in range(20_000)}}, path)
    assert run_command("inspect", path) == 0
    shown = capsys.readouterr().out
    assert len(shown) < 20_000
    assert "(1,000,000 characters)" in shown.replace("\n", "").replace("            ", "")
    assert "and 49,940 more" in " ".join(shown.split())
    assert "and 19,940 more" in " ".join(shown.split())


def test_empty_metadata_are_left_out_and_not_counted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**WEIGHT, "groups": {str(i): [] if i % 2 else i for i in range(100)}}, path)
    assert run_command("inspect", path) == 0
    assert "more" not in capsys.readouterr().out


def test_all_metadata_are_in_the_document(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**WEIGHT, "losses": list(range(1000)), "text": "a " * 1000}, path)
    assert run_command("inspect", path, "--json") == 0
    found = json.loads(capsys.readouterr().out)["metadata"]
    assert found == {"losses": list(range(1000)), "text": "a " * 1000}


def test_a_folder_with_a_pipe_as_run_is_a_broken_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "run.json")
    assert run_command("inspect", tmp_path) == 3
    assert "run.json: is a pipe, not a file" in capsys.readouterr().err


def test_arrays_are_shown_before_torch_is_imported(tmp_path: Path) -> None:
    np.savez(tmp_path / "codes.npz", codes=np.zeros((10, 3)), labels=np.zeros((10, 2)))
    code = (
        "import sys; from ccvae_eval.cli.inspect import _steps; found = next(_steps(sys.argv[1], {}));"
        "print(found['arrays'], 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "codes.npz")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == "{'codes': 'float64 10 x 3', 'labels': 'float64 10 x 2'} False\n"


def test_what_a_file_is_stands_there_before_torch_is_imported(tmp_path: Path) -> None:
    torch.save(Burgess(DisvaeSettings()).state_dict(), tmp_path / "model.pt")
    write(run_of(measurement("locality", "focus", [value("focus", 0.5)])), tmp_path / "run")
    code = """
import sys

class Finder:
    def find_spec(name, *_):
        if name == "torch":
            print("torch is imported", flush=True)

sys.meta_path.insert(0, Finder)
from ccvae_eval.cli.main import main
main(sys.argv[1:])
"""
    for name, at_once, later in (("model.pt", {"disvae", "parameters", "sha256"}, "candidates"),
                                 ("run", {"checkpoint", "data", "judge"}, "locality")):  # fmt: skip
        command = [sys.executable, "-c", code, "inspect", str(tmp_path / name)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        before, after = shown.split("torch is imported")
        assert at_once <= {*before.split()}
        assert later in after


def test_the_arrays_of_a_run_are_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "evidence.npz", **{f"array{i}": np.zeros(2) for i in range(100)})
    assert run_command("inspect", tmp_path / "evidence.npz") == 0
    shown = capsys.readouterr().out
    assert shown.split()[:2] == ["kind", "arrays"]
    assert "and 40 more" in " ".join(shown.split()), "not all names are listed"
    (tmp_path / "run.json").write_text("{}")
    assert run_command("inspect", tmp_path / "evidence.npz") == 3
    assert f"ccvae-eval inspect {tmp_path}" in capsys.readouterr().err
