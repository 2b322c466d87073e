"""Plugins that raise, exit, print, hang or return nonsense: named, contained, and the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from ccvae_plugins.disvae import Disvae, DisvaeSettings
from ccvae_plugins.networks import Burgess

from ccvae_eval import read
from ccvae_eval.checkpoint import Bundle, inspect_checkpoint, matches
from ccvae_eval.checkpoint.adapters import Match
from ccvae_eval.cli.run import _all_metrics
from ccvae_eval.core.errors import PluginError, StopRequest
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.attribution import plugin_call, time_limit
from tests.support.commands import run_command
from tests.support.plugin_files import folder_with_plugin

PLUGIN = """
import os, sys, time
from dataclasses import dataclass, replace
from typing import ClassVar
import numpy as np
import torch
from torch import nn
from ccvae_eval import Gaussian, LatentLayout, binary_schema
from ccvae_eval.core.results import Estimate, Measurement, Value, ValueSpec
from ccvae_eval.evaluation.metric import Needs


class Net(nn.Module):
    layout, labels = LatentLayout(4, {"Eyeglasses": (0,)}), binary_schema("Eyeglasses")

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(3072, 4), nn.Linear(4, 3072)

    def encode(self, images, labels=None):
        print("the model talks")
        loc = self.enc(images.flatten(1))
        return Gaussian(loc, torch.ones_like(loc))

    def decode(self, codes):
        return self.dec(codes).reshape(-1, 3, 32, 32).sigmoid()


def one(value=0.5, **more):
    return Measurement("", 1, {}, "value", (Value("value", Estimate(value, n=1)),), **more)


def hangs():
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        pass


def raises(error):
    raise error


RESULTS = {
    "fine": one,
    "prints": lambda: print("the metric talks") or one(),
    "interrupt": lambda: raises(KeyboardInterrupt("no signal")),
    "exit": lambda: sys.exit(3),
    "generator": lambda: raises(GeneratorExit("over")),
    "stop": lambda: raises(StopIteration("over")),
    "hang": hangs,
    "nothing": lambda: None,
    "text": lambda: replace(one(), values=(Value("value", Estimate("high")),)),
    "place": lambda: replace(one(), values=(Value("value", Estimate(1.0), 3),)),
    "count": lambda: replace(one(), values=(Value("value", Estimate(1.0, n=-4)),)),
    "objects": lambda: replace(one(), evidence={"value": np.array([{}], dtype=object)}),
    "infinite": lambda: one(float("inf")),
    "memory": lambda: raises(MemoryError("no room")),
    "cuda": lambda: raises(torch.OutOfMemoryError("no room on the GPU")),
    "quits": lambda: os._exit(7),
    "faults": lambda: __import__("ctypes").string_at(0),
}


def metric(name):
    @dataclass(frozen=True)
    class Own:
        name: ClassVar[str] = "odd"
        version: ClassVar[int] = 1
        headline: ClassVar[str] = "value"
        values: ClassVar[dict] = {"value": ValueSpec("no meaning")}
        laws: ClassVar[frozenset] = frozenset()
        default_sample: ClassVar[int] = 1000

        def needs(self, subject):
            return Needs()

        def start(self, subject):
            return self

        def update(self, batch): ...

        def compute(self, weights):
            found = RESULTS[self.name]()
            return replace(found, metric=self.name) if found is not None else found

    Own.name = Own.__name__ = Own.__qualname__ = name
    return Own


CCVAE_EVAL = {"models": {"mynet": Net}, "metrics": {name: metric(name) for name in RESULTS}}
"""
CONTAINED = {
    "fine": ("ok", "", ""),
    "prints": ("ok", "", ""),
    "infinite": ("ok", "", ""),
    "interrupt": ("failed", "plugin", "failed in compute(weights) (KeyboardInterrupt: no signal)"),
    "exit": ("failed", "plugin", "failed in compute(weights) (SystemExit: 3)"),
    "generator": ("failed", "plugin", "failed in compute(weights) (GeneratorExit: over)"),
    "stop": ("failed", "plugin", "failed in compute(weights) (StopIteration: over)"),
    "hang": ("failed", "timeout", "failed in compute(weights) (TimeoutError: took longer than 5.0 s)"),
    "nothing": ("failed", "plugin", "returned NoneType from compute(weights)"),
    "text": ("failed", "plugin", "values[0].value must be a number, got 'high'"),
    "place": ("failed", "plugin", "values[0].characteristic must be a string, got 3"),
    "count": ("failed", "plugin", "values[0].n must be at least 0, got -4"),
    "objects": ("failed", "plugin", "evidence and pictures must be arrays of numbers"),
    "memory": ("failed", "oom", "MemoryError: no room"),
    "cuda": ("failed", "oom", "OutOfMemoryError: no room on the GPU"),
}
COMMON = ["w.pt", "--plugin", "my.py", "--model", "mynet", "--data", "faces,size=32,n=900", "--judge", "none"]
COMMON += ["--sample", "160", "--no-figures", "--no-page", "--json", "--out", "out", "--force"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the plugin file and a checkpoint."""
    return folder_with_plugin(tmp_path, PLUGIN, monkeypatch)


def test_faults_of_metrics_are_contained_and_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = [part for name in (*CONTAINED, "density") for part in ("--metric", name)]
    assert run_command("run", *COMMON, *metrics, "--metric-timeout", "5") == 4
    shown = capsys.readouterr()
    found = {m["metric"]: m for m in json.loads(shown.out)["measurements"]}
    assert found["density"]["status"] == "ok"
    assert found["density"]["values"][0]["value"] is not None
    for name, (status, code, text) in CONTAINED.items():
        assert found[name]["status"] == status, name
        if status == "failed":
            assert found[name]["reason"]["code"] == code, name
            assert text in found[name]["reason"]["text"], name
            assert code == "oom" or str(home / "my.py") in found[name]["reason"]["text"], "whose it is"
    assert found["infinite"]["values"][0]["value"] is None
    assert {"the metric talks", "the model talks"} <= set(shown.err.splitlines())
    assert read(home / "out")["density.auc"] == found["density"]["values"][0]["value"]


@pytest.mark.parametrize(("name", "code"), [("quits", 7), ("faults", -signal.SIGSEGV)])
def test_a_metric_that_ends_the_process_loses_no_other(home: Path, name: str, code: int) -> None:
    program = [sys.executable, "-P", "-m", "ccvae_eval.cli.main", "run", *COMMON, "--metric", name]
    ended = subprocess.run([*program, "--metric", "density"], cwd=home, capture_output=True, text=True)
    assert ended.returncode == code
    run = read(home / "out")
    assert run.measurement("density").status == "ok"
    lost = run.measurement(name)
    assert (lost.status, lost.reason and lost.reason.code) == ("failed", "crashed")
    assert lost.reason is not None
    assert f"metric '{name}' of {home / 'my.py'} was at work" in lost.reason.text
    if name == "faults":
        assert 'my.py", line' in ended.stderr, "the line of the plugin"
    assert {path.name for path in (home / "out").iterdir()} >= {"run.json", "values.csv", "evidence.npz"}


def test_a_real_interrupt_is_not_taken_for_a_fault_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stranger:
        name = "stranger"

    with pytest.raises(StopRequest), plugin_call(Stranger(), "metric", "update(batch)"):
        raise StopRequest(signal.SIGINT)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)  # in a notebook
    with pytest.raises(KeyboardInterrupt), plugin_call(Stranger(), "metric", "update(batch)"):
        raise KeyboardInterrupt
    with pytest.raises(PluginError, match="SystemExit"), plugin_call(Stranger(), "metric", "update(batch)"):
        raise SystemExit(0)


def test_a_time_limit_ends_the_call_and_leaves_no_alarm() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match="too slow"), time_limit(0.05, "too slow"):
        time.sleep(60)
    with time_limit(60, "too slow"), time_limit(None, ""):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == before


ADAPTER = """
import os, sys, time
class Odd:
    def matches(self, bundle):
        {body}
"""
ADAPTERS = {
    "sys.exit(3)": "SystemExit: 3",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "time.sleep(60)": "TimeoutError: took longer than 0.5 s",
    "return 'very'": "ValueError: could not convert string to float: 'very'",
}


@pytest.mark.parametrize("body", ADAPTERS)
def test_an_adapter_that_misbehaves_is_named_and_passed_over(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ccvae_eval.checkpoint.adapters.MATCH_SECONDS", 0.5)
    monkeypatch.setattr("ccvae_eval.checkpoint.adapters._too_slow", {})
    (tmp_path / "odd_adapter.py").write_text(ADAPTER.format(body=body))
    monkeypatch.syspath_prepend(tmp_path)
    entry = registry.Registration("adapters", "odd", "odd_adapter:Odd", "third-party", "1.0")
    installed = (*registry._installed(), entry)
    monkeypatch.setattr(registry, "_installed", lambda: installed)
    monkeypatch.delitem(sys.modules, "odd_adapter", raising=False)
    torch.save({"weight": torch.ones(2)}, tmp_path / "w.pt")
    assert run_command("inspect", tmp_path / "w.pt", "--json") == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out)["candidates"] if row["name"] == "odd"]
    assert row["note"].startswith("broken: ")
    assert "adapter 'odd'" in row["note"]
    assert ADAPTERS[body] in row["note"]
    assert "third-party 1.0" in row["note"]


def test_an_adapter_that_describes_its_model_too_slowly_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Disvae):
        def settings(self, bundle: Bundle) -> NoReturn:
            time.sleep(60)
            raise AssertionError

    monkeypatch.setattr("ccvae_eval.checkpoint.adapters.MATCH_SECONDS", 0.05)
    monkeypatch.setattr("ccvae_eval.checkpoint.matches.matches", lambda _: [Match("slow", 1.0, Slow())])
    torch.save({"weight": torch.ones(2)}, tmp_path / "w.pt")
    rows = inspect_checkpoint(tmp_path / "w.pt")["candidates"]
    assert [row["note"] for row in rows if row["name"] == "slow"] == ["TimeoutError: took longer than 0.05 s"]


def test_a_builtin_adapter_has_no_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first use imports torch, which takes long on a slow disk."""
    build = matches.meta_network
    monkeypatch.setattr(matches, "meta_network", lambda *given: (time.sleep(0.1), build(*given))[1])
    monkeypatch.setattr("ccvae_eval.checkpoint.adapters.MATCH_SECONDS", 0.05)
    torch.save(Burgess(DisvaeSettings()).state_dict(), tmp_path / "x.pt")
    row = inspect_checkpoint(tmp_path / "x.pt")["candidates"][0]
    assert (row["name"], row["note"]) == ("disvae", "")


FILES = {
    "import os; os._exit(7)": "ended the process with exit code 7",
    "import os; os._exit(0)": "ended the process with exit code 0",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "killed by SIGSEGV",
    "import subprocess; subprocess.run(['sleep', '60'])": "loading did not finish within 2 s",
    "raise KeyboardInterrupt": "plugin file cannot be run (KeyboardInterrupt: )",
}


@pytest.mark.parametrize("text", FILES)
def test_list_tries_a_plugin_file_in_a_child(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "odd.py").write_text(text)
    (tmp_path / "fine.py").write_text(
        "print('hello')\nclass Mine:\n    'My own.'\nCCVAE_EVAL = {'models': {'mine': Mine}}"
    )
    began = time.monotonic()
    arguments = ["--plugin", tmp_path / "odd.py", "--plugin", tmp_path / "fine.py", "--json"]
    assert run_command("list", "models", "--seconds", "2", *arguments) == 0
    assert time.monotonic() - began < 40, "nothing waits for the sleeper"
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["odd"]["state"] == f"broken: {FILES[text]}"
    assert (rows["mine"]["state"], rows["mine"]["description"]) == ("registered", "My own.")
    assert {"ccvae", "vae"} <= set(rows)


@pytest.mark.parametrize("text", FILES)
def test_list_check_tries_an_installed_plugin_in_a_child(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (tmp_path / "odd_module.py").write_text(f"{text}\nclass Mine: ...")
    (info / "METADATA").write_text("Name: odd\nVersion: 1.0\n\n")
    (info / "entry_points.txt").write_text("[ccvae_eval.reports]\nodd = odd_module:Mine\n")
    program = [sys.executable, "-P", "-m", "ccvae_eval.cli.main", "list", "reports", "--check", "--seconds", "2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    shown = subprocess.run([*program, "--json"], env=environment, capture_output=True, text=True, check=True)
    (row,) = json.loads(shown.stdout)["reports"]
    expected = FILES[text].replace("plugin file cannot be run (KeyboardInterrupt: )", "import of odd_module:Mine")
    assert row["state"].startswith(f"broken: {expected}")


THREADS = """
import threading, time
threading.Thread(target=time.sleep, args=(300,), name="sleeper").start()
print("hello")
class Mine: ...
CCVAE_EVAL = {"models": {"mine": Mine}}
"""


def test_a_thread_of_a_plugin_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(THREADS)
    program = "import ccvae_eval.cli.main as m; m.THREAD_SECONDS = 0.1; m.main()"
    command = [sys.executable, "-P", "-c", program, "inspect", str(tmp_path / "w.npz"), "--plugin", "threads.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3, ended.stderr
    assert "Threads of a plugin are still at work and are not waited for: sleeper" in ended.stderr


def test_all_metrics_are_those_that_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd_metric.py").write_text("print('hello')\nraise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    entry = registry.Registration("metrics", "odd", "odd_metric:Odd", "third-party", "1.0")
    installed = (*registry._installed(), entry)
    monkeypatch.setattr(registry, "_installed", lambda: installed)
    names = _all_metrics()
    assert "density" in names
    assert "odd" not in names
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "skipped: third-party 1.0: plugin 'odd' of group 'metrics' cannot be loaded" in shown.err
