"""From resampled numbers of single characteristics to the rows of a measurement, with their means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ccvae_eval.measure import Value, mean_value
from ccvae_eval.statistics.intervals import Resampled, mean_over, missing
from ccvae_eval.subject import Subject

At = Mapping[str, str | int | float]
NOWHERE: At = MappingProxyType({})

GIVEN, ASSIGNED, UNASSIGNED = "given", "assigned", "unassigned"


def sentence(*parts: str) -> str:
    """The parts that say something, one after the other.

    >>> sentence("given", "", "one-vs-rest")
    'given; one-vs-rest'
    """
    return "; ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class _Row:
    value: Value
    found: Resampled
    mean_at: At | None


@dataclass
class Rows:
    """Values in the making; what stands in the same mean is averaged resample by resample.

    Args:
        subject: whose; it says which characteristics were given or assigned.
        draws: how many resamples an undefined value has.
        level: of the intervals.
        given: characteristics that are marked as given; None = those of the subject's model.
        given_counts: whether what was given enters the means. It does where the value is no information about the
            label: what a column does to the image is a finding, whoever wrote the column.
        findings: values for which it does, where it does not for the others: what other columns tell of a given label.
    """

    subject: Subject
    draws: int
    level: float = 0.95
    given_counts: bool = False
    given: frozenset[str] | None = None
    findings: frozenset[str] = frozenset()
    _rows: list[_Row] = field(default_factory=list)

    @property
    def _given(self) -> frozenset[str]:
        return self.subject.given if self.given is None else self.given

    def add(
        self,
        name: str,
        characteristic: str | None,
        found: Resampled,
        *,
        at: At = NOWHERE,
        mean_at: At | None = NOWHERE,
        chance: float | None = None,
        reference: float | None = None,
        excluded: int = 0,
        note: str = "",
    ) -> None:
        """Adds one row.

        Args:
            name, characteristic, at, chance, reference, excluded, note: as in ``Value``. A row without a
                characteristic is about the whole image and enters no mean.
            found: the number with its resamples.
            mean_at: the ``at`` of the mean that it enters; None = none, as for what was given (unless that counts).
        """
        given = characteristic in self._given
        kind = GIVEN if given else ASSIGNED if self.subject.assigned and characteristic else ""
        if characteristic is None:
            mean_at = None
        said = sentence(kind, note, found.note)
        if given and not self.given_counts and name not in self.findings:
            mean_at = None
        estimate, in_mean = found.estimate, mean_at is not None
        value = Value(name, estimate, characteristic, dict(at), excluded, chance, reference, said, in_mean)
        self._rows.append(_Row(value, found, mean_at))

    def undefined(self, name: str, characteristic: str, why: str, *, at: At = NOWHERE, excluded: int = 0) -> None:
        """Adds a row that has no number, and says why."""
        self.add(name, characteristic, missing(self.draws, why), at=at, mean_at=at, excluded=excluded)

    def values(self) -> tuple[Value, ...]:
        """The means, each before the rows of its name."""
        names = dict.fromkeys(row.value.name for row in self._rows)
        found: list[Value] = []
        for name in names:
            rows = [row for row in self._rows if row.value.name == name]
            found += self._means(name, rows)
            found += [row.value for row in rows]
        return tuple(found)

    def _means(self, name: str, rows: list[_Row]) -> list[Value]:
        groups: dict[tuple[tuple[str, str | int | float], ...], list[_Row]] = {}
        for row in rows:
            if row.mean_at is not None:
                groups.setdefault(tuple(sorted(row.mean_at.items())), []).append(row)
        if not groups and all(row.value.characteristic in self._given for row in rows):
            return [Value(name, missing(self.draws, "").estimate, note="every characteristic was given")]
        means = []
        for at, group in groups.items():
            mean = mean_over([row.found for row in group], self.level)
            value = mean_value(name, [row.value for row in group], mean.estimate)
            note = sentence(value.note, mean.note if mean.defined else _reason(group))
            means.append(replace(value, at=dict(at), note=note))
        return means


def _reason(group: list[_Row]) -> str:
    """Why none of the rows has a number, if it is the same for all."""
    reasons = {row.found.note for row in group}
    return reasons.pop() if len(reasons) == 1 else ""
