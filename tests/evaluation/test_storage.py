"""pictures.npz: what a run carries for its figures, tied to the run that it belongs to."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval import read
from ccvae_eval.core.errors import InputError
from ccvae_eval.core.results import Estimate, Value
from ccvae_eval.evaluation import arrays
from ccvae_eval.evaluation.arrays import packed
from ccvae_eval.evaluation.storage import EVIDENCE_FILE, PICTURES_FILE, RUN_FILE, as_csv, write
from tests.support.runs import measurement, pictured_run, run_of, value


def test_pictures_come_back_with_the_run(tmp_path: Path) -> None:
    run = pictured_run()
    write(run, tmp_path)
    back = read(tmp_path)
    for before, after in zip(run, back, strict=True):
        assert after.pictures.keys() == before.pictures.keys()
        for name, picture in before.pictures.items():
            assert after.pictures[name].shape == np.shape(picture)
            tolerance = 40 if np.asarray(picture).dtype == np.uint8 else 0
            np.testing.assert_allclose(np.asarray(after.pictures[name], float), picture, atol=tolerance)
    assert back.gallery.keys() == run.gallery.keys()
    np.testing.assert_array_equal(back.gallery["ids"], run.gallery["ids"])
    assert read(tmp_path, pictures=False).gallery == {}


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("data", {"labels": [1]}),
        ("data", {"labels": 3}),
        ("data", {"labels": [{"name": "a", "classes": 3}]}),
        ("data", []),
        ("checkpoint", "x"),
        ("judge", 3),
        ("environment", [1]),
    ],
)
def test_a_header_of_another_form_is_refused(tmp_path: Path, key: str, wrong: object) -> None:
    write(pictured_run(), tmp_path)
    plain = json.loads((tmp_path / RUN_FILE).read_text())
    (tmp_path / RUN_FILE).write_text(json.dumps(plain | {key: wrong}))
    with pytest.raises(InputError, match=key):
        read(tmp_path)


def test_a_run_without_pictures_writes_no_file_of_them(tmp_path: Path) -> None:
    write(run_of(measurement("locality", "focus", [value("focus", 0.5)])), tmp_path)
    assert not (tmp_path / PICTURES_FILE).exists()


def test_pictures_of_another_run_in_the_same_folder_are_ignored(tmp_path: Path) -> None:
    write(pictured_run(), tmp_path)
    write(run_of(measurement("locality", "focus", [value("focus", 0.5)])), tmp_path)
    assert read(tmp_path).gallery == {}
    assert read(tmp_path).measurement("locality").pictures == {}


def test_pictures_stay_when_the_evidence_is_deleted(tmp_path: Path) -> None:
    write(pictured_run(), tmp_path)
    (tmp_path / EVIDENCE_FILE).unlink()
    assert len(read(tmp_path).gallery["ids"]) == len(pictured_run().gallery["ids"])


def test_pictures_beyond_the_limit_and_objects_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pictured_run()
    monkeypatch.setattr(arrays, "LARGEST_PICTURES", sum(p.nbytes for p in run.gallery.values()) + 100)
    first, *others = run.measurements
    first = replace(first, pictures={"objects": np.array([{}], dtype=object), **first.pictures})
    write(replace(run, measurements=(first, *others)), tmp_path)
    back = read(tmp_path)
    assert back.gallery.keys() == run.gallery.keys()
    assert back.measurement("locality").pictures == {}


@pytest.mark.parametrize("content", [b"", b"PK nothing", b"\x93NUMPY"])
def test_a_file_that_holds_no_pictures_is_refused(tmp_path: Path, content: bytes) -> None:
    write(pictured_run(), tmp_path)
    (tmp_path / PICTURES_FILE).write_bytes(content)
    with pytest.raises(InputError, match="not a readable .npz archive") as caught:
        read(tmp_path)
    assert PICTURES_FILE in str(caught.value)


def test_a_sheet_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    write(pictured_run(), tmp_path)
    entries = dict(np.load(tmp_path / PICTURES_FILE))
    entries["shapes/gallery/image"] = np.array([1 << 20, 64, 64, 3])
    np.savez(tmp_path / PICTURES_FILE, **entries)
    with pytest.raises(InputError, match="too large"):
        read(tmp_path)


def test_no_cell_of_a_remedy_begins_with_a_quote() -> None:
    rare = Value("focus", Estimate(math.nan), "Smiling", note="rare", remedy="--sample 640")
    other = Value("focus", Estimate(math.nan), "Hat", note="=1+1", remedy="ccvae-eval explain locality")
    run = run_of(measurement("locality", "focus", [rare, other]))
    first, second = csv.DictReader(io.StringIO(as_csv(run)))
    assert first["remedy"] == "add --sample 640"
    assert (second["note"], second["remedy"]) == ("'=1+1", "ccvae-eval explain locality")
    assert run.rows()[0]["remedy"] == "--sample 640"


def test_an_archive_has_the_bytes_of_numpy():
    found = {"a/b": np.arange(10.0), "c": np.eye(3, dtype=np.uint8), "d": np.array("text")}
    expected = io.BytesIO()
    np.savez_compressed(expected, **found)
    assert packed(found.items()) == expected.getvalue()
