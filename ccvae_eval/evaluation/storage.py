"""Files of a run: run.json with its JSON schema (draft 2020-12), values.csv, evidence.npz and pictures.npz."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write, make_folder, read_regular_file
from ccvae_eval.core.typed import Limits, load_json, schema
from ccvae_eval.evaluation.run import Run, RunDocument
from ccvae_eval.rendering.text import inert_cell

LIMITS = Limits(size=64 << 20, entries=4 << 20)
MAX_EVIDENCE_BYTES = 1 << 30
MAX_EVIDENCE_RATIO, EVIDENCE_SLACK = 100, 64 << 20
"""The arrays of the evidence may have ``MAX_EVIDENCE_RATIO`` times the bytes of their file, and the slack."""
RUN_FILE, VALUES_FILE, EVIDENCE_FILE, PICTURES_FILE = "run.json", "values.csv", "evidence.npz", "pictures.npz"
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
    """The run's values as CSV; text that a spreadsheet would evaluate as a formula is quoted.

    Options in the column ``remedy`` follow the word "add", since a spreadsheet would evaluate a leading minus.
    """
    text = io.StringIO()
    rows = [{**row, "remedy": re.sub(r"^(?=--)", "add ", row["remedy"])} for row in run.rows()]
    if rows:
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({key: inert_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def write(run: Run, folder: Path) -> Run:
    """Writes the files of a run together or not at all, even across a crash: an earlier run in the folder stays whole.

    All files are complete under temporary names before run.json is replaced. The others get their names after it; if
    a crash prevents that, the next :func:`read` does it.

    pictures.npz is written only if the run carries pictures. Single images are stored with a small loss, as sheets.

    Returns:
        The run with file name and digest of the evidence.

    Raises:
        InputError: a file cannot be written.
    """
    from ccvae_eval.evaluation.arrays import packed, packed_pictures

    make_folder(folder)
    arrays: dict[str, tuple[Mapping[str, Any], str]]
    arrays = {f"{m.metric}/{name}": (m.evidence, name) for m in run.measurements for name in m.evidence}
    arrays |= {f"{metric}/{IDS}": (run.ids, metric) for metric in run.ids}
    evidence = packed((name, owner[key]) for name, (owner, key) in arrays.items())
    digest = sha256(evidence).hexdigest()
    run = replace(run, evidence_file={"file": EVIDENCE_FILE, "sha256": digest})
    document = as_json(run).encode()
    contents = {VALUES_FILE: as_csv(run).encode(), EVIDENCE_FILE: evidence}
    if pictures := packed_pictures(run):
        contents[PICTURES_FILE] = pictures
    try:
        for name, content in contents.items():
            atomic_write(folder / _staged_name(document, name), content)
        atomic_write(folder / RUN_FILE, document)
    finally:  # also after a failure or an interrupt: run.json says which run is the whole one
        _settle(folder, document)
    return run


def _staged_name(document: bytes, name: str) -> str:
    """Name of a file until the run.json that it belongs to is written."""
    return f".{sha256(document).hexdigest()[:16]}.{name}.new"


def _settle(folder: Path, document: bytes) -> None:
    """Gives the files of a run their names if this is the content of run.json, else removes them.

    Raises:
        InputError: a file cannot be renamed.
    """
    file = folder / RUN_FILE
    try:
        current = file.is_file() and file.read_bytes() == document
        for name in (VALUES_FILE, EVIDENCE_FILE, PICTURES_FILE):
            staged = folder / _staged_name(document, name)
            with suppress(FileNotFoundError):  # there is none, or another process was faster
                if current:
                    os.replace(staged, folder / name)  # noqa: PTH105 - tests replace this call
                else:
                    staged.unlink()
    except OSError as error:
        raise InputError("cannot be written", where=str(folder), why=error.strerror or str(error)) from error


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
    if any(file.parent.glob(".*.new")):  # left by a crash while this or another run was written
        with suppress(InputError):  # of a folder that is read-only
            _settle(file.parent, file.read_bytes())
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
