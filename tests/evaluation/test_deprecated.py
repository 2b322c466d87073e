"""Metrics written for version 0.1 still work: ``see`` and ``finish``, ``Subject.now`` and ``ResultTable.enter``."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ccvae_eval.core.results import ValueSpec
from ccvae_eval.evaluation.deprecated import as_accumulator
from ccvae_eval.evaluation.interventions import Do
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.evaluation.result_table import Mean, ResultTable
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from tests.support.fakes import Squares, SquaresVAE


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prepare(SquaresVAE(scale=0.3), Squares(96), np.arange(96))


@dataclass(frozen=True)
class CurrentChange:
    """Mean absolute change of a pixel under an intervention, with the current names of the methods."""

    name: ClassVar[str] = "change"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "change"
    default_sample: ClassVar[int] = 96
    values: ClassVar[Mapping[str, ValueSpec]] = {"change": ValueSpec("mean absolute change of a pixel")}
    laws: ClassVar[frozenset[str]] = frozenset()

    def needs(self, subject: Subject) -> Needs:
        return Needs((Do("Glasses", "transport"),), reconstruction=True)

    def start(self, subject: Subject) -> Any:
        return CurrentAccumulator(self, subject)


class CurrentAccumulator:
    def __init__(self, metric: Any, subject: Subject) -> None:
        self.metric, self.subject, self.change = metric, subject, np.full(len(subject), np.nan)

    def update(self, batch: Any) -> None:
        change = (batch.images[Do("Glasses", "transport")] - batch.reconstruction).abs().flatten(1).mean(1)
        known = self.subject.current_class("Glasses")[batch.chunk.rows].numpy() >= 0
        self.change[batch.chunk.rows] = np.where(known, change.double().numpy(), np.nan)

    def compute(self, weights: Any) -> Any:
        table = ResultTable(self.metric, self.subject, weights)
        table.add("change", "Glasses", Mean(self.change))
        return table.measurement((), {})


class OldChange(CurrentChange):
    """The same metric with the method names of version 0.1."""

    def start(self, subject: Subject) -> Any:
        return OldAccumulator(self, subject)


class OldAccumulator:
    def __init__(self, metric: Any, subject: Subject) -> None:
        self.metric, self.subject, self.change = metric, subject, np.full(len(subject), np.nan)

    def see(self, batch: Any) -> None:
        change = (batch.images[Do("Glasses", "transport")] - batch.reconstruction).abs().flatten(1).mean(1)
        known = self.subject.now("Glasses")[batch.chunk.rows].numpy() >= 0
        self.change[batch.chunk.rows] = np.where(known, change.double().numpy(), np.nan)

    def finish(self, weights: Any) -> Any:
        table = ResultTable(self.metric, self.subject, weights)
        table.enter("change", "Glasses", Mean(self.change))
        return table.measurement((), {})


def test_an_old_metric_gives_the_same_measurement_and_warns(subject: Subject) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        old = measure(subject, [OldChange()]).measurements[0]
    new = measure(subject, [CurrentChange()]).measurements[0]
    assert old.status == new.status == "ok"
    assert old.values == new.values
    texts = {str(warning.message) for warning in warned if warning.category is DeprecationWarning}
    assert texts == {
        "OldAccumulator.see and OldAccumulator.finish are deprecated, call them update and compute",
        "Subject.now is deprecated, use Subject.current_class",
        "ResultTable.enter is deprecated, use ResultTable.add",
    }


def test_a_current_accumulator_is_not_wrapped(subject: Subject) -> None:
    accumulator = CurrentAccumulator(CurrentChange(), subject)
    assert as_accumulator(accumulator) is accumulator


@pytest.mark.parametrize(
    ("old", "new", "arguments"),
    [
        ("now", "current_class", ("Glasses",)),
        ("targets", "target_class", ("Glasses",)),
        ("thinned", "subsample", (96,)),
        ("once", "cached", (("a key",), object)),
    ],
)
def test_old_methods_of_a_subject_call_the_new_ones(
    subject: Subject, old: str, new: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.warns(DeprecationWarning, match=f"Subject.{old} is deprecated, use Subject.{new}"):
        found = getattr(subject, old)(*arguments)
    assert found is getattr(subject, new)(*arguments)


def test_a_plugin_file_of_version_0_1_passes_the_suite(tmp_path: Path) -> None:
    """The metric template of version 0.1, as ``ccvae-eval new metric`` wrote it."""
    file = tmp_path / "change.py"
    file.write_text(TEMPLATE)
    command = [sys.executable, "-m", "ccvae_eval.cli.main", "check", "change", "--plugin", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 tests passed" in done.stdout


TEMPLATE = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ccvae_eval.interventions import LEAST_PER_CLASS, Do
from ccvae_eval.measure import ValueSpec
from ccvae_eval.metrics.contract import Needs
from ccvae_eval.metrics.tally import Mean, Tally


@dataclass(frozen=True)
class Change:
    """Mean change of the image under an intervention."""

    name: ClassVar[str] = "change"
    version: ClassVar[int] = 1
    headline: ClassVar[str] = "change"
    default_sample: ClassVar[int] = 500
    values: ClassVar[dict] = {"change": ValueSpec("mean absolute change of a pixel", range=(0.0, 1.0))}
    laws: ClassVar[frozenset] = frozenset({"batch size", "same seed same number"})

    mode: str = "transport"

    def needs(self, subject):
        return Needs(tuple(Do(name, self.mode) for name in movable(subject)), reconstruction=True)

    def start(self, subject):
        return Seen(self, subject)


def movable(subject):
    kinds = {label.name: label.kind for label in subject.schema}
    names = [name for name in subject.characteristics if kinds[name] != "continuous"]
    return [n for n in names if bool((subject.class_codes(n).count >= LEAST_PER_CLASS).all())]


class Seen:
    def __init__(self, metric, subject):
        self.metric, self.subject = metric, subject
        self.change = {name: np.full(len(subject), np.nan) for name in subject.characteristics}

    def see(self, batch):
        name = batch.characteristic
        moved = batch.images[Do(name, self.metric.mode)]
        change = (moved - batch.reconstruction).abs().double().flatten(1).mean(1).cpu().numpy()
        known = self.subject.now(name)[batch.chunk.rows].numpy() >= 0
        self.change[name][batch.chunk.rows] = np.where(known, change, np.nan)

    def finish(self, weights):
        tally = Tally(self.metric, self.subject, weights)
        measured = movable(self.subject)
        for name, change in self.change.items():
            found = Mean(change) if name in measured else f"a class has under {LEAST_PER_CLASS} images"
            tally.enter("change", name, found, why="no image has this label")
        return tally.measurement((), {})


CCVAE_EVAL = {"metrics": {"change": Change}}
'''
