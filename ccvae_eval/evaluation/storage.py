"""Files of a run: run.json with its JSON schema (draft 2020-12), values.csv, evidence.npz and pictures.npz."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write, read_regular_file
from ccvae_eval.core.typed import Limits, load_json, schema
from ccvae_eval.evaluation.run import Run, RunDocument
from ccvae_eval.rendering.text import inert_cell

LIMITS = Limits(size=64 << 20, entries=4 << 20)
MAX_EVIDENCE_BYTES = 1 << 30
MAX_EVIDENCE_RATIO, EVIDENCE_SLACK = 100, 64 << 20
"""The arrays of the evidence may have ``MAX_EVIDENCE_RATIO`` times the bytes of their file, and the slack."""
RUN_FILE, VALUES_FILE, EVIDENCE_FILE = "run.json", "values.csv", "evidence.npz"
IDS = "ids"
"""Name of the ids of a metric's images in the evidence."""

RUN_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A run of ccvae-eval",
    **schema(RunDocument),
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


def write(run: Run, folder: Path) -> Run:
    """Writes the files, each atomically; run.json last, so that it never refers to a missing file.

    pictures.npz is written only if the run carries pictures. Single images are stored with a small loss, as sheets.

    Returns:
        The run with file name and digest of the evidence.
    """
    from ccvae_eval.evaluation.arrays import packed, write_pictures

    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{m.metric}/{name}": array for m in run.measurements for name, array in m.evidence.items()}
    arrays |= {f"{metric}/{IDS}": ids for metric, ids in run.ids.items()}
    evidence = packed(arrays)
    digest = sha256(evidence).hexdigest()
    run = replace(run, evidence_file={"file": EVIDENCE_FILE, "sha256": digest})
    write_pictures(run, folder)
    atomic_write(folder / EVIDENCE_FILE, evidence)
    atomic_write(folder / VALUES_FILE, as_csv(run).encode())
    atomic_write(folder / RUN_FILE, as_json(run).encode())
    return run


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
    run = Run.from_plain(load_json(file, limits=LIMITS), str(file))
    run = _with_evidence(run, file.parent)
    if not pictures:
        return run
    from ccvae_eval.evaluation.arrays import with_pictures

    return with_pictures(run, file.parent)


def _with_evidence(run: Run, folder: Path) -> Run:
    """The run with its evidence, whose arrays are read when they are used."""
    named, file = run.evidence_file, folder / EVIDENCE_FILE
    if named is None or not file.exists():
        return run
    from ccvae_eval.core.array_files import ArrayFile

    content = read_regular_file(file, MAX_EVIDENCE_BYTES)
    if sha256(content).hexdigest() != named.get("sha256"):
        raise InputError(
            "the digest of the evidence differs from run.json", where=str(file), hint="Evaluate the checkpoint again."
        )
    arrays = ArrayFile(content, str(file), limit=MAX_EVIDENCE_RATIO * len(content) + EVIDENCE_SLACK)
    measurements = tuple(replace(m, evidence=arrays.under(m.metric, IDS)) for m in run.measurements)
    ids = {m.metric: arrays[f"{m.metric}/{IDS}"] for m in run.measurements if f"{m.metric}/{IDS}" in arrays}
    for metric, found in ids.items():
        if found.ndim != 1 or found.dtype.kind not in "iu":
            why = f"they have the type {found.dtype} and {found.ndim} dimensions"
            raise InputError(
                "the ids of the images must be a list of integers", where=f"{file}: {metric}/{IDS}", why=why
            )
    return replace(run, measurements=measurements, ids=ids)
