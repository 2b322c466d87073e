"""Files of a run: run.json with its JSON schema (draft 2020-12), values.csv and evidence.npz."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.evaluation.run import SCHEMA_VERSION, Run

RUN_FILE, VALUES_FILE, EVIDENCE_FILE = "run.json", "values.csv", "evidence.npz"
LARGEST_RUN_FILE = 64 << 20
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
        table.writerows({key: inert_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def inert_cell(value: object) -> object:
    """A cell of a CSV file; text that a spreadsheet would evaluate as a formula begins with a quote."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def write(run: Run, folder: Path) -> Run:
    """Writes the three files, each atomically; run.json last, so that it never refers to a missing file.

    Returns:
        The run with file name and digest of the evidence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{m.metric}/{name}": array for m in run.measurements for name, array in m.evidence.items()}
    arrays |= {f"{metric}/ids": ids for metric, ids in run.ids.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    evidence = packed.getvalue()
    run = replace(run, evidence_file={"file": EVIDENCE_FILE, "sha256": sha256(evidence).hexdigest()})
    atomic_write(folder / EVIDENCE_FILE, evidence)
    atomic_write(folder / VALUES_FILE, as_csv(run).encode())
    atomic_write(folder / RUN_FILE, as_json(run).encode())
    return run


def read(path: Path | str) -> Run:
    """Reads a run from its folder or its run.json, with the evidence if the file exists.

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
    run = Run.from_plain(plain, str(file))
    return _with_evidence(run, file.parent)


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
        replace(
            m,
            evidence={
                key.removeprefix(f"{m.metric}/"): array
                for key, array in arrays.items()
                if key.startswith(f"{m.metric}/") and key != f"{m.metric}/ids"
            },
        )
        for m in run.measurements
    )
    ids = {m.metric: arrays[f"{m.metric}/ids"] for m in run.measurements if f"{m.metric}/ids" in arrays}
    return replace(run, measurements=measurements, ids=ids)
