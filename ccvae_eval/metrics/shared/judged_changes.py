"""Assignments of labels, per-image columns of judged and pixel-wise changes, and the rows of ``intervention``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.evaluation.judge_scores import JudgeReliability
from ccvae_eval.evaluation.result_table import (
    NO_CONDITION,
    At,
    ImageStatistic,
    Mean,
    MeanProportion,
    Proportion,
    ResultTable,
    among,
    mean_of,
)
from ccvae_eval.evaluation.subject import Subject

Assignment = tuple[tuple[str, int], ...]
"""Pairs of a label and a class index."""

NO_CHARACTERISTIC = ""
"""Name under which a :class:`ColumnStore` keeps columns that belong to no single characteristic."""

INSIDE, OUTSIDE = {"where": "inside"}, {"where": "outside"}
NO_REGION = "the region is empty or too large in every image"


def assignment_of(text: str, subject: Subject) -> Assignment:
    """Parse ``Male=1,Heavy_Makeup=0``; a class is given by its index or its name.

    Raises:
        UsageError: if a label or class is unknown, if a label is continuous, is assigned twice or has no latent
            dimensions, or if the text has another form.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            hint = "Write LABEL=CLASS,LABEL=CLASS."
            raise UsageError(f"an assignment must have the form LABEL=CLASS, got {part!r}", where="assign", hint=hint)
        label = subject.schema[name]
        if label.kind == "continuous":
            raise UsageError(f"label {name!r} is continuous and has no classes", where="assign")
        if name not in subject.layout.characteristics:
            hint = suggestion(name, subject.layout.characteristics)
            raise UsageError(f"label {name!r} has no latent dimensions", where="assign", hint=hint)
        if name in found:
            raise UsageError(f"label {name!r} is assigned twice", where="assign")
        classes = [label.class_name(index) for index in range(label.cardinality)]
        if value in classes:
            found[name] = classes.index(value)
        elif value.isdigit() and int(value) < len(classes):
            found[name] = int(value)
        else:
            raise UsageError(f"label {name!r} has no class {value!r}", where="assign", hint=suggestion(value, classes))
    return tuple(found.items())


def assignment_text(assignment: Assignment, subject: Subject) -> str:
    """Format an assignment as :func:`assignment_of` parses it: 0 or 1 for a binary label, else the class name."""
    schema = subject.schema
    named = {n: str(v) if schema[n].kind == "binary" else schema[n].class_name(v) for n, v in assignment}
    return ",".join(f"{name}={value}" for name, value in named.items())


@dataclass
class ColumnStore:
    """Columns of one number per image, by characteristic and key; NaN where an image has no number.

    Args:
        images: number of images.
        columns: column of each key, by characteristic.
    """

    images: int
    columns: dict[str, dict[str, Floats]] = field(default_factory=dict)

    def put(self, name: str, rows: slice | Ids, found: Mapping[str, Floats]) -> None:
        for key, column in found.items():
            self.columns.setdefault(name, {}).setdefault(key, np.full(self.images, np.nan))[rows] = column

    def __contains__(self, address: tuple[str, str]) -> bool:
        return address[1] in self.columns.get(address[0], {})

    def get(self, name: str, key: str) -> Floats:
        """Return a column, all NaN if it was never filled."""
        return self.columns.get(name, {}).get(key, np.full(self.images, np.nan))

    def keys(self, name: str, start: str) -> list[str]:
        """Return the keys that begin with ``start``, without it."""
        return [key.removeprefix(start) for key in self.columns.get(name, {}) if key.startswith(start)]


@dataclass(frozen=True)
class InterventionRows:
    """Adds the values of ``intervention`` to a result table.

    Args:
        table: receives the rows.
        columns: the numbers of each image.
        reliability: of the judge on this model's reconstructions.
    """

    table: ResultTable
    columns: ColumnStore
    reliability: JudgeReliability

    def add(
        self, value: str, name: str | None, what: ImageStatistic | str, at: At = NO_CONDITION, *,
        chance: float | None = None, why: str = "", in_mean: bool = True,
    ) -> None:  # fmt: skip
        """Add one row; with ``in_mean`` it enters the mean over characteristics at the same ``at``."""
        self.table.add(value, name, what, at, mean_at=at if in_mean else None, chance=chance, why=why)

    @property
    def _no_judge(self) -> str:
        return "needs a judge" if self.table.subject.judge is None else ""

    def add_judged(self, name: str, no_do: str) -> None:
        """Add ``effect``, ``kept`` and ``change`` of one characteristic."""
        why = no_do or self.reliability.why_not(name)
        applies: Bools = self.columns.get(name, "do/applies") == 1
        effect, before = (among(applies, self.columns.get(name, key)) for key in ("effect", "effect before"))
        chance = mean_of(before, ~np.isnan(before))
        self.add("effect", name, why or Proportion(effect), chance=chance)
        change = Mean(among(applies, self.columns.get(name, f"do/change/{name}")))
        self.add("change", name, why or change, chance=0.0)
        self.add_others(name, "do", applies, no_do or self._no_judge)

    def add_others(self, name: str | None, prefix: str, applies: Bools, why: str, at: At = NO_CONDITION) -> None:
        """Add ``kept`` and ``change`` of all other labels, from the judge's outputs before and after."""
        store = NO_CHARACTERISTIC if name is None else name
        if why:
            self.add("kept", name, why, at)
            return
        left_out = {name, *(self.columns.keys(NO_CHARACTERISTIC, "obeyed/") if prefix == "assigned" else ())}
        labels = [j for j in self.reliability.trusted if j not in left_out]
        kept = {j: among(applies, self.columns.get(store, f"{prefix}/kept/{j}")) for j in labels}
        mean = np.mean(list(kept.values()), axis=0) if kept else None
        alike = {j: self.reliability.same_class_rate(j) for j in labels}
        chance = float(np.mean(list(alike.values()))) if labels else None
        what = "there is no other label to compare" if mean is None else MeanProportion(mean)
        self.add("kept", name, what, at, chance=chance)
        for j, column in kept.items():
            self.add("kept", name, Proportion(column), {**at, "judged": j}, chance=alike[j], in_mean=False)
            change = among(applies, self.columns.get(store, f"{prefix}/change/{j}"))
            self.add("change", name, Mean(change), {**at, "judged": j}, chance=0.0, in_mean=False)

    def add_swaps(self, name: str, no_swap: str, no_region: str) -> None:
        """Add ``transfer``, ``identity`` and ``fidelity`` of one characteristic."""
        applies: Bools = self.columns.get(name, "swap/applies") == 1
        why = no_swap or self.reliability.why_not(name)
        transfer = MeanProportion(among(applies, self.columns.get(name, "transfer")), least=-1.0)
        self.add("transfer", name, why or transfer, chance=0.0)
        identity = Mean(among(applies, self.columns.get(name, "identity")))
        chance = self._before(name, "identity", applies)
        self.add("identity", name, no_swap or no_region or identity, chance=chance, why=NO_REGION)
        unknown = "" if (name, "fidelity") in self.columns else "the data set cannot render another variety"
        fidelity = Mean(among(applies, self.columns.get(name, "fidelity")))
        chance = self._before(name, "fidelity", applies)
        self.add("fidelity", name, no_swap or no_region or unknown or fidelity, chance=chance, why=NO_REGION)

    def add_ground_truth(self, name: str, no_do: str, no_region: str) -> None:
        """Add ``error`` and ``energy`` of one characteristic, against images that the data set renders."""
        for at in (INSIDE, OUTSIDE):
            key = f"error/{at['where']}"
            unknown = "" if (name, key) in self.columns else "the data set cannot render images without the attribute"
            before = self.columns.get(name, f"error before/{at['where']}")
            what = no_do or no_region or unknown or Mean(self.columns.get(name, key))
            self.add("error", name, what, at, chance=mean_of(before, ~np.isnan(before)))
        known = (name, "energy") in self.columns
        unknown = "" if known else "the data set cannot redraw a variety, or the model has no p(z_c|y)"
        chance = self._before(name, "energy")
        self.add("energy", name, no_region or unknown or Mean(self.columns.get(name, "energy")), chance=chance)

    def _before(self, name: str, value: str, images: Bools | None = None) -> float | None:
        """Return a value's chance level: its mean where the null's image takes the place of the edited one."""
        before = self.columns.get(name, f"{value} before")
        known: Bools = ~np.isnan(before)
        return mean_of(before, known if images is None else known & images)

    def add_axioms(self, names: Sequence[str], no_do: Mapping[str, str], repeats: Sequence[int]) -> None:
        """Add ``composition`` and ``reversibility``."""
        another = self.columns.get(NO_CHARACTERISTIC, "another")
        chance = mean_of(another, ~np.isnan(another))
        for m in repeats:
            composition = Mean(self.columns.get(NO_CHARACTERISTIC, f"composition/{m}"))
            self.add("composition", None, composition, {"m": m}, chance=chance, why="no image")
        for name in names:
            for m in repeats:
                reversibility = Mean(self.columns.get(name, f"reversibility/{m}"))
                what = no_do[name] or reversibility
                self.add("reversibility", name, what, {"m": m}, chance=chance, why="no image")

    def add_assignment(self, text: str, names: Sequence[str]) -> None:
        """Add ``obeyed`` of each label of an assignment and of all together, and ``kept`` of the other labels."""
        at: At = {"do": text}
        for name in names:
            before = self.columns.get(NO_CHARACTERISTIC, f"obeyed before/{name}")
            why = self.reliability.why_not(name)
            what = Proportion(self.columns.get(NO_CHARACTERISTIC, f"obeyed/{name}"))
            self.add("obeyed", name, why or what, at, chance=mean_of(before, ~np.isnan(before)), in_mean=False)
        why = next((f"{name}: {why}" for name in names if (why := self.reliability.why_not(name))), "")
        together, before = self._all_of("obeyed", names), self._all_of("obeyed before", names)
        chance = mean_of(before, ~np.isnan(before))
        self.add("obeyed", None, why or Proportion(together), at, chance=chance)
        self.add_others(None, "assigned", np.ones(self.columns.images, bool), self._no_judge, at)

    def _all_of(self, start: str, names: Sequence[str]) -> Floats:
        """Return 1 where the judge sees every label of an assignment, 0 elsewhere, NaN where one is unknown."""
        columns: Floats = np.stack([self.columns.get(NO_CHARACTERISTIC, f"{start}/{name}") for name in names])
        return np.where(np.isnan(columns).any(0), np.nan, columns.all(0))
