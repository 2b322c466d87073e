"""From a score with its parts and their draws to the rows of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ccvae_eval.measure import Estimate, Value
from ccvae_eval.metrics.disentanglement.gaps import Parts
from ccvae_eval.statistics.intervals import Resampled, mean_over, missing, resampled
from ccvae_eval.statistics.subsampling import subsampled
from ccvae_eval.types import Floats

CODE = "code"
"""What ``at`` calls a row of one code."""

Method = Literal["subsampling", "conditional"]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """How a score moves when the rows are drawn again.

    Args:
        parts: the draws, a leading axis of samples.
        method: subsamples without replacement, or bootstrap weights on held-out rows of one fit.
        size: rows of a subsample.
        note: why there are none.
        bias_rate: the power of the rows by which the score's bias falls: subsamples show it, and it is drawn out by it.
    """

    parts: Parts | None
    method: Method = "conditional"
    size: int = 0
    note: str = ""
    bias_rate: float | None = None


NO_DRAWS = Drawn(None)


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One score.

    Args:
        name: of the value.
        point: the score and its parts, without leading axes.
        n: rows that entered.
        drawn: for intervals.
        chance: what permuted factors give, the same parts; or None where the score has no chance level.
        why: the reason, where the total is undefined.
        note: what must be said beside it.
        at: what else it depends on.
        interval: of the total, where it is known otherwise (Wilson's, of votes).
        counted: of each factor its own estimate, where it is a mean of shares and goes by counts; the total's then too.
    """

    name: str
    point: Parts
    n: int
    drawn: Drawn = NO_DRAWS
    chance: Parts | None = None
    why: str = ""
    note: str = ""
    at: Mapping[str, str | int | float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    counted: tuple[Resampled, ...] = ()

    def values(self, factors: tuple[str, ...], codes: tuple[str, ...], level: float) -> list[Value]:
        """The total, then the row of each factor, then of each code."""
        whole = mean_over(self.counted, level) if self.counted else None
        rows = [self._value(self.point.total, self._of("total"), self._chance("total"), level, whole)]
        for kind, names in (("factors", factors), ("codes", codes)):
            numbers: Floats | None = getattr(self.point, kind)
            if numbers is None:
                continue
            draws, chances = self._of(kind), self._chance(kind)
            left_out = int(np.isnan(numbers).sum())
            rows[0] = replace(rows[0], excluded=left_out)
            for i, name in enumerate(names):
                row = self._value(
                    numbers[i],
                    None if draws is None else draws[..., i],
                    None if chances is None else chances[..., i],
                    level,
                    self.counted[i] if self.counted and kind == "factors" else None,
                )
                if kind == "factors":
                    rows.append(replace(row, characteristic=name))
                else:
                    rows.append(replace(row, at={**self.at, CODE: name}))
        return rows

    def _of(self, kind: str) -> Floats | None:
        return None if self.drawn.parts is None else getattr(self.drawn.parts, kind)

    def _chance(self, kind: str) -> Floats | None:
        return None if self.chance is None else getattr(self.chance, kind)

    def _value(
        self, number: Floats, draws: Floats | None, chance: Floats | None, level: float, known: Resampled | None = None
    ) -> Value:
        found = self._resampled(float(number), draws, level, known)
        if not found.defined:
            return Value(self.name, found.estimate, at=dict(self.at), note=self.why or "undefined on these rows")
        usual = None if chance is None else float(np.nanmean(chance)) if not np.isnan(chance).all() else None
        note = "; ".join(part for part in (self.note, found.note, self.drawn.note) if part)
        return Value(self.name, found.estimate, at=dict(self.at), chance=usual, note=note)

    def _resampled(self, number: float, draws: Floats | None, level: float, known: Resampled | None) -> Resampled:
        if np.isnan(number):
            return missing(1, self.why, self.n)
        if self.interval is not None:
            low, high = self.interval
            return Resampled(Estimate(number, low, high, self.n, "of the votes"), np.full(1, np.nan))
        if draws is None:
            return Resampled(replace(missing(1, "", self.n).estimate, value=number), np.full(1, np.nan))
        if self.drawn.method == "subsampling":
            return subsampled(number, draws, self.drawn.size, self.n, level, bias_rate=self.drawn.bias_rate)
        found = known or resampled(number, draws, self.n, level)
        method = f"{found.estimate.method}, conditional on the fit" if found.estimate.method else ""
        return replace(found, estimate=replace(found.estimate, method=method))


def undefined_finding(name: str, why: str, n: int = 0, at: Mapping[str, str | int | float] | None = None) -> Finding:
    """A score that does not exist here."""
    return Finding(name, Parts(np.asarray(np.nan)), n, why=why, at=at or {})
