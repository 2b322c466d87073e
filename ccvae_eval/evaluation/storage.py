"""Files of a run: run.json with its JSON schema (draft 2020-12), values.csv, evidence.npz and pictures.npz."""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core import sheets
from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.evaluation.run import SCHEMA_VERSION, Run

RUN_FILE, VALUES_FILE, EVIDENCE_FILE, PICTURES_FILE = "run.json", "values.csv", "evidence.npz", "pictures.npz"
LARGEST_RUN_FILE = 64 << 20
LARGEST_PICTURES = 128 << 20
"""Bytes of the pictures before compression; pictures beyond it are not stored."""
QUALITY = 90
"""Of the sheets of pictures, from 0 to 100."""
ARRAYS, SHEETS, SHAPES, GALLERY = "arrays", "sheets", "shapes", "gallery"
OF_EVIDENCE = "evidence-sha256"
"""Name of the entry of pictures.npz that ties it to its run: the digest of the run's evidence."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

_TEXT = {"type": "string"}
_NUMBER = {"type": ["number", "null"], "description": "null = undefined"}
_COUNT = {"type": "integer", "minimum": 0}
_PLAIN: dict[str, Any] = {"type": "object"}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or list(properties)}


_VALUE = _object(
    {
        "name": _TEXT,
        "characteristic": {"type": ["string", "null"], "description": "null = the mean over characteristics"},
        "at": {"type": "object", "description": "further conditions of the value"},
        "value": _NUMBER,
        "low": _NUMBER,
        "high": _NUMBER,
        "n": _COUNT,
        "unit": _TEXT,
        "excluded": _COUNT,
        "chance": _NUMBER,
        "reference": _NUMBER,
        "higher_is_better": {"type": ["boolean", "null"]},
        "range": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
        "interval_method": _TEXT,
        "note": _TEXT,
        "in_mean": {"type": "boolean", "description": "true if the row enters the mean over characteristics"},
    }
)

_MEASUREMENT = _object(
    {
        "metric": _TEXT,
        "version": {"type": "integer", "minimum": 1},
        "profile": _TEXT,
        "settings": _PLAIN,
        "status": {"enum": ["ok", "undefined", "unsupported", "failed"]},
        "reason": {"anyOf": [{"type": "null"}, _object({"code": _TEXT, "text": _TEXT})]},
        "headline": _TEXT,
        "values": {"type": "array", "items": _VALUE},
        "notes": {"type": "array", "items": _TEXT},
        "seconds": {"type": "number", "minimum": 0},
    }
)

_MAYBE_PLAIN = {"type": ["object", "null"]}

RUN_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A run of ccvae-eval",
    **_object(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "tool": _object({"name": _TEXT, "version": _TEXT}),
            "environment": _PLAIN,
            "checkpoint": _object({"path": {}, "sha256": {}, "format": {}, "model": {}, "settings": _PLAIN}),
            "training": _MAYBE_PLAIN,
            "data": _object({"name": _TEXT, "digest": _TEXT, "n": _COUNT, "labels": {"type": "array"}, "split": _TEXT}),
            "judge": _MAYBE_PLAIN,
            "regions": _PLAIN,
            "seed": {"type": "integer"},
            "command": _TEXT,
            "started": _TEXT,
            "warnings": {"type": "array", "items": _TEXT},
            "measurements": {"type": "array", "items": _MEASUREMENT},
            "evidence": {"anyOf": [{"type": "null"}, _object({"file": _TEXT, "sha256": _TEXT})]},
        }
    ),
}


def as_json(run: Run) -> str:
    """The run as a JSON document."""
    return json.dumps(run.as_plain(), indent=1, allow_nan=False, ensure_ascii=False)


def as_csv(run: Run) -> str:
    """The run's values as CSV; text that a spreadsheet would evaluate as a formula is quoted."""
    text = io.StringIO()
    rows = run.rows()
    if rows:
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def write(run: Run, folder: Path) -> Run:
    """Writes the files, each atomically; run.json last, so that it never refers to a missing file.

    pictures.npz is written only if the run carries pictures. Single images are stored with a small loss, as sheets.

    Returns:
        The run with file name and digest of the evidence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{m.metric}/{name}": array for m in run.measurements for name, array in m.evidence.items()}
    arrays |= {f"{metric}/ids": ids for metric, ids in run.ids.items()}
    evidence = _packed(arrays)
    digest = sha256(evidence).hexdigest()
    run = replace(run, evidence_file={"file": EVIDENCE_FILE, "sha256": digest})
    if pictures := _stored_pictures(run):
        atomic_write(folder / PICTURES_FILE, _packed({OF_EVIDENCE: np.array(digest), **pictures}))
    atomic_write(folder / EVIDENCE_FILE, evidence)
    atomic_write(folder / VALUES_FILE, as_csv(run).encode())
    atomic_write(folder / RUN_FILE, as_json(run).encode())
    return run


def _packed(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    return packed.getvalue()


def _stored_pictures(run: Run) -> dict[str, NDArray[np.generic]]:
    """The run's pictures as entries of pictures.npz, up to ``LARGEST_PICTURES``."""
    sources = {GALLERY: run.gallery, **{m.metric: m.pictures for m in run.measurements}}
    entries: dict[str, NDArray[np.generic]] = {}
    size = 0
    for owner, pictures in sources.items():
        for name, picture in pictures.items():
            array, key = np.asarray(picture), f"{owner}/{name}"
            size += array.nbytes
            if size > LARGEST_PICTURES or array.dtype.hasobject:
                continue
            if sheets.fits(array):
                entries[f"{SHEETS}/{key}"] = np.frombuffer(sheets.encoded(array, QUALITY), np.uint8)
                entries[f"{SHAPES}/{key}"] = np.array(array.shape)
            else:
                entries[f"{ARRAYS}/{key}"] = array
    return entries


def read(path: Path | str, *, pictures: bool = True) -> Run:
    """Reads a run from its folder or its run.json, with the evidence and the pictures if the files exist.

    Args:
        path: the folder or the run.json.
        pictures: False leaves the pictures out.

    Raises:
        InputError: the file is missing, too large or not a run, or the evidence has another digest than run.json
            states.
    """
    place = Path(path)
    file = place / RUN_FILE if place.is_dir() else place
    try:
        if file.stat().st_size > LARGEST_RUN_FILE:
            raise InputError("run file is too large", where=str(file), why=f"larger than {LARGEST_RUN_FILE >> 20} MiB")
        plain = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("run file cannot be read", where=str(file), why=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise InputError("not a run file of ccvae-eval", where=str(file), why=f"invalid JSON: {error}") from None
    run = _with_evidence(Run.from_plain(plain, str(file)), file.parent)
    return _with_pictures(run, file.parent) if pictures else run


def _with_evidence(run: Run, folder: Path) -> Run:
    named = run.evidence_file
    if named is None or not (folder / EVIDENCE_FILE).is_file():
        return run
    content = (folder / EVIDENCE_FILE).read_bytes()
    if sha256(content).hexdigest() != named.get("sha256"):
        raise InputError(
            "the digest of the evidence differs from run.json",
            where=str(folder / EVIDENCE_FILE),
            hint="Evaluate the checkpoint again.",
        )
    arrays = dict(np.load(io.BytesIO(content), allow_pickle=False))
    measurements = tuple(
        replace(m, evidence={key: array for key, array in _under(arrays, m.metric).items() if key != "ids"})
        for m in run.measurements
    )
    ids = {m.metric: arrays[f"{m.metric}/ids"] for m in run.measurements if f"{m.metric}/ids" in arrays}
    return replace(run, measurements=measurements, ids=ids)


def _with_pictures(run: Run, folder: Path) -> Run:
    """The run with its pictures; without them if there is no file, or if it belongs to another run."""
    file = folder / PICTURES_FILE
    if run.evidence_file is None or not file.is_file():
        return run
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        entries = dict(np.load(file, allow_pickle=False)) if size <= LARGEST_PICTURES else {}
        shapes = {key: tuple(map(int, shape)) for key, shape in _under(entries, SHAPES).items()}
        size += sum(math.prod(shape) for shape in shapes.values())
        if size > 2 * LARGEST_PICTURES:
            raise InputError("pictures are too large", where=str(file), why=f"more than {LARGEST_PICTURES >> 20} MiB")
        if str(entries.get(OF_EVIDENCE)) != run.evidence_file.get("sha256"):
            return run
        single = {key: sheets.decoded(s.tobytes(), shapes[key]) for key, s in _under(entries, SHEETS).items()}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError("pictures cannot be read", where=str(file), why=str(error)) from None
    found = {**_under(entries, ARRAYS), **single}
    measurements = tuple(replace(m, pictures=_under(found, m.metric)) for m in run.measurements)
    return replace(run, measurements=measurements, gallery=_under(found, GALLERY))


def _under(arrays: Mapping[str, NDArray[np.generic]], owner: str) -> dict[str, NDArray[np.generic]]:
    """The arrays whose name begins with ``owner/``, by the rest of their name."""
    return {key.removeprefix(f"{owner}/"): array for key, array in arrays.items() if key.startswith(f"{owner}/")}
