"""Rows that a training prints: about 20 validations, evenly, with the best and the last one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ccvae_eval import training
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.train import ROWS, _follow


def _events(epochs: int, *, best: int, validation: int = 12, ended: int | None = None) -> Iterator[training.Event]:
    """A training of two steps an epoch, whose validation loss is lowest in the epoch ``best``."""
    last = ended or epochs
    yield training.Started(0, 2 * epochs, 228, 228, validation)
    for epoch in range(last):
        yield training.Epoch(epoch, 2 * epoch + 2, {"loss": 7.0}, 0.1)
        if validation:
            yield training.Validation(epoch, 2 * epoch + 2, {"loss": abs(epoch + 1.0 - best)}, epoch < best)
    yield training.Finished("epochs", 2 * last, last - 1, 1.0)


def _rows(events: Iterator[training.Event], capsys: pytest.CaptureFixture[str], *, quiet: bool = False) -> list[str]:
    assert isinstance(_follow(events, Screen(quiet=quiet)), training.Finished)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


def _epochs(rows: list[str]) -> list[int]:
    return [int(re.findall(r"epoch +(\d+)", row)[0]) for row in rows]


def test_a_long_training_prints_about_20_validations_evenly(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(_events(100, best=100), capsys)
    assert _epochs(rows) == [1, *range(5, 101, 5)]
    assert all("validation  loss" in row for row in rows)


def test_the_best_and_the_last_validation_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(_events(100, best=33, ended=48), capsys)
    assert _epochs(rows)[-2:] == [33, 48]
    assert rows[-2].endswith("loss 0.000  (best so far)")
    assert len(rows) == len(set(rows)) < ROWS


def test_a_short_training_prints_every_validation_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert _epochs(_rows(_events(4, best=2), capsys)) == [1, 2, 3, 4]


def test_without_validation_images_the_rows_are_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _rows(_events(100, best=1, validation=0), capsys)
    assert _epochs(rows) == [1, *range(5, 101, 5)]
    assert rows[0].endswith("loss 7.000")


def test_a_quiet_training_prints_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert _rows(_events(100, best=1), capsys, quiet=True) == []
