"""A third-party model, data set or matcher that fails in a run: the error names its origin, the call and a fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import ccvae_eval
from ccvae_eval.cli.main import main
from ccvae_eval.core.errors import PluginError, UsageError
from ccvae_eval.data.sets.mnist import Mnist
from ccvae_eval.plugins import registry
from ccvae_eval.plugins.attribution import CREATION, name_and_origin, plugin_call
from tests.support.fakes import Squares, SquaresVAE
from tests.support.plugin_files import folder_with_plugin

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from ccvae_eval import Gaussian, LatentLayout, binary_schema
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.metrics.matchers.interface import no_matches


class Net(nn.Module):
    layout, labels = LatentLayout(4, {"Eyeglasses": (0,)}), binary_schema("Eyeglasses")

    def __init__(self, fault=""):
        super().__init__()
        self.enc, self.dec, self.fault = nn.Linear(3072, 4), nn.Linear(4, 3072), fault

    def encode(self, images, labels=None):
        if self.fault == "encode":
            raise KeyError("beta")
        loc = self.enc(images.flatten(1))
        if self.fault == "pair":
            return loc, loc
        if self.fault == "columns":
            return Gaussian(loc[:, :3], loc[:, :3].exp())
        return Gaussian(loc, torch.ones_like(loc))

    def decode(self, codes):
        if self.fault == "decode":
            return self.dec(codes[:, :3])
        images = self.dec(codes).reshape(-1, 3, 32, 32)
        if self.fault == "logits":
            return images * 9
        if self.fault == "tuple":
            return images.sigmoid(), images
        if self.fault == "flat":
            return images.sigmoid().flatten(1)
        return images.sigmoid()

    def predict(self, images, codes):
        if self.fault == "predict":
            raise IndexError("no such label")
        return {"Eyeglasses": nn.functional.logsigmoid(torch.stack([-codes[:, 0], codes[:, 0]], 1))}

    def conditional_prior(self, labels):
        if self.fault == "prior":
            raise IndexError("no such row")
        return Gaussian(labels, torch.ones_like(labels))

    likelihood_name = "odd"

    def log_likelihood(self, images, codes):
        if self.fault == "likelihood":
            raise ValueError("odd pixels")
        return -(images - self.decode(codes)).square().flatten(1).sum(1)


class Torn(Faces):
    def batch(self, ids):
        raise OSError("disk gone")

    @classmethod
    def from_spec(cls, path, options):
        if path == "closed":
            raise KeyError("index")
        return Faces.from_spec.__func__(cls, None, {"size": "32", "n": "900"})


@dataclass(frozen=True)
class Blind:
    name: ClassVar[str] = "blind"
    bounded: ClassVar[bool] = True
    fault: str = "match"
    search: float = 8.0
    guard: float = 4.0

    def __post_init__(self):
        if self.fault == "made":
            raise RuntimeError("no weights")

    def features(self, images):
        if self.fault == "features":
            raise RuntimeError("too dark")
        return images

    def match(self, first, second):
        if self.fault == "match":
            raise RuntimeError("nothing to see")
        return no_matches(len(first), 1)


CCVAE_EVAL = {"models": {"mynet": Net}, "data": {"torn": Torn}, "matchers": {"blind": Blind}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the plugin file and a checkpoint."""
    return folder_with_plugin(tmp_path, PLUGIN, monkeypatch)


def run_document(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document of ``run --json``."""
    common = ["--plugin", "my.py", "--model", "mynet", "--judge", "none", "--json", "--no-figures", "--sample", "160"]
    data = [] if "--data" in arguments else ["--data", "faces,size=32,n=900"]
    with pytest.raises(SystemExit) as ended:
        main(["run", "w.pt", *common, *data, *arguments])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("fault", "what", "hint"),
    [
        ("encode", "model 'mynet' failed in encode(images), images of shape (3, 32, 32)", "images.range"),
        ("pair", "model 'mynet': encode(images) returned tuple", "Return Gaussian(mean, standard deviation)"),
        ("columns", "encode(images) returned means of shape (32, 3)", "layout has 4 latent dimensions"),
    ],
)
def test_a_failure_while_encoding_ends_the_command(
    fault: str, what: str, hint: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = run_document(["--set", f"fault={fault}"], capsys)
    error = document["error"]
    assert code == 4
    assert what in error["what"]
    assert error["where"] == str(home / "my.py")
    assert hint in error["hint"]


@pytest.mark.parametrize(
    ("fault", "metric", "what", "hint"),
    [
        ("decode", "reconstruction", "failed in decode(codes), codes of shape (N, 4) (RuntimeError: mat1", "check"),
        ("tuple", "reconstruction", "decode(codes) returned tuple", "mean image alone"),
        ("flat", "reconstruction", "returned images of shape (32, 3072), the data have (32, 3, 32, 32)", "size=32"),
        ("predict", "accuracy", "model 'mynet' failed in predict(images, codes) (IndexError: no such label)", "check"),
        ("prior", "diversity", "model 'mynet' failed in conditional_prior(labels), labels of shape (N, 1)", "check"),
        ("likelihood", "reconstruction", "failed in log_likelihood(images, codes) (ValueError: odd pixels)", "check"),
    ],
)  # fmt: skip
def test_a_failure_while_measuring_ends_only_its_metric(
    fault: str, metric: str, what: str, hint: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "density" if fault != "prior" else "accuracy"
    code, document = run_document(["--set", f"fault={fault}", "--metric", metric, "--metric", other], capsys)
    assert code == 4
    states = {m["metric"]: m for m in document["measurements"]}
    assert states[metric]["status"] == "failed"
    assert states[metric]["reason"]["code"] == "plugin"
    text = states[metric]["reason"]["text"]
    assert what in text
    assert str(home / "my.py") in text
    assert hint in text
    assert states[other]["status"] == "ok"


def test_the_hint_about_logits_solves_the_problem(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run_document(["--set", "fault=logits", "--metric", "density"], capsys)
    assert code == 4, "refused before anything is measured, whatever the metric"
    assert "decode(codes) returned pixels from -" in document["error"]["what"]
    assert document["error"]["where"] == str(home / "my.py")
    assert "--set images.logits=true" in document["error"]["hint"]
    pixels = ["--set", "fault=logits", "--set", "images.logits=true"]
    code, document = run_document([*pixels, "--metric", "reconstruction"], capsys)
    assert code == 0
    assert document["measurements"][0]["status"] == "ok"


def test_a_failing_data_set_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run_document(["--data", "torn"], capsys)
    assert code == 4
    assert document["error"]["what"] == "data set 'torn' failed in batch(ids), 160 ids"
    assert document["error"]["why"] == "OSError: disk gone"
    assert document["error"]["where"] == str(home / "my.py")
    _, document = run_document(["--data", "torn,label=Grin=Smiling"], capsys)
    assert document["error"]["what"].startswith("data set 'torn' failed in batch(ids)"), "a relabelled data set too"
    _, document = run_document(["--data", "torn:closed"], capsys)
    assert document["error"]["what"] == "data set 'torn' failed in from_spec(path, options)"
    assert "ccvae-eval check torn" in document["error"]["hint"]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("features", "matcher 'blind' failed in features(images), images of shape (32, 3, 32, 32)"),
        ("match", "matcher 'blind' failed in match(first, second)"),
    ],
)
def test_a_failing_matcher_is_named(fault: str, what: str, home: Path) -> None:
    options = {"drift": {"matcher": f"blind,fault={fault}"}}
    run = ccvae_eval.evaluate(
        SquaresVAE(), Squares(300), ["drift", "density"], options=options, judge="none", sample=90
    )
    states = {m.metric: m for m in run.measurements}
    reason = states["drift"].reason
    assert reason is not None
    assert what in reason.text
    assert str(home / "my.py") in reason.text
    assert states["density"].status == "ok"


def test_a_matcher_whose_constructor_fails_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run_document(["--metric", "drift", "--option", "drift.matcher=blind,fault=made"], capsys)
    assert code == 4
    assert document["error"]["what"] == "matcher 'blind' cannot be created"
    assert "no weights" in document["error"]["why"]


def test_an_installed_plugin_is_named_with_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        __module__ = "some_vaes.deep"
        __qualname__ = "Installed"

    class Inner:
        __module__ = "some_vaes.deep"

    class Elsewhere:
        __module__ = "some_vaes.other"

    found = registry.Registration("models", "deep", "some_vaes.deep:Installed", "some-vaes", "2.5")
    monkeypatch.setattr(registry, "_installed", lambda: (found,))
    assert name_and_origin(Installed()) == ("'deep'", "some-vaes 2.5")
    assert name_and_origin(Inner()) == ("Inner", "some-vaes 2.5")
    assert name_and_origin(Elsewhere()) == ("Elsewhere", "some-vaes 2.5")
    assert name_and_origin(Path()) == (type(Path()).__name__, "pathlib")


def test_an_exception_of_a_builtin_data_set_is_raised_unchanged() -> None:
    builtin = object.__new__(Mnist)
    with pytest.raises(ZeroDivisionError), plugin_call(builtin, "data set", "batch(ids)"):
        raise ZeroDivisionError
    with pytest.raises(PluginError, match="failed in encode"), plugin_call(object(), "model", "encode(images)"):
        raise ZeroDivisionError


THIRD_PARTY = registry.Registration("metrics", "odd", "x:Y", "some-vaes", "2.5")
BUILTIN = registry.Registration("adapters", "own", "x:Y", registry.BUILTIN_DISTRIBUTION, "1")


@pytest.mark.parametrize(
    ("owner", "kind", "call", "message"),
    [
        (THIRD_PARTY, "metric", CREATION, "some-vaes 2.5: metric 'odd' cannot be created (ZeroDivisionError: zero)"),
        (THIRD_PARTY, "report", "write(run, folder)", "report 'odd' failed in write(run, folder)"),
        (THIRD_PARTY, "report", "write(run, folder)", "run.json has been written. `ccvae-eval check odd` tests"),
        (BUILTIN, "adapter", "settings(bundle)", "ccvae-eval 1: adapter 'own' failed in settings(bundle)"),
        (BUILTIN, "metric", CREATION, "metric 'own' cannot be created"),
    ],
)
def test_the_registration_names_a_plugin_that_has_no_object_yet(
    owner: registry.Registration, kind: str, call: str, message: str
) -> None:
    with pytest.raises(PluginError) as caught, plugin_call(owner, kind, call):
        raise ZeroDivisionError("zero")
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), UsageError("steps must be at least 3")])
def test_deliberate_errors_and_those_of_memory_are_raised_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, plugin_call(THIRD_PARTY, "metric", CREATION):
        raise error
    assert caught.value is error


def test_an_exception_of_a_built_in_data_set_report_or_metric_is_raised_unchanged() -> None:
    for kind in ("data set", "report", "metric"):
        with pytest.raises(ZeroDivisionError), plugin_call(BUILTIN, kind, "call()"):
            raise ZeroDivisionError


def test_an_unregistered_metric_is_called_by_its_name() -> None:
    class Odd:
        name = "odd"

    assert name_and_origin(Odd())[0] == "'odd'"


def test_no_traceback_reaches_the_terminal(home: Path) -> None:
    command = [sys.executable, "-m", "ccvae_eval.cli.main", "reconstruction", "w.pt", "--plugin", "my.py", "--set",
               "fault=decode", "--data", "faces,size=32,n=900", "--sample", "160", "--judge", "none",
               "--no-figures"]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, cwd=home, env={**os.environ, "COLUMNS": "200"})
    assert found.returncode == 4
    output = " ".join((found.stdout + found.stderr).split())
    assert "Traceback" not in output
    assert "'mynet' failed in decode(codes)" in output


def test_targets_have_the_form_that_registrations_are_found_by() -> None:
    for entry in registry.models.registrations():
        assert EntryPoint("x", entry.target, "y").module
