"""What the oracle reaches on the same images under the same metrics: the column "reference" of a run.

A reference is computed once and kept: in the package for the default evaluations of faces, else in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ccvae_eval.core.cache import cache_folder, keep
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.core.types import Ids, Plain
from ccvae_eval.data.interface import Renders
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.result_table import GIVEN
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import evaluate
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.oracle.model import VERSION, oracle

SHIPPED = "references-faces64.json"
DIGITS = 8

Key = tuple[str, int, str, str | None, tuple[tuple[str, str | int | float], ...]]
"""(metric, version, name, characteristic, at): where a reference belongs."""

Lookup = Mapping[Key, float]
Notice = Callable[[str], None]
Progress = Callable[[int, int], None]
Table = list[list[Plain]]
"""The references of one metric as they are kept: (name, characteristic, at, value)."""


def with_references(run: Run, lookup: Lookup) -> Run:
    """The run with the references that are known; a value that brings its own keeps it.

    The mean over characteristics gets the oracle's mean over the same characteristics. Where the run's mean is over
    fewer, because some are undefined, it is the mean of their references; where that cannot be known, none.
    """
    return replace(run, measurements=tuple(_referred(m, lookup) for m in run.measurements))


def _referred(measurement: Measurement, lookup: Lookup) -> Measurement:
    def reference(value: Value) -> float | None:
        if value.reference is not None or not value.estimate.defined:
            return value.reference
        if value.characteristic is None:
            return _mean_reference(measurement, value, lookup)
        return lookup.get((measurement.metric, measurement.version, *value.key))

    values = tuple(replace(value, reference=reference(value)) for value in measurement.values)
    return replace(measurement, values=values)


def _mean_reference(measurement: Measurement, mean: Value, lookup: Lookup) -> float | None:
    metric, version = measurement.metric, measurement.version
    rows = [v for v in measurement.values if v.name == mean.name and v.characteristic and v.estimate.defined]
    names = {row.characteristic for row in rows}
    given = {row.characteristic for row in rows if row.note.startswith(GIVEN)}
    if given and given != names:
        return None  # whether what was given counts is the metric's affair
    theirs = {key[3] for key in lookup if key[:3] == (metric, version, mean.name)} - {None}
    if names == theirs:
        return lookup.get((metric, version, *mean.key))
    each = [lookup.get((metric, version, mean.name, name, mean.key[2])) for name in names]
    found = [share for share in each if share is not None]
    return float(np.mean(found)) if found and len(found) == len(names) else None


@dataclass(frozen=True, slots=True)
class _Request:
    """The references of one metric on some images.

    Args:
        metric: with its settings.
        ids: the images that it looked at in the run.
        name: stands for everything that the references depend on.
    """

    metric: Metric
    ids: Ids
    name: str


def oracle_reference(
    run: Run,
    subject: Subject,
    metrics: Sequence[Metric],
    *,
    cache_dir: str | Path | None = None,
    compute: bool = True,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> Lookup:
    """What the oracle reaches where the run has values; empty for data that cannot be drawn.

    Args:
        run: the run to find references for.
        subject: what it measured: data, images, labels, seed and judge are the oracle's too.
        metrics: with what it was measured.
        cache_dir: where references are kept; see :func:`ccvae_eval.core.cache.cache_folder`.
        compute: whether to measure the oracle where nothing is kept; it takes about as long as the run did.
        notice: called with sentences that a user should read.
        progress: called with (chunks, chunks in all) while the oracle is measured.
    """
    if not _has_oracle(subject):
        return {}
    folder = cache_folder(cache_dir)
    tables: dict[str, Table] = {}
    missing = []
    asked = {request.name: request for request in _requests(run, subject, metrics)}
    for request in asked.values():
        table = shipped_references().get(request.name) or _kept(folder, request.name)
        if table is None:
            missing.append(request)
        else:
            tables[request.name] = table
    if compute and missing:
        if notice is not None:
            notice("Measuring the oracle on the same images, for the references: once, then they are kept.")
        for name, table in _measured(subject, missing, progress):
            tables[name] = table
            said = keep(folder, _file_name(name), lambda path, table=table: _write(path, table))  # type: ignore[misc]
            if said and notice is not None:
                notice(said)
    return {
        (asked[name].metric.name, asked[name].metric.version, str(value), characteristic, _sorted(at)): number
        for name, table in tables.items()
        for value, characteristic, at, number in table
    }


def _has_oracle(subject: Subject) -> bool:
    """Whether the data are drawn and the model's labels are theirs, class by class."""
    schema = subject.data.schema
    return (
        isinstance(subject.data, Renders)
        and all(label.kind != "continuous" for label in schema)
        and all(label.name in schema and schema[label.name] == label for label in subject.schema)
    )


def _requests(run: Run, subject: Subject, metrics: Sequence[Metric]) -> Iterator[_Request]:
    renamed = {metric.name: metric for metric in metrics}
    for measurement in run.measurements:
        if measurement.status == "ok" and measurement.metric in renamed:
            metric, ids = renamed[measurement.metric], run.ids[measurement.metric]
            yield _Request(metric, ids, _name(subject, metric, ids))


def _name(subject: Subject, metric: Metric, ids: Ids) -> str:
    """A digest of everything that the oracle's values depend on."""
    key = [
        VERSION,
        subject.data.digest,
        blake2b(ids.astype(np.int64).tobytes(), digest_size=16).hexdigest(),
        subject.seed,
        list(subject.schema.names),
        sorted(subject.characteristics),
        "" if subject.judge is None else subject.judge.sha256,
        metric.name,
        metric.version,
        settings_of(metric),
    ]
    return blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()


def _measured(subject: Subject, requests: Sequence[_Request], progress: Progress | None) -> Iterator[tuple[str, Table]]:
    """Measures the oracle, the metrics that looked at the same images together."""
    groups: dict[bytes, list[_Request]] = {}
    for request in requests:
        groups.setdefault(request.ids.tobytes(), []).append(request)
    order = [name for name in subject.data.schema.names if name in subject.characteristics]
    for group in groups.values():
        ids, metrics = group[0].ids, [request.metric for request in group]
        drawn = prepare(
            oracle(subject.data, ids, subject.schema),
            subject.data,
            ids,
            seed=subject.seed,
            judge=subject.judge,
            characteristics=tuple(order),
        )
        yield from tables_of(evaluate(drawn, metrics, progress=progress), drawn, metrics).items()


def tables_of(run: Run, subject: Subject, metrics: Sequence[Metric]) -> dict[str, Table]:
    """What is kept of a run of the oracle: its defined values, by the name under which another run asks for them."""
    return {
        request.name: [
            [v.name, v.characteristic, dict(v.at), float(f"{v.estimate.value:.{DIGITS}g}")]
            for v in run.measurement(request.metric.name).values
            if v.estimate.defined
        ]
        for request in _requests(run, subject, metrics)
    }


def _sorted(at: Mapping[str, Any]) -> tuple[tuple[str, str | int | float], ...]:
    return tuple(sorted(at.items()))


@cache
def shipped_references() -> Mapping[str, Table]:
    """The references that come with the package, by the name of their request."""
    asset = files("ccvae_eval") / "assets" / SHIPPED
    found: dict[str, Table] = json.loads(asset.read_text()) if asset.is_file() else {}
    return found


def _file_name(name: str) -> str:
    return f"references-{name}.json"


def _write(path: Path, table: Table) -> None:
    atomic_write(path, json.dumps(table).encode())


def _kept(folder: Path | None, name: str) -> Table | None:
    """A table from the cache; None if there is none, or none that can be read: it is then made anew."""
    if folder is None:
        return None
    try:
        table = json.loads((folder / _file_name(name)).read_text())
        return [[str(n), c if c is None else str(c), dict(at), float(x)] for n, c, at, x in table]
    except (OSError, ValueError, TypeError):
        return None
