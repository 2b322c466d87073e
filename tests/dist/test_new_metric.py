"""A new metric is its folder, one entry point, its tests and its page in docs/metrics: nothing else is edited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

COPIED = ("ccvae_eval", "models", "plugins", "docs/metrics", "pyproject.toml")
QUESTION = "How bright are the reconstructions?"

FOLDER = {
    "__init__.py": '"""The metric ``brightness``."""\n',
    "settings.py": '''"""Settings, values and presentation of the metric ``brightness``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ccvae_eval.core.results import ValueSpec
from ccvae_eval.evaluation.metric import Accumulator, Needs

if TYPE_CHECKING:
    from ccvae_eval.core.results import Measurement
    from ccvae_eval.evaluation.subject import Subject
    from ccvae_eval.rendering.figures import Figures


@dataclass(frozen=True, slots=True)
class Brightness:
    """Mean intensity of the reconstructions.

    Cost: the reconstruction.

    Args:
        gain: factor of the intensity.
    """

    name: ClassVar[str] = "brightness"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "light"
    default_sample: ClassVar[int] = 100
    laws: ClassVar[frozenset[str]] = frozenset({"image order", "batch size", "nan is an error"})
    question: ClassVar[str] = "How bright are the reconstructions?"
    sentence: ClassVar[str] = "The mean intensity is {value}"
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "light": ValueSpec("mean intensity of a pixel", range=(0.0, None), no_chance="every image has some intensity")
    }

    gain: float = 1.0

    def needs(self, subject: Subject) -> Needs:
        return Needs(reconstruction=True)

    def start(self, subject: Subject) -> Accumulator:
        from ccvae_eval.metrics.brightness.metric import BrightnessAccumulator

        return BrightnessAccumulator(self, subject)

    @staticmethod
    def figures(measurement: Measurement) -> Figures:
        from ccvae_eval.metrics.brightness.figures import figures

        return figures(measurement)
''',
    "metric.py": '''"""The accumulator of the metric ``brightness``."""

from __future__ import annotations

from ccvae_eval.core.results import Measurement
from ccvae_eval.core.types import Floats
from ccvae_eval.evaluation.metric import Decoded
from ccvae_eval.evaluation.result_table import Mean, ResultTable
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.brightness.settings import Brightness
from ccvae_eval.statistics.resampling import ResampleWeights


class BrightnessAccumulator:
    """Decodes the images by itself, because it requests no intervention."""

    def __init__(self, metric: Brightness, subject: Subject) -> None:
        self.metric, self.subject = metric, subject

    def update(self, batch: Decoded) -> None:
        raise AssertionError("no intervention was requested")

    def compute(self, weights: ResampleWeights) -> Measurement:
        import numpy as np

        parts = [self.subject.decode(chunk.codes).double().flatten(1).mean(1).cpu() for chunk in self.subject.chunks()]
        light: Floats = self.metric.gain * np.concatenate([part.numpy() for part in parts])
        table = ResultTable(self.metric, self.subject, weights)
        table.add("light", None, Mean(light))
        return table.measurement((), {"light": light})
''',
    "figures.py": '''"""The figure of brightness."""

from __future__ import annotations

from matplotlib.figure import Figure

from ccvae_eval.core.results import Measurement
from ccvae_eval.rendering.figures import Figures


def figures(measurement: Measurement) -> Figures:
    """Intensities of the images in ascending order."""
    sheet = Figure()
    sheet.subplots().plot(sorted(measurement.pictures["light"]))
    yield ("intensities",), sheet
''',
}

TEST = '''"""The metric ``brightness``."""

from ccvae_eval.metrics.brightness.settings import Brightness
from ccvae_eval.testing import check_metric
from ccvae_eval.testing.metric_fixtures import drawn_faces


def test_it_conforms() -> None:
    check_metric(Brightness(), drawn_faces(count=40))
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the new metric, and the metadata that an installation would write."""
    tree = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        source, copy = ROOT / name, tree / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    folder = tree / "ccvae_eval/metrics/brightness"
    folder.mkdir()
    for name, text in FOLDER.items():
        (folder / name).write_text(text)
    tests = tree / "tests/metrics/brightness"
    tests.mkdir(parents=True)
    (tests / "test_brightness.py").write_text(TEST)
    (tree / "docs/metrics/brightness.md").write_text("# brightness\n\nMean intensity of the reconstructions.\n")
    project, group = tree / "pyproject.toml", '[project.entry-points."ccvae_eval.metrics"]\n'
    entry = 'brightness = "ccvae_eval.metrics.brightness.settings:Brightness"\n'
    project.write_text(project.read_text().replace(group, group + entry))
    info = tree / "ccvae_eval-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ccvae-eval\nVersion: 0.1.0\n")
    groups = tomllib.loads(project.read_text())["project"]["entry-points"].items()
    lines = [line for name, found in groups for line in (f"[{name}]", *(f"{k} = {v}" for k, v in found.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return tree


def run(tree: Path, *arguments: str) -> str:
    """The output of Python in the copy."""
    places = os.pathsep.join(str(tree / part) for part in (".", "models", "plugins"))
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True, text=True, cwd=tree, env={**os.environ, "PYTHONPATH": places, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command(tree: Path, *arguments: str) -> str:
    return run(tree, "-m", "ccvae_eval.cli.main", *arguments)


def test_it_is_listed_and_explained(tree: Path) -> None:
    assert "brightness" in [row["name"] for row in json.loads(command(tree, "list", "metrics", "--json"))["metrics"]]
    assert QUESTION in command(tree, "--help")
    shown = command(tree, "brightness", "--help")
    assert QUESTION in shown
    assert "factor of the intensity" in shown
    assert "Mean intensity of the reconstructions." in command(tree, "explain", "brightness")


@pytest.mark.parametrize("verb", [["brightness"], ["run", "--metric", "brightness"]])
def test_it_is_evaluated_with_its_figures(tree: Path, verb: list[str], tmp_path: Path) -> None:
    checkpoint = str(tree / "ccvae_eval/assets/ccvae-faces64.pt")
    command(tree, *verb, checkpoint, "--limit", "32", "--judge", "none", "--out", str(tmp_path))
    (measurement,) = json.loads((tmp_path / "run.json").read_text())["measurements"]
    assert (measurement["metric"], measurement["status"]) == ("brightness", "ok")
    assert (tmp_path / "figures/brightness-intensities.png").stat().st_size > 0


def test_it_conforms_and_its_tests_pass(tree: Path) -> None:
    assert json.loads(command(tree, "check", "brightness", "--json"))["kept"]
    tests = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "tests/metrics/brightness"]
    assert "1 passed" in run(tree, "-m", "pytest", *tests)


def test_the_import_layers_hold(tree: Path) -> None:
    shutil.copytree(ROOT / "study", tree / "study")
    assert "0 broken" in run(tree, "-c", "from importlinter.cli import lint_imports; lint_imports()")
