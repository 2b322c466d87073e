"""Record of one evaluation: header, measurements, and access to single values by address."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ccvae_eval.core.errors import InputError, UsageError, suggestion
from ccvae_eval.core.results import (
    BY,
    Estimate,
    Measurement,
    Method,
    Reason,
    Status,
    Value,
    ValueSpec,
    spec_at,
    summary_of,
)
from ccvae_eval.core.typed import Keys, NullIsNan, Range, plain, read, shown
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA_VERSION: Literal[1] = 1
PROFILE = "default"
Number = Annotated[float, NullIsNan()]
Count = Annotated[int, Range(least=0)]
Text = str | None

METHODS = "; ".join(f"{method.value or '(empty)'} = {method.description}" for method in Method)

ADDRESS_FORM = "metric.value[@characteristic][/by=LABEL:CLASS][.low|.high|.value]"
_ADDRESS = re.compile(
    r"(?P<metric>[^.@]+)\.(?P<name>[^.@]+?)(@(?P<characteristic>.+?))?(/by=(?P<by>.+?))?(\.(?P<end>low|high|value))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Address:
    """Place of a number in a run: ``metric.value[@characteristic][/by=LABEL:CLASS][.low|.high|.value]``.

    Args:
        metric, name: the metric and one of its values.
        characteristic: None = the mean over characteristics, or the value of the whole image.
        end: "low" or "high" end of the confidence interval, "value", or "" if not stated.
        by: a class of the label of ``--by``, as LABEL:CLASS, or LABEL:worst or LABEL:gap; "" = all images.

    >>> Address.parse("locality.focus@Eyeglasses.low")
    Address(metric='locality', name='focus', characteristic='Eyeglasses', end='low', by='')
    >>> str(Address("locality", "focus", "Eyeglasses", by="Male:gap"))
    'locality.focus@Eyeglasses/by=Male:gap'
    """

    metric: str
    name: str
    characteristic: str | None = None
    end: str = ""
    by: str = ""

    @property
    def at(self) -> Mapping[str, str]:
        """The coordinates ``at`` of the value."""
        return {BY: self.by} if self.by else {}

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in a text.

        Raises:
            UsageError: the text does not have the form of an address.
        """
        parts = _ADDRESS.fullmatch(text)
        if parts is None:
            raise UsageError(f"{text!r} is not a valid address", hint=ADDRESS_FORM)
        return cls(parts["metric"], parts["name"], parts["characteristic"], parts["end"] or "", parts["by"] or "")

    def __str__(self) -> str:
        owner = "" if self.characteristic is None else f"@{self.characteristic}"
        group = self.by and f"/{BY}={self.by}"
        return f"{self.metric}.{self.name}{owner}{group}{self.end and f'.{self.end}'}"


WHOLE_DATA = "all"
"""The recorded split of a run on the first N images of the whole data set."""


@dataclass(frozen=True, slots=True)
class Header:
    """Description of a run without its measurements; all fields are plain data of the published schema."""

    tool: Mapping[str, Plain] = field(default_factory=dict)
    environment: Mapping[str, Plain] = field(default_factory=dict)
    checkpoint: Mapping[str, Plain] = field(default_factory=dict)
    training: Mapping[str, Plain] | None = None
    data: Mapping[str, Plain] = field(default_factory=dict)
    judge: Mapping[str, Plain] | None = None
    regions: Mapping[str, Plain] = field(default_factory=dict)
    seed: int = 0
    command: str = ""
    started: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stopping:
    """What ``--width`` did, in the record of the data of a run.

    Args:
        width: the wanted width of the intervals.
        level: confidence level of the intervals of each look.
        looks: number of images of each look that was taken.
        of: number of images of the whole sample.
        reached: True if the intervals of the last look are narrow enough.
    """

    width: float
    level: float
    looks: tuple[Count, ...]
    of: Count
    reached: bool

    @property
    def _taken(self) -> str:
        return f"{' and '.join(f'{n:,}' for n in self.looks)} of {self.of:,} images"

    def __str__(self) -> str:
        saved = self.of - sum(self.looks)
        spared = f"{saved:,}" if saved > 0 else "no"
        end = "" if self.reached else f", width {self.width:g} not reached"
        level = f"intervals at level {self.level:.4f}, at least 95% for all looks together"
        return f"after {self._taken}{end}: {spared} images saved; {level}"

    @property
    def methods(self) -> str:
        """A sentence for a paragraph on methods."""
        return (
            f"The evaluation looked at {self._taken}, to reach intervals of width {self.width:g}; each interval has "
            f"the level {self.level:.4f}, so that the intervals of all planned looks hold at the 95% level (union "
            "bound)."
        )


def stopping_of(data: Mapping[str, Plain]) -> Stopping | None:
    """What ``--width`` did, given the record of the data; None without it, or if it is malformed."""
    try:
        return read(Stopping, data["stopping"], "data.stopping", extra=True) if "stopping" in data else None
    except InputError:
        return None


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label of the data in run.json."""

    name: str
    kind: str = "binary"
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValueRow:
    """One value in run.json and values.csv, with what its description says about reading it."""

    name: str
    characteristic: Annotated[str | None, "null = the mean over characteristics"]
    at: Annotated[Mapping[str, str | int | float | bool], "further conditions of the value"]
    value: Number
    low: Number
    high: Number
    n: Count
    unit: str
    excluded: Count
    chance: Annotated[float | None, "null = undefined"]
    reference: Annotated[float | None, "null = undefined"]
    higher_is_better: bool | None
    range: tuple[float | None, float | None]
    interval_method: Annotated[str, METHODS]
    note: str = ""
    in_mean: Annotated[bool, "true if the row enters the mean over characteristics"] = False
    remedy: Annotated[str, "for an undefined value: options to add to the command, or another command"] = ""

    @classmethod
    def of(cls, value: Value, specs: Mapping[str, ValueSpec]) -> ValueRow:
        """The row of a value of a metric."""
        e, spec = value.estimate, spec_at(specs.get(value.name, ValueSpec("")), value.at)
        return cls(
            value.name, value.characteristic, value.at, e.value, e.low, e.high, e.n, spec.unit, value.excluded,
            value.chance, value.reference, spec.higher_is_better, spec.range, e.method, value.note, value.in_mean,
            value.remedy,
        )  # fmt: skip

    def parsed(self) -> Value:
        """The inverse of :meth:`of`."""
        estimate = Estimate(self.value, self.low, self.high, self.n, self.interval_method)
        return Value(
            self.name, estimate, self.characteristic, self.at, self.excluded, self.chance, self.reference, self.note,
            self.in_mean, self.remedy,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MeasurementRow:
    """One measurement in run.json."""

    metric: str
    version: Annotated[int, Range(least=1)]
    profile: str
    settings: Mapping[str, Plain]
    status: Status
    reason: Reason | None
    headline: str
    values: tuple[ValueRow, ...]
    notes: tuple[str, ...] = ()
    seconds: Annotated[float, Range(least=0)] = 0.0

    @classmethod
    def of(cls, m: Measurement, specs: Mapping[str, ValueSpec]) -> MeasurementRow:
        """The row of a measurement."""
        profile, values = str(m.settings.get("profile", PROFILE)), tuple(ValueRow.of(v, specs) for v in m.values)
        return cls(
            m.metric, m.version, profile, m.settings, m.status, m.reason, m.headline, values, m.notes,
            round(max(m.seconds, 0.0), 3),
        )  # fmt: skip

    def parsed(self) -> Measurement:
        """The inverse of :meth:`of`, without the evidence."""
        values = tuple(row.parsed() for row in self.values)
        return Measurement(
            self.metric, self.version, self.settings, self.headline, values, self.status, self.reason,
            notes=self.notes, seconds=self.seconds,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDocument:
    """The content of run.json."""

    schema_version: Literal[1]
    tool: Annotated[Mapping[str, Plain], Keys(name=str, version=str)]
    environment: Mapping[str, Plain]
    checkpoint: Annotated[
        Mapping[str, Plain], Keys(path=Text, sha256=Text, format=Text, model=Text, settings=Mapping[str, Any])
    ]
    training: Mapping[str, Plain] | None
    data: Annotated[Mapping[str, Plain], Keys(name=str, digest=str, n=Count, labels=list[LabelRow], split=str)]
    judge: Mapping[str, Plain] | None
    regions: Mapping[str, Plain]
    seed: int
    command: str
    started: str
    warnings: tuple[str, ...] = ()
    measurements: tuple[MeasurementRow, ...]
    evidence: Annotated[Mapping[str, Plain], Keys(file=str, sha256=str)] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """Record of one evaluation.

    ``print(run)`` shows the tables of the terminal; a notebook shows the report.

    Args:
        header: description of the run.
        measurements: one for each metric.
        specs: for each metric the descriptions of its values (unit, direction, range).
        ids: for each metric the ids of its images, which paired comparisons need along with the evidence.
        evidence_file: name and digest of the evidence file.
        gallery: single images for the report, see ``evaluation.pictures.gallery``; stored in pictures.npz.
    """

    header: Header
    measurements: tuple[Measurement, ...]
    specs: Mapping[str, Mapping[str, ValueSpec]]
    ids: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    evidence_file: Mapping[str, Plain] | None = None
    gallery: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def measurement(self, metric: str) -> Measurement:
        """The measurement of one metric.

        Raises:
            UsageError: the run does not contain the metric.
        """
        by_name = {measurement.metric: measurement for measurement in reversed(self.measurements)}
        if metric not in by_name:
            raise UsageError(f"the run does not contain metric {metric!r}", hint=suggestion(metric, by_name))
        return by_name[metric]

    def find(self, address: str | Address) -> Value:
        """The value at an address; without a characteristic, the mean over characteristics.

        Raises:
            UsageError: the address is malformed, or the run has no value there.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        every = [v for v in self.measurement(place.metric).values if v.name == place.name]
        named = [v for v in every if v.at.get(BY, "") == place.by]
        if every and not named:
            classes = dict.fromkeys(str(v.at[BY]) for v in every if BY in v.at)
            hint = suggestion(place.by, classes) if classes else f"Evaluate with --by {place.by.partition(':')[0]}."
            raise UsageError(f"{place.metric}.{place.name} has no value by {place.by!r}", hint=hint)
        if not named:
            names = {v.name for v in self.measurement(place.metric).values}
            raise UsageError(f"{place.metric} has no value {place.name!r}", hint=suggestion(place.name, names))
        found = [v for v in named if v.characteristic == place.characteristic]
        if not found:
            known = [v.characteristic or "(mean)" for v in named]
            raise UsageError(f"no value at {str(place)!r}", hint=suggestion(place.characteristic or "", known))
        return next((v for v in found if v.at == place.at), found[0])

    def __getitem__(self, address: str | Address) -> float:
        """The number at an address: ``run["locality.focus@Eyeglasses"]``, ``run["locality.focus.low"]``.

        NaN if undefined. ``find`` returns the value with its interval.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        return float(getattr(self.find(place).estimate, place.end or "value"))

    def table(self, metric: str, name: str, by: str = "") -> dict[str | None, Value]:
        """The values of one name by characteristic, None = the mean, without further coordinates; empty if absent.

        Args:
            metric, name: of the values.
            by: a class of the label of ``--by``, as LABEL:CLASS; "" = all images.
        """
        at = {BY: by} if by else {}
        found = (m for m in self.measurements if m.metric == metric)
        return {v.characteristic: v for m in found for v in m.values if v.name == name and v.at == at}

    def rows(self) -> list[dict[str, Plain]]:
        """All values as flat dictionaries, for a data frame or a CSV file."""
        return [
            {"metric": m.metric, "status": m.status, **_flat(plain(ValueRow.of(v, self.specs.get(m.metric, {}))))}
            for m in self.measurements
            for v in m.values
        ]

    def frame(self, *, pandas: bool = False) -> Any:
        """All values, one row each: a list of dictionaries, or with ``pandas=True`` a ``pandas.DataFrame``.

        Raises:
            UsageError: pandas is asked for and not installed.
        """
        if not pandas:
            return self.rows()
        try:
            return import_module("pandas").DataFrame(self.rows())
        except ImportError:
            raise UsageError("pandas is not installed", hint="pip install pandas, or use run.frame()") from None

    def figure(
        self, address: str, kind: str | None = None, *, images: Sequence[int] = (), width: float | None = None
    ) -> Any:
        """A figure, ``run.figure("density@Smiling")``, as a ``matplotlib.figure.Figure``.

        Args:
            address: ``metric`` or ``metric@characteristic``; ``profile`` or ``labels`` for the headline values.
            kind: name of the figure, such as "change-maps"; default: the metric's first one.
            images: ids of the single images to show; default: all that have pictures.
            width: width in inches; default: at most 6.75.

        Raises:
            UsageError: the run has no such figure or no picture of an image; the error lists those that it has.
        """
        return _report().figure(self, address, kind, images=images, width=width)

    def write(self, folder: str | Path, *, force: bool = False) -> None:
        """Writes run.json, values.csv and evidence.npz (and pictures.npz), as ``ccvae-eval run`` does.

        The commands take such a folder: ``ccvae-eval report FOLDER`` writes its page, ``gate``, ``table`` and
        ``compare`` read it, and so does :func:`ccvae_eval.read`.

        Args:
            folder: a new folder; missing ones are created.
            force: overwrite a run in the folder.

        Raises:
            InputError: the folder contains a run, or cannot be written.
        """
        from ccvae_eval.evaluation.storage import RUN_FILE, write

        place = Path(folder)
        if (place / RUN_FILE).exists() and not force:
            raise InputError(
                "contains a run already", where=str(place), hint="Name another folder, or give force=True."
            )
        write(self, place)

    def __repr__(self) -> str:
        lacking = {
            m.metric
            for m in self.measurements
            for v in m.values
            if v.name == m.headline and v.characteristic is None and not v.at and not v.estimate.defined
        }
        metrics = ", ".join(
            m.metric if m.status == "ok" and m.metric not in lacking else
            f"{m.metric} ({f'no {m.headline}' if m.status == 'ok' else m.status})" for m in self.measurements
        )  # fmt: skip
        model, data = self.header.checkpoint.get("model"), self.header.data
        return f"<Run of {model} on {data.get('n')} images of {data.get('name')}: {metrics}>"

    def __str__(self) -> str:
        return str(_report().text(self))

    def _repr_html_(self) -> str:
        return str(_report().notebook(self))

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.measurements)

    @property
    def failed(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if m.status == "failed")

    def as_plain(self) -> dict[str, Plain]:
        """The run as plain data of the published schema; NaN becomes None."""
        header = {item.name: getattr(self.header, item.name) for item in fields(Header)}
        rows = tuple(MeasurementRow.of(m, self.specs.get(m.metric, {})) for m in self.measurements)
        document: dict[str, Plain] = plain(
            RunDocument(schema_version=SCHEMA_VERSION, **header, measurements=rows, evidence=self.evidence_file)
        )
        return document

    @classmethod
    def from_plain(cls, document: Plain, where: str) -> Run:
        """Inverse of :meth:`as_plain` for untrusted files, without the evidence.

        Args:
            document: plain data.
            where: name of the file, for errors.

        Raises:
            InputError: the data do not follow the schema, or have another schema version.
        """
        if not isinstance(document, Mapping) or "schema_version" not in document:
            raise InputError("not a run file of ccvae-eval", where=where)
        if (version := document["schema_version"]) != SCHEMA_VERSION:
            raise InputError(
                f"unsupported schema version {shown(version)} of a run file, expected {SCHEMA_VERSION}",
                where=where,
                hint="Evaluate the checkpoint again, or use the version of ccvae-eval that wrote the file.",
            )
        found = read(RunDocument, document, where, extra=True)
        header = Header(**{item.name: getattr(found, item.name) for item in fields(Header)})
        specs = {
            m.metric: {
                v.name: ValueSpec("", v.unit, v.higher_is_better, v.range) for v in m.values if not summary_of(v.at)
            }
            for m in found.measurements
        }
        return cls(header, tuple(m.parsed() for m in found.measurements), specs, evidence_file=found.evidence)


def _flat(row: dict[str, Plain]) -> dict[str, Plain]:
    at = ";".join(f"{key}={value}" for key, value in sorted(row["at"].items()))
    low, high = row.pop("range")
    return {**row, "at": at, "range_low": low, "range_high": high}


def numbers_at(runs: Sequence[Run], address: Address, only: Sequence[str] | None = None) -> list[float]:
    """The numbers of several runs at one address, comparable with each other.

    A mean over characteristics includes only those that are defined in every run: a model must not gain by being
    undefined where it is bad.

    Args:
        runs: the runs.
        address: of the number; the end of an interval does not count.
        only: characteristics to average; default: all that enter the mean.

    Returns:
        One number for each run; NaN where a run has none.
    """
    tables = [run.table(address.metric, address.name, address.by) for run in runs]
    if address.characteristic is not None:
        return [_number(table, address.characteristic) for table in tables]
    averaged = averaged_at(runs, address)
    names = dict.fromkeys(c for own in averaged for c in own)
    shared = [c for c in names if all(c in own for own in averaged) and (only is None or c in only)]
    if not names or (only is None and not shared):
        return [_number(table, None) for table in tables]
    if not shared:
        return [math.nan] * len(tables)
    return [
        _number(table, None)  # with the bits of the run, which adds in another order
        if len(own) == len(shared)
        else math.fsum(table[c].estimate.value for c in shared) / len(shared)
        for table, own in zip(tables, averaged, strict=True)
    ]


def averaged_at(runs: Sequence[Run], address: Address) -> list[list[str]]:
    """The characteristics that the mean of each run at an address includes."""
    tables = [run.table(address.metric, address.name, address.by) for run in runs]
    return [[c for c, v in table.items() if c is not None and v.in_mean and v.estimate.defined] for table in tables]


def _number(table: Mapping[str | None, Value], characteristic: str | None) -> float:
    return table[characteristic].estimate.value if characteristic in table else math.nan


def _report() -> Any:
    """The report package, a layer above this one: imported by name, and only when a run is shown."""
    return import_module("ccvae_eval.report.views")
