"""Rows that a training prints: about 20 validations, evenly, with the best and the last one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccvae_eval import training
from ccvae_eval.cli.console import Screen
from ccvae_eval.cli.train import ROWS, _follow
from tests.support.commands import run_command


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


def test_a_training_that_ends_before_a_validation_prints_its_last_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    events = [event for event in _events(3, best=1) if not isinstance(event, training.Validation)]
    (row,) = _rows(iter(events), capsys)
    assert row == "epoch    3  step       6  loss 7.000"
    assert _rows(iter(events), capsys, quiet=True) == []


def test_options_that_the_judge_does_not_use_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    given = "--steps 5 --batch-size 8 --learning-rate 0.1 --device cuda --half --labels Smiling --seed 3"
    assert run_command("train", "judge", "--data", "faces", *given.split()) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "train judge does not use --steps, --batch-size, --learning-rate, --half, --device" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--supervision 7", "--supervision must be from 0 to 1, got 7.0"),
        ("--batch-size 0", "--batch-size must be at least 1, got 0"),
        ("--label-noise 2", "--label-noise must be from 0 to 1, got 2.0"),
        ("--patience 3 --validation 0", "--patience needs validation images\n--validation 0.05"),
    ],
)
def test_errors_name_the_option_as_it_is_typed(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", "ccvae", "--data", "faces", *given.split()) == 2
    assert message in capsys.readouterr().err


def test_the_splits_of_the_data_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run_command("train", "vae", "--data", "digits", "--steps", "1", "--out", str(tmp_path / "x.pt")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"1,797 images in splits: train [\d,]+ \(6\d%\), judge \d+ \(\d+%\), test \d+ \(\d+%\)", lines[0]
    )
    assert lines[1].startswith("split train: ")


def test_a_quiet_training_prints_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert _rows(_events(100, best=1), capsys, quiet=True) == []
