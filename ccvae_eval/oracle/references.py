"""Reference values: the oracle's values on the same images under the same metrics (the column "reference" of a run).

References are computed once and stored: in the package for the default evaluations of ``faces``, else in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

import numpy as np

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write, cache_folder, write_cached
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.core.typed import load_json, read
from ccvae_eval.core.types import Ids, Plain
from ccvae_eval.data.interface import Renders
from ccvae_eval.evaluation.metric import Metric, settings_of
from ccvae_eval.evaluation.result_table import GIVEN
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.storage import LIMITS
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.model.interface import supports
from ccvae_eval.oracle.model import VERSION, oracle

SHIPPED = "references-faces64.json"
DIGITS = 8

Key = tuple[str, int, str, str | None, tuple[tuple[str, str | int | float], ...]]
"""Address of a reference: (metric, version, value name, characteristic, at)."""

Lookup = Mapping[Key, float]
Notice = Callable[[str], None]
Progress = Callable[[int, int], None]
Table = list[list[Plain]]
"""Stored references of one metric: rows of (value name, characteristic, at, value)."""


def with_references(run: Run, lookup: Lookup) -> Run:
    """The run with its values' references; a value with a reference of its own keeps it.

    The reference of a mean over characteristics is the oracle's mean over the same characteristics. If some of the
    run's characteristics are undefined, it is the mean of the references of the others, if all of these are known.
    """
    return replace(run, measurements=tuple(_with_references(m, lookup) for m in run.measurements))


def _with_references(measurement: Measurement, lookup: Lookup) -> Measurement:
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
        return None  # the metric decides which given characteristics enter the mean
    with_reference = {key[3] for key in lookup if key[:3] == (metric, version, mean.name)} - {None}
    if names == with_reference:
        return lookup.get((metric, version, *mean.key))
    each = [lookup.get((metric, version, mean.name, name, mean.key[2])) for name in names]
    found = [reference for reference in each if reference is not None]
    return float(np.mean(found)) if found and len(found) == len(names) else None


@dataclass(frozen=True, slots=True)
class _Request:
    """Request for the references of one metric, named by a digest of everything that they depend on."""

    metric: Metric
    ids: Ids
    name: str


def oracle_reference(
    run: Run,
    subject: Subject,
    metrics: Sequence[Metric],
    *,
    cache_dir: str | Path | None = None,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> Lookup:
    """References for the values of a run; empty for data that are not synthetic.

    The oracle is evaluated where no reference is stored, which takes about as long as the run did.

    Args:
        run: the run.
        subject: subject of the run; the oracle is evaluated with the same data, images, labels, seed and judge.
        metrics: metrics of the run.
        cache_dir: folder of stored references; see :func:`ccvae_eval.core.files.cache_folder`.
        notice: called with messages for the user.
        progress: called with (batches done, batches) while the oracle is evaluated.
    """
    if not _has_oracle(subject):
        return {}
    folder = cache_folder(cache_dir)
    requests = {request.name: request for request in _requests(run, subject, metrics)}
    stored = {name: shipped_references().get(name) or _cached(folder, name) for name in requests}
    tables = {name: table for name, table in stored.items() if table is not None}
    missing = [request for name, request in requests.items() if name not in tables]
    if missing:
        damaged = sum((folder / _file_name(request.name)).exists() for request in missing) if folder else 0
        if notice is not None and damaged:
            notice(f"{damaged} damaged files of cached reference values are ignored.")
        if notice is not None:
            notice("Evaluating the reference model on the same images, for the column reference (once, then cached).")
        for name, table in _computed(subject, missing, progress):
            tables[name] = table
            content = json.dumps(table).encode()
            warning = write_cached(folder, _file_name(name), partial(atomic_write, content=content))
            if warning and notice is not None:
                notice(warning)
    chosen = {name: requests[name].metric for name in tables}
    return {
        (chosen[name].name, chosen[name].version, str(value), characteristic, tuple(sorted(at.items()))): number
        for name, table in tables.items()
        for value, characteristic, at, number in table
    }


def _has_oracle(subject: Subject) -> bool:
    """True if the data are synthetic and the model's labels are equal to theirs, including the classes."""
    schema = subject.data.schema
    return (
        supports(subject.data, Renders)
        and all(label.kind != "continuous" for label in schema)
        and all(label.name in schema and schema[label.name] == label for label in subject.schema)
    )


def _requests(run: Run, subject: Subject, metrics: Sequence[Metric]) -> Iterator[_Request]:
    by_name = {metric.name: metric for metric in metrics}
    for measurement in run.measurements:
        if measurement.status == "ok" and measurement.metric in by_name:
            metric, ids = by_name[measurement.metric], run.ids[measurement.metric]
            yield _Request(metric, ids, _name(subject, metric, ids))


def _name(subject: Subject, metric: Metric, ids: Ids) -> str:
    """Digest of everything that the oracle's values depend on."""
    images = blake2b(ids.astype(np.int64).tobytes(), digest_size=16).hexdigest()
    judge = "" if subject.judge is None else subject.judge.sha256
    labels = [list(subject.schema.names), sorted(subject.characteristics)]
    definition = [metric.name, metric.version, sorted(metric.values), settings_of(metric)]
    key = [VERSION, subject.data.digest, images, subject.seed, *labels, judge, *definition]
    return blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()


def _computed(subject: Subject, requests: Sequence[_Request], progress: Progress | None) -> Iterator[tuple[str, Table]]:
    """Evaluates the oracle; metrics that used the same images share one evaluation."""
    groups: dict[bytes, list[_Request]] = {}
    for request in requests:
        groups.setdefault(request.ids.tobytes(), []).append(request)
    order = [name for name in subject.data.schema.names if name in subject.characteristics]
    for group in groups.values():
        ids, metrics = group[0].ids, [request.metric for request in group]
        model = oracle(subject.data, ids, subject.schema)
        reference = prepare(
            model, subject.data, ids, seed=subject.seed, judge=subject.judge, characteristics=tuple(order)
        )
        yield from tables_of(measure(reference, metrics, progress=progress), reference, metrics).items()


def tables_of(run: Run, subject: Subject, metrics: Sequence[Metric]) -> dict[str, Table]:
    """Defined values of a run of the oracle, one table for each metric, by the name of its request."""
    return {
        request.name: [
            [v.name, v.characteristic, dict(v.at), float(f"{v.estimate.value:.{DIGITS}g}")]
            for v in run.measurement(request.metric.name).values
            if v.estimate.defined
        ]
        for request in _requests(run, subject, metrics)
    }


_Row = tuple[str, str | None, Mapping[str, str | int | float | bool], float]
"""Name, characteristic and place of a value, and the value."""


@cache
def shipped_references() -> Mapping[str, Table]:
    """References that are part of the package, by the name of their request."""
    asset = files("ccvae_eval") / "assets" / SHIPPED
    found: dict[str, Table] = json.loads(asset.read_text()) if asset.is_file() else {}
    return found


def _file_name(name: str) -> str:
    return f"references-{name}.json"


def _cached(folder: Path | None, name: str) -> Table | None:
    """A table from the cache; None if it is missing or damaged, and is computed again."""
    if folder is None:
        return None
    try:
        rows = read(tuple[_Row, ...], load_json(folder / _file_name(name), limits=LIMITS))
        return [[*row] for row in rows]
    except InputError:
        return None
