"""The rows of ``intervention``, from the numbers of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.types import Bools
from ccvae_eval.evaluation.judge_scores import JudgeReliability
from ccvae_eval.evaluation.result_table import (
    NO_CHARACTERISTIC,
    NO_CONDITION,
    NO_JUDGE,
    NO_OTHER_LABEL,
    NO_REGION,
    At,
    ColumnStore,
    ImageStatistic,
    Mean,
    MeanProportion,
    Proportion,
    ResultTable,
    Undefined,
    among,
    mean_of,
    unless,
)
from ccvae_eval.metrics.shared.assignments import add_obeyed
from ccvae_eval.statistics.auc import spearman_estimate

CONSTANT_VALUE = "the judged value is the same in every image"
INSIDE, OUTSIDE = {"where": "inside"}, {"where": "outside"}


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
        self, value: str, name: str | None, what: ImageStatistic | Undefined, at: At = NO_CONDITION, *,
        chance: float | None = None, why: str = "", in_mean: bool = True,
    ) -> None:  # fmt: skip
        """Add one row; with ``in_mean`` it enters the mean over characteristics at the same ``at``."""
        self.table.add(value, name, what, at, mean_at=at if in_mean else None, chance=chance, why=why)

    @property
    def _no_judge(self) -> str:
        return NO_JUDGE if self.reliability.subject.judge is None else ""

    def add_judged(self, name: str, no_do: str) -> None:
        """Add ``effect``, ``obeyed_rank``, ``kept`` and ``change`` of one characteristic."""
        why = no_do or self.reliability.why_not(name)
        applies: Bools = self.columns.get(name, "do/applies") == 1
        effect, before = (among(applies, self.columns.get(name, key)) for key in ("effect", "effect before"))
        self.add("effect", name, unless(why, Proportion(effect)), chance=mean_of(before))
        change = Mean(among(applies, self.columns.get(name, f"do/change/{name}")))
        self.add("change", name, unless(why, change), chance=0.0)
        self._add_obeyed_rank(name, applies, why)
        self.add_others(name, "do", applies, no_do or self._no_judge)

    def _add_obeyed_rank(self, name: str, applies: Bools, why: str) -> None:
        """Add the rank correlation of the values that a continuous label was set to and the judged ones."""
        if self.reliability.subject.schema[name].kind != "continuous":
            return
        asked, after, before = (
            among(applies, self.columns.get(name, key)) for key in ("asked value", "value", "value before")
        )
        weights = self.table.weights
        found = spearman_estimate(after, asked, weights)
        unedited = spearman_estimate(before, asked, weights).estimate
        chance = unedited.value if unedited.defined else None
        self.table.add("obeyed_rank", name, unless(why, found), chance=chance, why=CONSTANT_VALUE)

    def add_others(self, name: str | None, prefix: str, applies: Bools, why: str, at: At = NO_CONDITION) -> None:
        """Add ``kept`` and ``change`` of all other labels, from the judge's outputs before and after."""
        store = NO_CHARACTERISTIC if name is None else name
        if why:
            self.add("kept", name, Undefined(why), at)
            return
        left_out = {name, *(self.columns.under(NO_CHARACTERISTIC, "obeyed/") if prefix == "assigned" else ())}
        labels = [j for j in self.reliability.trusted if j not in left_out]
        kept = {j: among(applies, self.columns.get(store, f"{prefix}/kept/{j}")) for j in labels}
        alike = {j: self.reliability.same_class_rate(j) for j in labels}
        chance = float(np.mean(list(alike.values()))) if labels else None
        mean = MeanProportion(np.mean(list(kept.values()), axis=0)) if kept else NO_OTHER_LABEL
        self.add("kept", name, mean, at, chance=chance)
        for j, column in kept.items():
            self.add("kept", name, Proportion(column), {**at, "judged": j}, chance=alike[j], in_mean=False)
            change = among(applies, self.columns.get(store, f"{prefix}/change/{j}"))
            self.add("change", name, Mean(change), {**at, "judged": j}, chance=0.0, in_mean=False)

    def add_swaps(self, name: str, no_swap: str, no_region: str) -> None:
        """Add ``transfer``, ``identity`` and ``fidelity`` of one characteristic."""
        applies: Bools = self.columns.get(name, "swap/applies") == 1
        why = no_swap or self.reliability.why_not(name)
        transfer = MeanProportion(among(applies, self.columns.get(name, "transfer")), least=-1.0)
        self.add("transfer", name, unless(why, transfer), chance=0.0)
        unknown = "" if (name, "fidelity") in self.columns else "the data set cannot render another variety"
        for value, why in (("identity", no_swap or no_region), ("fidelity", no_swap or no_region or unknown)):
            found, before = (among(applies, self.columns.get(name, key)) for key in (value, f"{value} before"))
            self.add(value, name, unless(why, Mean(found)), chance=mean_of(before), why=NO_REGION)

    def add_ground_truth(self, name: str, no_do: str, no_region: str) -> None:
        """Add ``error`` and ``energy`` of one characteristic, against images that the data set renders."""
        for at in (INSIDE, OUTSIDE):
            key = f"error/{at['where']}"
            unknown = "" if (name, key) in self.columns else "the data set cannot render images without the attribute"
            before = self.columns.get(name, f"error before/{at['where']}")
            what = unless(no_do or no_region or unknown, Mean(self.columns.get(name, key)))
            self.add("error", name, what, at, chance=mean_of(before))
        known = (name, "energy") in self.columns
        unknown = "" if known else "the data set cannot redraw a variety, or the model has no p(z_c|y)"
        chance = mean_of(self.columns.get(name, "energy before"))
        energy = Mean(self.columns.get(name, "energy"))
        self.add("energy", name, unless(no_region or unknown, energy), chance=chance)

    def add_axioms(self, no_do: Mapping[str, str], repeats: Sequence[int]) -> None:
        """Add ``composition``, and ``reversibility`` of each characteristic, or the reason why it is undefined."""
        chance = mean_of(self.columns.get(NO_CHARACTERISTIC, "another"))
        for m in repeats:
            composition = Mean(self.columns.get(NO_CHARACTERISTIC, f"composition/{m}"))
            self.add("composition", None, composition, {"m": m}, chance=chance, why="no image")
        for name, why in no_do.items():
            for m in repeats:
                what = unless(why, Mean(self.columns.get(name, f"reversibility/{m}")))
                self.add("reversibility", name, what, {"m": m}, chance=chance, why="no image")

    def add_assignment(self, text: str, names: Sequence[str]) -> None:
        """Add ``obeyed`` of each label of an assignment and of all together, and ``kept`` of the other labels."""
        at: At = {"do": text}
        after, before = (
            {name: self.columns.get(NO_CHARACTERISTIC, f"{key}/{name}") for name in names}
            for key in ("obeyed", "obeyed before")
        )
        add_obeyed(self.table, self.reliability, at, after, before)
        self.add_others(None, "assigned", np.ones(self.columns.images, bool), self._no_judge, at)
