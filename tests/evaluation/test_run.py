"""Run: addresses, JSON, files."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval import read
from ccvae_eval.core.errors import InputError, UsageError
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value, ValueSpec
from ccvae_eval.evaluation.run import Address, Header, Run
from ccvae_eval.evaluation.storage import EVIDENCE_FILE, RUN_FILE, VALUES_FILE, write


def _run() -> Run:
    values = (
        Value("focus", Estimate(0.5, 0.4, 0.6, 100, "bootstrap"), None, chance=0.0, reference=0.9),
        Value("focus", Estimate(0.7, 0.6, 0.8, 90, "bootstrap"), "Eyeglasses", chance=0.0, excluded=10),
        Value("focus", Estimate(math.nan), "=cmd()", note="has no region"),
        Value("selectivity", Estimate(0.2, n=100), "Eyeglasses", {"judged": "Smiling"}),
    )
    locality = Measurement(
        "locality", 1, {"steps": 11}, "focus", values, evidence={"focus/Eyeglasses": np.arange(3.0)}, seconds=1.5
    )
    missing = Measurement("drift", 1, {}, "spill", status="failed", reason=Reason("nan", "the decoder gave NaN"))
    specs = {"locality": {"focus": ValueSpec("where", "share", True, (None, 1.0)), "selectivity": ValueSpec("who")}}
    header = Header(tool={"name": "ccvae-eval", "version": "0"}, data={"name": "x", "n": 100}, seed=3)
    return Run(header, (locality, missing), specs, {"locality": np.arange(3)})


def test_addresses() -> None:
    run = _run()
    assert run["locality.focus"] == 0.5
    assert run["locality.focus@Eyeglasses"] == 0.7
    assert run["locality.focus.low"] == 0.4
    assert run["locality.focus@Eyeglasses.high"] == 0.8
    assert run["locality.focus@Eyeglasses.value"] == 0.7
    assert run[Address("locality", "focus", "Eyeglasses", "low")] == 0.6
    assert math.isnan(run["locality.focus@=cmd()"])
    assert run["locality.selectivity@Eyeglasses"] == 0.2
    assert run.find("locality.focus@Eyeglasses").excluded == 10


@pytest.mark.parametrize(
    "place",
    [
        Address("a", "b"),
        Address("a", "b", None, "low"),
        Address("a-b", "c", "x.y@z"),
        Address("a", "b", "x.low", "value"),
        Address("a", "b", "two\nlines", "high"),
    ],
)
def test_an_address_is_parsed_from_its_own_text(place: Address) -> None:
    assert Address.parse(str(place)) == place


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("locality", "is not a valid address"),
        ("localty.focus", "Did you mean 'locality'"),
        ("locality.focsu", "Did you mean 'focus'"),
        ("locality.focus@Eyeglases", "Did you mean 'Eyeglasses'"),
    ],
)
def test_a_wrong_address_suggests_the_nearest(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _run()[address]


def test_reading_a_written_run_returns_it(tmp_path: Path) -> None:
    run = write(_run(), tmp_path)
    back = read(tmp_path)
    assert back.as_plain() == run.as_plain()
    assert back["locality.focus@Eyeglasses"] == 0.7
    np.testing.assert_array_equal(back.measurement("locality").evidence["focus/Eyeglasses"], np.arange(3.0))
    np.testing.assert_array_equal(back.ids["locality"], np.arange(3))
    assert read(tmp_path / RUN_FILE).as_plain() == run.as_plain()


def test_nan_is_null_and_json_is_strict(tmp_path: Path) -> None:
    write(_run(), tmp_path)
    text = (tmp_path / RUN_FILE).read_text()
    assert ": NaN" not in text
    plain = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not valid JSON"))
    values = plain["measurements"][0]["values"]
    assert values[2]["value"] is None
    assert values[0] == {
        "name": "focus", "characteristic": None, "at": {}, "value": 0.5, "low": 0.4, "high": 0.6, "n": 100,
        "unit": "share", "excluded": 0, "chance": 0.0, "reference": 0.9, "higher_is_better": True,
        "range": [None, 1.0], "interval_method": "bootstrap", "note": "", "in_mean": False,
        "remedy": "",
    }  # fmt: skip


def test_text_that_a_spreadsheet_would_evaluate_is_quoted(tmp_path: Path) -> None:
    write(_run(), tmp_path)
    with (tmp_path / VALUES_FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["characteristic"] for row in rows] == ["", "Eyeglasses", "'=cmd()", "Eyeglasses"]
    assert rows[3]["at"] == "judged=Smiling"


def test_evidence_of_another_run_is_rejected(tmp_path: Path) -> None:
    write(_run(), tmp_path)
    np.savez(tmp_path / EVIDENCE_FILE, x=np.zeros(1))
    with pytest.raises(InputError, match="digest of the evidence"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{}", "[1, 2]", '{"schema_version": 99}', '{"schema_version": 1}', "[" * 100_000, "<html>"]
)
def test_a_file_that_is_not_a_run_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"n": 90', '"n": "90"', "measurements[0].values[1].n must be an integer, got '90'"),
        ('"n": 90', '"n": -1', "measurements[0].values[1].n must be at least 0, got -1"),
        ('"n": 90', '"m": 90', "measurements[0].values[1].n is missing"),
        ('"status": "failed"', '"status": "bad"', "measurements[1].status must be 'ok', 'undefined', 'unsupported'"),
        ('"judged": "Smiling"', '"judged": null', "measurements[0].values[3].at.judged must be a string, an integer"),
        ('"code": "nan"', '"code": 3', "measurements[1].reason.code must be a string, got 3"),
        ('"seed": 3', '"seed": NaN', "is not valid JSON (NaN is not a number of JSON)"),
        ('"seed": 3', '"seed": 3, "seed": 4', "is not valid JSON (key 'seed' occurs twice in an object)"),
        ('"judge": null', '"judge": []', "judge must be an object, got a list"),
    ],
)
def test_a_malformed_run_names_the_place_and_the_expectation(tmp_path: Path, old: str, new: str, message: str) -> None:
    write(_run(), tmp_path)
    file = tmp_path / RUN_FILE
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{file}: {message}")


def test_keys_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    run = write(_run(), tmp_path)
    file = tmp_path / RUN_FILE
    file.write_text(file.read_text().replace('"seed": 3', '"seed": 3, "mood": "good"'))
    assert read(tmp_path).as_plain() == run.as_plain()


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / RUN_FILE)
    with pytest.raises(InputError, match="is a pipe, not a file"):
        read(tmp_path)


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        read(tmp_path / "absent.json")


def test_rows_are_flat() -> None:
    rows = _run().rows()
    assert len(rows) == 4
    assert all(not isinstance(value, dict | list) for row in rows for value in row.values())
