"""From the numbers of each image to the rows of the metric intervention.

Assignments of several labels at once: how they are written and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ccvae_eval.core.errors import UsageError, suggestion
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.evaluation.judge_scores import JudgeReliability
from ccvae_eval.evaluation.result_table import (
    NOWHERE,
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
"""(label, class index) of each."""


def assignment_of(text: str, subject: Subject) -> Assignment:
    """Reads ``Male=1,Heavy_Makeup=0``: labels with the index or the name of a class.

    Raises:
        UsageError: an unknown label or class, a label without columns of its own, one that is named twice, or text
            of another form.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UsageError(f"{part!r} is no assignment", where="assign", hint="Write LABEL=CLASS,LABEL=CLASS.")
        label = subject.schema[name]
        if label.kind == "continuous":
            raise UsageError(f"label {name!r} is continuous and has no classes", where="assign")
        if name not in subject.layout.characteristics:
            raise UsageError(
                f"no columns belong to label {name!r}",
                where="assign",
                hint=suggestion(name, subject.layout.characteristics),
            )
        if name in found:
            raise UsageError(f"label {name!r} is assigned twice", where="assign")
        classes = [label.class_name(index) for index in range(label.cardinality)]
        if value in classes:
            found[name] = classes.index(value)
        elif value.isdigit() and int(value) < len(classes):
            found[name] = int(value)
        else:
            raise UsageError(f"{value!r} is no class of {name!r}", where="assign", hint=suggestion(value, classes))
    return tuple(found.items())


def text_of(assignment: Assignment, subject: Subject) -> str:
    """An assignment as :func:`assignment_of` reads it: 0 and 1 for a binary label, else the name of the class."""
    schema = subject.schema
    named = {n: str(v) if schema[n].kind == "binary" else schema[n].class_name(v) for n, v in assignment}
    return ",".join(f"{name}={value}" for name, value in named.items())


NO_ASSIGNMENT = ""
"""Under this name stands what belongs to no characteristic."""

INSIDE, OUTSIDE = {"where": "inside"}, {"where": "outside"}


@dataclass
class JudgedChanges:
    """Columns of numbers, one of each image, by characteristic and key; NaN where an image has none."""

    images: int
    columns: dict[str, dict[str, Floats]] = field(default_factory=dict)

    def put(self, name: str, rows: slice | Ids, found: Mapping[str, Floats]) -> None:
        for key, column in found.items():
            self.columns.setdefault(name, {}).setdefault(key, np.full(self.images, np.nan))[rows] = column

    def __contains__(self, place: tuple[str, str]) -> bool:
        return place[1] in self.columns.get(place[0], {})

    def get(self, name: str, key: str) -> Floats:
        return self.columns.get(name, {}).get(key, np.full(self.images, np.nan))

    def keys(self, name: str, start: str) -> list[str]:
        """What follows ``start`` in the keys that begin with it."""
        return [key.removeprefix(start) for key in self.columns.get(name, {}) if key.startswith(start)]


@dataclass(frozen=True)
class InterventionRows:
    """Enters the values of one measurement into its tally."""

    tally: ResultTable
    seen: JudgedChanges
    agreement: JudgeReliability

    def enter(
        self, value: str, name: str | None, what: ImageStatistic | str, at: At = NOWHERE, *, chance: float | None = None,
        why: str = "", alone: bool = False,
    ) -> None:  # fmt: skip
        """One row; ``alone``: it enters no mean over characteristics, else that with the same ``at``."""
        mean_at = None if alone else at
        self.tally.add(value, name, what, at, mean_at=mean_at, chance=chance, why=why)

    def judged(self, name: str, no_do: str) -> None:
        """``effect``, ``kept`` and ``change`` of one characteristic."""
        why = no_do or self.agreement.why_not(name)
        applies: Bools = self.seen.get(name, "do/applies") == 1
        effect, before = (among(applies, self.seen.get(name, key)) for key in ("effect", "effect before"))
        chance = mean_of(before, ~np.isnan(before))
        self.enter("effect", name, why or Proportion(effect), chance=chance)
        change = Mean(among(applies, self.seen.get(name, f"do/change/{name}")))
        self.enter("change", name, why or change, chance=0.0)
        self.others(name, "do", applies, no_do or ("needs a judge" if self.tally.subject.judge is None else ""))

    def others(self, name: str | None, prefix: str, applies: Bools, why: str, at: At = NOWHERE) -> None:
        """``kept`` of every other label, and ``change``: what the judge sees of them before and after."""
        whose = NO_ASSIGNMENT if name is None else name
        if why:
            self.enter("kept", name, why, at)
            return
        left_out = {name, *(self.seen.keys(NO_ASSIGNMENT, "obeyed/") if prefix == "assigned" else ())}
        labels = [j for j in self.agreement.trusted if j not in left_out]
        columns = {j: among(applies, self.seen.get(whose, f"{prefix}/kept/{j}")) for j in labels}
        every = np.mean(list(columns.values()), axis=0) if columns else None
        alike = {j: self.agreement.alike(j) for j in labels}
        chance = float(np.mean(list(alike.values()))) if labels else None
        what = "there is no label that should stay" if every is None else MeanProportion(every)
        self.enter("kept", name, what, at, chance=chance)
        for j, column in columns.items():
            self.enter("kept", name, Proportion(column), {**at, "judged": j}, chance=alike[j], alone=True)
            change = among(applies, self.seen.get(whose, f"{prefix}/change/{j}"))
            self.enter("change", name, Mean(change), {**at, "judged": j}, chance=0.0, alone=True)

    def swaps(self, name: str, no_swap: str, no_region: str) -> None:
        """``transfer``, ``identity`` and ``fidelity`` of one characteristic."""
        applies: Bools = self.seen.get(name, "swap/applies") == 1
        why = no_swap or self.agreement.why_not(name)
        transfer = MeanProportion(among(applies, self.seen.get(name, "transfer")), least=-1.0)
        self.enter("transfer", name, why or transfer, chance=0.0)
        empty = "the region is empty or too large in every image"
        identity = Mean(among(applies, self.seen.get(name, "identity")))
        chance = self._before(name, "identity", applies)
        self.enter("identity", name, no_swap or no_region or identity, chance=chance, why=empty)
        unknown = "" if (name, "fidelity") in self.seen else "the data cannot draw another variety"
        fidelity = Mean(among(applies, self.seen.get(name, "fidelity")))
        chance = self._before(name, "fidelity", applies)
        self.enter("fidelity", name, no_swap or no_region or unknown or fidelity, chance=chance, why=empty)

    def truths(self, name: str, no_do: str, no_region: str) -> None:
        """``error`` and ``energy`` of one characteristic, beside the data's own drawings."""
        for at in (INSIDE, OUTSIDE):
            key = f"error/{at['where']}"
            unknown = "" if (name, key) in self.seen else "the data cannot draw it without"
            before = self.seen.get(name, f"error before/{at['where']}")
            what = no_do or no_region or unknown or Mean(self.seen.get(name, key))
            self.enter("error", name, what, at, chance=mean_of(before, ~np.isnan(before)))
        unknown = "" if (name, "energy") in self.seen else "the data cannot re-draw a variety, or there is no p(z_c|y)"
        chance = self._before(name, "energy")
        self.enter("energy", name, no_region or unknown or Mean(self.seen.get(name, "energy")), chance=chance)

    def _before(self, name: str, value: str, images: Bools | None = None) -> float | None:
        """What a value is with the null's image in the place of the edited one, mean over some images or over all."""
        before = self.seen.get(name, f"{value} before")
        known: Bools = ~np.isnan(before)
        return mean_of(before, known if images is None else known & images)

    def axioms(self, names: Sequence[str], no_do: Mapping[str, str], repeats: Sequence[int]) -> None:
        """``composition`` and ``reversibility``."""
        another = self.seen.get(NO_ASSIGNMENT, "another")
        chance = mean_of(another, ~np.isnan(another))
        for m in repeats:
            at: At = {"m": m}
            self.enter(
                "composition",
                None,
                Mean(self.seen.get(NO_ASSIGNMENT, f"composition/{m}")),
                at,
                chance=chance,
                why="no image",
            )
        for name in names:
            for m in repeats:
                gone = Mean(self.seen.get(name, f"reversibility/{m}"))
                self.enter("reversibility", name, no_do[name] or gone, {"m": m}, chance=chance, why="no image")

    def assignment(self, text: str, names: Sequence[str]) -> None:
        """``obeyed`` of each label of an assignment and of all together, and ``kept`` of the others."""
        at: At = {"do": text}
        every = np.ones(self.seen.images, bool)
        for name in names:
            before = self.seen.get(NO_ASSIGNMENT, f"obeyed before/{name}")
            why = self.agreement.why_not(name)
            what = Proportion(self.seen.get(NO_ASSIGNMENT, f"obeyed/{name}"))
            self.enter("obeyed", name, why or what, at, chance=mean_of(before, ~np.isnan(before)), alone=True)
        why = next((f"{name}: {why}" for name in names if (why := self.agreement.why_not(name))), "")
        together, before = self.all_of("obeyed", names), self.all_of("obeyed before", names)
        chance = mean_of(before, ~np.isnan(before))
        self.enter("obeyed", None, why or Proportion(together), at, chance=chance)
        self.others(None, "assigned", every, "needs a judge" if self.tally.subject.judge is None else "", at)

    def all_of(self, start: str, names: Sequence[str]) -> Floats:
        """Whether the judge sees all of an assignment, 1 or 0."""
        columns: Floats = np.stack([self.seen.get(NO_ASSIGNMENT, f"{start}/{name}") for name in names])
        return np.where(np.isnan(columns).any(0), np.nan, columns.all(0))
