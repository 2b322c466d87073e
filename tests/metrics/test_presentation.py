"""Presentation of the built-in metrics: their settings need no library, and their sentences and default set."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module

import pytest

from ccvae_eval.api import DEFAULT_METRICS
from ccvae_eval.calibration import CALIBRATED_METRICS
from ccvae_eval.cli import run
from ccvae_eval.core.results import Estimate, Measurement, Value
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, metrics
from ccvae_eval.report.terminal import sentence

BUILTIN = {r.name: r.target for r in metrics.registrations() if r.distribution == BUILTIN_DISTRIBUTION}
LIBRARIES = {"torch", "numpy", "scipy", "sklearn", "cv2", "matplotlib", "kornia", "rich"}


def test_settings_import_no_library() -> None:
    code = f"""
import sys
from ccvae_eval.plugins.registry import metrics
for name in {list(BUILTIN)!r}:
    kind = metrics[name]
    assert kind.question and kind.values and kind.__doc__
print(sorted(set(sys.modules) & {LIBRARIES!r}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(found.stdout) == []


@pytest.mark.parametrize("name", BUILTIN)
def test_the_class_has_all_its_import_paths(name: str) -> None:
    package, class_name = f"ccvae_eval.metrics.{name}", BUILTIN[name].partition(":")[2]
    assert BUILTIN[name] == f"{package}.settings:{class_name}"
    for path in (package, f"{package}.metric"):
        assert getattr(import_module(path), class_name) is metrics[name]


def test_the_default_set_comes_from_the_classes() -> None:
    assert DEFAULT_METRICS == ("density", "measurement", "locality", "drift", "diversity", "accuracy", "reconstruction")
    assert {name for name in BUILTIN if getattr(metrics[name], "default", False)} == set(DEFAULT_METRICS)


def test_the_help_of_run_names_the_default_set() -> None:
    *others, last = DEFAULT_METRICS
    assert f"By default {', '.join(others)} and {last}." in (run.command.__doc__ or "")


def test_every_built_in_metric_is_calibrated() -> None:
    assert set(CALIBRATED_METRICS) == set(BUILTIN)


SENTENCES = {
    "density": "Each label is predicted from its own latents with an AUC of 0.26 (chance 0.05)",
    "measurement": "The labels found in the latents differ from the model's layout in 0 places (chance 0)",
    "locality": "When one characteristic is changed, the focus of the change on its region is 0.26 "
    "(0 = evenly spread over the image, 1 = all inside)",
    "drift": "Outside the edited region, keypoints move or vanish 26% as much as inside it (0% = they stay in place)",
    "diversity": "Resampling a characteristic's latents changes its region by 0.26 RMS pixel intensity "
    "(valid samples only)",
    "accuracy": "The labels are predicted with a balanced accuracy of 0.26 (chance 0.05)",
    "intervention": "When a label is set to another class, the judge recognises that class in 26% of the images "
    "(in their reconstructions: 5%)",
    "generation": "The judge recognises the requested class in 26% of the generated images "
    "(generated without a request: 5%)",
    "reconstruction": "The reconstruction MSE is 0.256 (of the mean image: 0.050)",
    "disentanglement": "Of the information in a latent dimension, 0.26 beyond an even spread concerns one factor "
    "(chance 0.05)",
    "unregistered": "unregistered: the mean headline is 0.26",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_the_sentence_states_the_headline_and_its_chance_level(name: str) -> None:
    headline = metrics[name].headline if name in metrics else "headline"
    value = Value(headline, Estimate(0.256), chance=0.05)
    assert sentence(Measurement(name, 1, {}, headline, (value,))) == f"{SENTENCES[name]}."


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ((-0.001, 0.5), "Range over characteristics: 0.00 (A) to 0.50 (B)."),
        ((0.996, 1.0), "(chance 0.05)."),  # two equal numbers are no range
    ],
)
def test_the_sentence_ends_with_the_range_if_its_numbers_differ(values: tuple[float, float], end: str) -> None:
    rows = [Value("auc", Estimate(number), name) for name, number in zip("AB", values, strict=True)]
    found = sentence(Measurement("density", 1, {}, "auc", (Value("auc", Estimate(0.9), chance=0.05), *rows)))
    assert found.endswith(end)


def test_every_built_in_metric_has_a_sentence() -> None:
    assert set(BUILTIN) <= set(SENTENCES)
