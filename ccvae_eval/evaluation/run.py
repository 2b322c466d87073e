"""Record of one evaluation: header, measurements, and access to single values by address."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import InputError, UsageError, suggestion
from ccvae_eval.core.results import Estimate, Measurement, Reason, Value, ValueSpec
from ccvae_eval.core.types import Plain

SCHEMA_VERSION = 1
PROFILE = "default"

ADDRESS_FORM = "metric.value[@characteristic][.low|.high|.value]"
_ADDRESS = re.compile(
    r"(?P<metric>[^.@]+)\.(?P<name>[^.@]+)(@(?P<characteristic>.+?))?(\.(?P<end>low|high|value))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Address:
    """Place of a number in a run: ``metric.value[@characteristic][.low|.high|.value]``.

    Args:
        metric, name: the metric and one of its values.
        characteristic: None = the mean over characteristics, or the value of the whole image.
        end: "low" or "high" end of the confidence interval, "value", or "" if not stated.

    >>> Address.parse("locality.focus@Eyeglasses.low")
    Address(metric='locality', name='focus', characteristic='Eyeglasses', end='low')
    >>> str(Address("locality", "focus", "Eyeglasses"))
    'locality.focus@Eyeglasses'
    """

    metric: str
    name: str
    characteristic: str | None = None
    end: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in a text.

        Raises:
            UsageError: the text does not have the form of an address.
        """
        parts = _ADDRESS.fullmatch(text)
        if parts is None:
            raise UsageError(f"{text!r} is not a valid address", hint=ADDRESS_FORM)
        return cls(parts["metric"], parts["name"], parts["characteristic"], parts["end"] or "")

    def __str__(self) -> str:
        owner = "" if self.characteristic is None else f"@{self.characteristic}"
        return f"{self.metric}.{self.name}{owner}{self.end and f'.{self.end}'}"


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
class Run:
    """Record of one evaluation.

    Args:
        header: description of the run.
        measurements: one for each metric.
        specs: for each metric the descriptions of its values (unit, direction, range).
        ids: for each metric the ids of its images, which paired comparisons need along with the evidence.
        evidence_file: name and digest of the evidence file.
    """

    header: Header
    measurements: tuple[Measurement, ...]
    specs: Mapping[str, Mapping[str, ValueSpec]]
    ids: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    evidence_file: Mapping[str, Plain] | None = None

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
        """The value at ``metric.value[@characteristic]``; without a characteristic, the mean over characteristics.

        Raises:
            UsageError: the address is malformed, or the run has no value there.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        named = [v for v in self.measurement(place.metric).values if v.name == place.name]
        if not named:
            names = {v.name for v in self.measurement(place.metric).values}
            raise UsageError(f"{place.metric} has no value {place.name!r}", hint=suggestion(place.name, names))
        found = [v for v in named if v.characteristic == place.characteristic]
        if not found:
            known = [v.characteristic or "(mean)" for v in named]
            raise UsageError(f"no value at {str(place)!r}", hint=suggestion(place.characteristic or "", known))
        return next((v for v in found if not v.at), found[0])

    def __getitem__(self, address: str | Address) -> float:
        """The number at an address: ``run["locality.focus@Eyeglasses"]``, ``run["locality.focus.low"]``.

        NaN if undefined. ``find`` returns the value with its interval.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        return float(getattr(self.find(place).estimate, place.end or "value"))

    def table(self, metric: str, name: str) -> dict[str | None, Value]:
        """The values of one name by characteristic, None = the mean, without further coordinates; empty if absent."""
        found = (m for m in self.measurements if m.metric == metric)
        return {v.characteristic: v for m in found for v in m.values if v.name == name and not v.at}

    def rows(self) -> list[dict[str, Plain]]:
        """All values as flat dictionaries, for a data frame or a CSV file."""
        return [
            {"metric": m.metric, "status": m.status, **_flat(value_as_plain(v, self.specs.get(m.metric, {})))}
            for m in self.measurements
            for v in m.values
        ]

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.measurements)

    @property
    def failed(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if m.status == "failed")

    def as_plain(self) -> dict[str, Plain]:
        """The run as plain data of the published schema; NaN becomes None."""
        return {
            "schema_version": SCHEMA_VERSION,
            **{item.name: _copied(getattr(self.header, item.name)) for item in fields(Header)},
            "measurements": [_measurement_as_plain(m, self.specs.get(m.metric, {})) for m in self.measurements],
            "evidence": _copied(self.evidence_file),
        }

    @classmethod
    def from_plain(cls, plain: Plain, where: str) -> Run:
        """Inverse of :meth:`as_plain` for untrusted files, without the evidence.

        Args:
            plain: plain data.
            where: name of the file, for errors.

        Raises:
            InputError: the data do not follow the schema, or have another schema version.
        """
        try:
            version = plain["schema_version"]
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"unsupported schema version {version} of a run file, expected {SCHEMA_VERSION}",
                    where=where,
                    hint="Evaluate the checkpoint again, or use the version of ccvae-eval that wrote the file.",
                )
            header = Header(
                plain["tool"], plain["environment"], plain["checkpoint"], plain["training"], plain["data"],
                plain["judge"], plain["regions"], int(plain["seed"]), str(plain["command"]), str(plain["started"]),
                tuple(map(str, plain.get("warnings", ()))),
            )  # fmt: skip
            measurements = tuple(_measurement_from_plain(m) for m in plain["measurements"])
            specs = {m["metric"]: _specs_from_plain(m["values"]) for m in plain["measurements"]}
            return cls(header, measurements, specs, evidence_file=plain.get("evidence"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("not a run file of ccvae-eval", where=where, why=repr(error)) from None


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
    tables = [run.table(address.metric, address.name) for run in runs]
    if address.characteristic is not None:
        return [_number(table, address.characteristic) for table in tables]
    names = dict.fromkeys(c for table in tables for c, v in table.items() if c is not None and v.in_mean)
    wanted = [name for name in names if only is None or name in only]
    shared = [c for c in wanted if all(c in t and t[c].in_mean and t[c].estimate.defined for t in tables)]
    if len(shared) == len(names) or (only is None and not shared):
        return [_number(table, None) for table in tables]
    if not shared:
        return [math.nan] * len(tables)
    return [math.fsum(table[c].estimate.value for c in shared) / len(shared) for table in tables]


def _number(table: Mapping[str | None, Value], characteristic: str | None) -> float:
    return table[characteristic].estimate.value if characteristic in table else math.nan


def _copied(value: Any) -> Plain:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


def number(value: float | None) -> float | None:
    """A float for JSON: NaN and infinities become None."""
    return None if value is None or not math.isfinite(value) else float(value)


def value_as_plain(value: Value, specs: Mapping[str, ValueSpec]) -> dict[str, Plain]:
    """One value as plain data of the published schema."""
    spec = specs.get(value.name, ValueSpec(""))
    return {
        "name": value.name,
        "characteristic": value.characteristic,
        "at": dict(value.at),
        "value": number(value.estimate.value),
        "low": number(value.estimate.low),
        "high": number(value.estimate.high),
        "n": value.estimate.n,
        "unit": spec.unit,
        "excluded": value.excluded,
        "chance": number(value.chance),
        "reference": number(value.reference),
        "higher_is_better": spec.higher_is_better,
        "range": list(spec.range),
        "interval_method": value.estimate.method,
        "note": value.note,
        "in_mean": value.in_mean,
    }


def _flat(plain: dict[str, Plain]) -> dict[str, Plain]:
    at = ";".join(f"{key}={value}" for key, value in sorted(plain["at"].items()))
    low, high = plain.pop("range")
    return {**plain, "at": at, "range_low": low, "range_high": high}


def _measurement_as_plain(measurement: Measurement, specs: Mapping[str, ValueSpec]) -> dict[str, Plain]:
    return {
        "metric": measurement.metric,
        "version": measurement.version,
        "profile": measurement.settings.get("profile", PROFILE),
        "settings": dict(measurement.settings),
        "status": measurement.status,
        "reason": None if measurement.reason is None else asdict(measurement.reason),
        "headline": measurement.headline,
        "values": [value_as_plain(v, specs) for v in measurement.values],
        "notes": list(measurement.notes),
        "seconds": round(measurement.seconds, 3),
    }


def _real(value: Any) -> float:
    return math.nan if value is None else float(value)


def _measurement_from_plain(plain: Plain) -> Measurement:
    values = tuple(
        Value(
            str(v["name"]),
            Estimate(_real(v["value"]), _real(v["low"]), _real(v["high"]), int(v["n"]), str(v["interval_method"])),
            v["characteristic"],
            dict(v["at"]),
            int(v["excluded"]),
            None if v["chance"] is None else float(v["chance"]),
            None if v["reference"] is None else float(v["reference"]),
            str(v.get("note", "")),
            bool(v.get("in_mean", False)),
        )
        for v in plain["values"]
    )
    reason = None if plain["reason"] is None else Reason(str(plain["reason"]["code"]), str(plain["reason"]["text"]))
    return Measurement(
        str(plain["metric"]),
        int(plain["version"]),
        dict(plain["settings"]),
        str(plain["headline"]),
        values,
        plain["status"],
        reason,
        notes=tuple(map(str, plain.get("notes", ()))),
        seconds=float(plain["seconds"]),
    )


def _specs_from_plain(values: Plain) -> dict[str, ValueSpec]:
    return {
        v["name"]: ValueSpec("", str(v["unit"]), v["higher_is_better"], (v["range"][0], v["range"][1])) for v in values
    }
