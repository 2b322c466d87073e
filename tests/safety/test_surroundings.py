"""Terminals, homes, networks and labels that are not as expected."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccvae_eval
from ccvae_eval import Gaussian, Label, LabelSchema, LatentLayout, evaluate
from ccvae_eval.core.errors import CcvaeEvalError
from ccvae_eval.evaluation.storage import write
from ccvae_eval.sweep.engines import Processes
from tests.support import sweep_commands
from tests.support.runs import pictured_run

PROGRAM = [sys.executable, "-P", "-m", "ccvae_eval.cli.main"]
SHIPPED = Path(ccvae_eval.__file__).parent / "assets" / "ccvae-faces64.pt"
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("columns", ["20", "80"])
@pytest.mark.parametrize("terminal", [{"TERM": "dumb", **PLAIN}, {"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb"}])
def test_any_terminal_shows_every_view(columns: str, terminal: dict[str, str], tmp_path: Path) -> None:
    write(pictured_run(), tmp_path / "run")
    environment = {**os.environ, **terminal, "COLUMNS": columns}
    for arguments in (["inspect", "run"], ["runs", "."], ["explain", "locality"], ["bogus"]):
        ended = subprocess.run([*PROGRAM, *arguments], cwd=tmp_path, env=environment, capture_output=True)
        assert ended.returncode == (2 if arguments == ["bogus"] else 0), ended.stderr
        assert b"internal error" not in ended.stderr
        assert b"Traceback" not in ended.stderr
        if len(terminal) != 1 or "TERM" not in terminal:
            assert (ended.stdout + ended.stderr).isascii()


ALONE = """
import socket, sys
def refused(*_, **__):
    raise OSError("no network here")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
from ccvae_eval.cli.main import main
main()
"""


def test_an_evaluation_needs_neither_a_home_nor_a_network(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"}
    environment |= {"HOME": "/proc/nowhere"}
    arguments = ["run", str(SHIPPED), "--metric", "density", "--sample", "128", "--judge", "none", "--no-page"]
    arguments += ["--no-figures", "--out", "out"]
    command = [sys.executable, "-P", "-c", ALONE, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Nothing is cached: /proc/nowhere/.cache/ccvae-eval cannot be written" in " ".join(ended.stderr.split())
    assert (tmp_path / "out" / "run.json").is_file()


def test_no_process_is_forked_from_one_with_threads(tmp_path: Path) -> None:
    engine = Processes(tmp_path, sweep_commands.command, count=1)
    assert engine._context.get_start_method() == "forkserver"
    for file in Path(ccvae_eval.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            assert name not in ("fork", "forkpty"), file
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "get_context":
                assert [ast.unparse(argument) for argument in node.args] == ["'forkserver'"], file


class Grey(torch.nn.Module):
    """A model of grey images of one brightness, of any size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.layout = LatentLayout(2, {"A": (0,), "B": (1,)})
        self.labels = LabelSchema((Label("A"), Label("B", "categorical", ("0", "1", "2"))))

    def encode(self, images: Any, labels: Any = None) -> Gaussian:
        loc = images.flatten(1)[:, :1].expand(-1, 2)
        return Gaussian(loc, torch.ones_like(loc))

    def decode(self, codes: Any) -> Any:
        return codes.sigmoid().mean(1).view(-1, 1, 1, 1).expand(-1, 1, self.size, self.size)


def evaluated(labels: Any, size: int = 4, names: tuple[str, ...] = ("A", "B"), classes: int = 3) -> Any:
    images = np.random.default_rng(0).random((len(labels), 1, size, size), dtype=np.float32)
    model = Grey(size)
    if classes == 2:
        model.labels = LabelSchema((Label("A"), Label("B")))
    metrics = ("density", "locality", "accuracy", "reconstruction")
    return evaluate(
        model, (images, labels, list(names)), metrics, limit=max(len(labels), 1), judge="none", references=False,
        gallery=False, progress=False,
    )  # fmt: skip


def labels_with(value: float, column: int) -> Any:
    labels = np.random.default_rng(1).integers(0, 2, (200, 2)).astype(np.float32)
    labels[3, column] = value
    return labels


@pytest.mark.parametrize("value", [2, 1.5, -1.5, np.inf])
def test_a_label_outside_its_kind_is_refused_before_anything_is_computed(value: float) -> None:
    with pytest.raises(CcvaeEvalError, match="binary in the model|must be finite") as refused:
        evaluated(labels_with(value, 0), classes=2)
    assert refused.value.exit_code == 3


def test_a_missing_label_is_counted_and_a_label_that_the_data_lack_is_left_out() -> None:
    run = evaluated(labels_with(np.nan, 0), classes=2)
    assert run.find("density.auc@A").excluded == 1
    run = evaluated(labels_with(0, 0), names=("A", "C"), classes=2)
    assert run.find("density.auc@A").estimate.defined
    assert not run.find("density.auc@B").estimate.defined


def test_labels_that_never_change_are_undefined_with_a_reason() -> None:
    run = evaluated(np.zeros((200, 2), np.float32), classes=2)
    found = [m for m in run if m.metric in ("density", "locality")]
    assert {m.status for m in found} == {"undefined"}
    assert all(m.reason and "class" in m.reason.text for m in found)
    assert run.measurement("reconstruction").status == "ok"


def test_images_of_one_pixel_and_no_images() -> None:
    run = evaluated(labels_with(0, 0), size=1, classes=2)
    assert all(m.status in ("ok", "undefined") for m in run)
    with pytest.raises(CcvaeEvalError, match="unsupported shape") as refused:
        evaluated(labels_with(0, 0)[:0], classes=2)
    assert refused.value.exit_code == 3
