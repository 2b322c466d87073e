"""Figures, tables and sentence of a third-party metric, and the errors of its code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from ccvae_eval.core.errors import PluginError
from ccvae_eval.core.results import Estimate, Measurement, Value
from ccvae_eval.evaluation.run import Header, Run
from ccvae_eval.plugins import registry
from ccvae_eval.report.figures import draw_figures
from ccvae_eval.report.terminal import sentence, tables

PICTURES = {"a": np.zeros((2, 2))}
MEASUREMENT = Measurement("mine", 1, {}, "size", (Value("size", Estimate(0.256)),), pictures=PICTURES)
RUN = Run(Header(), (MEASUREMENT,), {})


class Mine:
    """A metric with a presentation of its own."""

    values: ClassVar[dict[str, Any]] = {}
    sentence = "The size is {value}"
    number_format = ".1%"

    @staticmethod
    def figures(measurement: Measurement) -> Any:
        yield ("map", *measurement.pictures), Figure()

    @staticmethod
    def tables(measurement: Measurement, specs: Any, *, verbose: bool, ascii_only: bool) -> str:
        return f"{measurement.metric} {verbose} {ascii_only}"


class Failing(Mine):
    """A metric whose presentation fails."""

    sentence = "The size is {size}"

    @staticmethod
    def figures(measurement: Measurement) -> Any:
        yield from {}["missing"]

    @staticmethod
    def tables(measurement: Measurement, specs: Any, *, verbose: bool, ascii_only: bool) -> str:
        raise ValueError("no table")


def register(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Registration("metrics", "mine", kind.__name__, "mine.py", "")
    monkeypatch.setattr(registry, "_files", {Path("mine.py"): [entry]})
    monkeypatch.setattr(registry, "_file_classes", {("mine.py", "metrics", "mine"): kind})


def shown(what: Any) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_metric_draws_and_describes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(Mine, monkeypatch)
    assert [file.name for file in draw_figures(RUN, tmp_path)] == ["mine-map-a.png"]
    assert shown(tables(RUN, "mine", verbose=True)) == "mine True False\n"
    assert sentence(MEASUREMENT) == "The size is 25.6%."


@pytest.mark.parametrize(
    ("call", "show"),
    [
        ("figures", lambda folder: draw_figures(RUN, folder)),
        ("tables", lambda folder: tables(RUN, "mine")),
        ("sentence", lambda folder: sentence(MEASUREMENT)),
    ],
)
def test_a_failure_names_the_metric_and_the_call(
    call: str, show: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Failing, monkeypatch)
    with pytest.raises(PluginError, match=f"metric 'mine' failed in {call}"):
        show(tmp_path)


def test_an_unregistered_metric_has_the_table_of_its_values(tmp_path: Path) -> None:
    assert draw_figures(RUN, tmp_path) == []
    assert shown(tables(RUN, "mine")).startswith("mine: ")
