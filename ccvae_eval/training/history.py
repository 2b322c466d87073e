"""Means of terms over many batches, and history.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import atomic_write
from ccvae_eval.core.types import Plain
from ccvae_eval.model.interface import Objective

LEADING = ("split", "epoch", "step", "seconds")


def terms_of(objective: Objective) -> dict[str, float]:
    """An objective's terms and its loss, under the name of the objective unless that is "model"."""
    prefix = "" if objective.name == "model" else f"{objective.name}."
    return {f"{prefix}{name}": value for name, value in {"loss": objective.loss.item(), **objective.terms}.items()}


@dataclass
class Averages:
    """Means over rows, not over batches: a term "a.b" counts as often as "a.rows" says, else as the batch has rows.

    >>> averages = Averages()
    >>> averages.add({"loss": 1.0, "supervised.rows": 1, "supervised.value": 3.0}, 4)
    >>> averages.add({"loss": 2.0, "supervised.rows": 3, "supervised.value": 5.0}, 4)
    >>> averages.means()
    {'loss': 1.5, 'supervised.rows': 4.0, 'supervised.value': 4.5}
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, terms: Mapping[str, float], rows: int) -> None:
        for name, value in terms.items():
            group, _, last = name.rpartition(".")
            weight = 1 if last == "rows" else terms.get(f"{group}.rows", rows)
            if weight:
                self.sums[name] = self.sums.get(name, 0.0) + value * weight
                self.counts[name] = self.counts.get(name, 0.0) + weight
            else:
                self.sums.setdefault(name, 0.0)

    def means(self) -> dict[str, float]:
        """The mean of each term, the sum of each "rows"; NaN where no row had the term."""
        return {
            name: total if name.endswith(".rows") else total / self.counts[name] if name in self.counts else math.nan
            for name, total in self.sums.items()
        }

    def as_plain(self) -> Plain:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    @classmethod
    def from_plain(cls, plain: Plain) -> Averages:
        return cls(dict(plain["sums"]), dict(plain["counts"]))


@dataclass
class History:
    """Rows of history.csv: the means of one epoch on the training or on the held-out part."""

    rows: list[dict[str, Plain]] = field(default_factory=list)

    def add(self, split: str, epoch: int, step: int, seconds: float, terms: Mapping[str, float]) -> None:
        """Adds a row; one that an unfinished epoch left is replaced."""
        self.rows = [row for row in self.rows if (row["split"], row["epoch"]) != (split, epoch)]
        leading = {"split": split, "epoch": epoch, "step": step, "seconds": round(seconds, 3)}
        finite = {name: value if math.isfinite(value) else None for name, value in terms.items()}
        self.rows.append({**leading, **finite})

    def text(self) -> str:
        """The rows as CSV; a value that does not exist is empty."""
        names = dict.fromkeys([*LEADING, *(name for row in self.rows for name in row)])
        out = io.StringIO()
        writer = csv.DictWriter(out, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()

    def write(self, path: Path) -> None:
        """Replaces the file in one step."""
        atomic_write(path, self.text().encode())

    @classmethod
    def read(cls, path: Path, steps: int) -> History:
        """The rows of a file up to a number of steps: later ones belong to work that was lost.

        Raises:
            InputError: the file is no history.
        """
        if not path.exists():
            return cls()
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [_typed(row) for row in csv.DictReader(file)]
            return cls([row for row in rows if row["step"] <= steps])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("not the history of a training", where=str(path), why=repr(error)) from None


def _typed(row: Mapping[str, str]) -> dict[str, Plain]:
    terms = {name: float(text) if text else None for name, text in row.items() if name not in LEADING}
    return {
        "split": row["split"],
        "epoch": int(row["epoch"]),
        "step": int(row["step"]),
        "seconds": float(row["seconds"]),
        **terms,
    }
