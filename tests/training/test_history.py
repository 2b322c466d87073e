"""Mean loss terms and their record in history.csv."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.typed import read
from ccvae_eval.report.figures import draw_history
from ccvae_eval.training.state import Averages, History, Progress


def test_means_are_over_rows_not_over_batches() -> None:
    averages = Averages()
    averages.add({"loss": 2.0, "supervised.rows": 1, "supervised.value": 10.0}, 4)
    averages.add({"loss": 5.0, "supervised.rows": 3, "supervised.value": 2.0}, 2)
    assert averages.means() == {"loss": 3.0, "supervised.rows": 4, "supervised.value": 4.0}
    progress = Progress(averages=averages)
    assert read(Progress, asdict(progress)) == progress


def test_a_term_without_rows_is_nan_and_does_not_affect_later_means() -> None:
    averages = Averages()
    averages.add({"unsupervised.rows": 0, "unsupervised.value": math.nan}, 4)
    assert math.isnan(averages.means()["unsupervised.value"])
    averages.add({"unsupervised.rows": 2, "unsupervised.value": 3.0}, 4)
    assert averages.means()["unsupervised.value"] == 3


def test_a_file_is_read_up_to_the_resumed_step(tmp_path: Path) -> None:
    history = History()
    history.add("train", 0, 10, 1.5, {"loss": 1 / 3, "only train": 2.0})
    history.add("validation", 0, 10, 1.75, {"loss": math.nan})
    history.add("train", 1, 20, 3.0, {"loss": 0.1})
    path = tmp_path / "history.csv"
    history.write(path)
    again = History.read(path, steps=10)
    assert [row["step"] for row in again.rows] == [10, 10]
    assert again.rows[0]["loss"] == 1 / 3
    assert again.rows[1]["loss"] is None
    again.add("train", 1, 20, 3.0, {"loss": 0.1})
    assert again.text() == history.text()
    assert next(csv.DictReader(path.read_text().splitlines()))["split"] == "train"
    assert History.read(tmp_path / "none.csv", 10).rows == []


def test_the_row_of_an_unfinished_epoch_is_replaced() -> None:
    history = History()
    history.add("train", 0, 5, 1.0, {"loss": 3.0})
    history.add("train", 0, 10, 2.0, {"loss": 2.0})
    assert [row["step"] for row in history.rows] == [10]


def test_a_file_that_is_not_a_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("name,value\na,1\n")
    with pytest.raises(InputError, match="history"):
        History.read(path, 10)


def test_every_term_has_its_own_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    for step in (10, 20):
        history.add("train", step // 10, step, 1.0, {"loss": 3.0, "supervised.kl": 1.0, "supervised.rows": 4})
        history.add("validation", step // 10, step, 1.0, {"loss": 4.0, "unsupervised.kl": math.nan})
    drawn: dict[str, dict[str, list[float]]] = {}

    def keep(sheet: Figure, path: Path, **_: object) -> None:
        for axes in sheet.axes:
            drawn[axes.get_title()] = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_history(history.text(), tmp_path / "history.png")
    assert drawn == {
        "loss": {"train": [3.0, 3.0], "validation": [4.0, 4.0]},
        "supervised: kl": {"train": [1.0, 1.0]},
    }
    assert draw_history(History().text(), tmp_path / "history.png") is None
