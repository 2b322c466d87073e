"""The rows of ``intervention``, from the numbers of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ccvae_eval.core.results import Method
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.evaluation.judge_scores import JUDGED_CLASS, JudgeReliability
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
from ccvae_eval.statistics.intervals import (
    Resampled,
    bootstrap_estimate,
    centred_and_basic,
    clopper_pearson,
    mean_over,
)
from ccvae_eval.statistics.resampling import ResampleWeights

SEEN = {"0": (0, 0), "1..9": (1, 9), "10..99": (10, 99), "100+": (100, np.inf)}
"""Numbers of training images with a combination of labels."""
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

    def add_unfairness(self, name: str, why: str) -> None:
        """Add ``unfairness`` of all other labels towards the label of ``--by``, and their mean."""
        subject, weights = self.reliability.subject, self.table.weights
        labels = [j for j in self.reliability.trusted if j != name]
        if why or not labels:
            self.add("unfairness", name, Undefined(why or self._no_judge or NO_OTHER_LABEL.reason))
            return
        now, then = (classes(name).numpy() for classes in (subject.current_class, subject.target_class))
        founds = []
        for j in labels:
            before = self.columns.get(NO_CHARACTERISTIC, f"{JUDGED_CLASS}{j}")
            found = unfairness(before, self.columns.get(name, f"do/class/{j}"), now, then, weights)
            founds.append(self.table.add("unfairness", name, found, {"judged": j}, mean_at=None))
        self.table.add("unfairness", name, mean_over(founds, weights.level))

    def add_together(self, count: int, targets: Mapping[str, Tensor], seen: Floats | None) -> None:
        """Add ``obeyed_together`` of the sets of ``count`` labels, also by the training images of each combination.

        Args:
            count: number of labels that were set.
            targets: class that each label was set to in each image, shape (N,); -1 = it was not set.
            seen: number of training images with the combination that each image is asked for; None if unknown.
        """
        classes = {name: target.numpy() for name, target in targets.items()}
        judged = np.all([(v < 0) | (name in self.reliability.trusted) for name, v in classes.items()], axis=0)
        usable = judged & np.any([v >= 0 for v in classes.values()], axis=0)

        def obeyed(start: str) -> Floats:
            hits = [(v < 0) | (self.columns.get(NO_CHARACTERISTIC, f"{start}{j}") == v) for j, v in classes.items()]
            return among(usable, np.all(hits, axis=0))

        after, before, at = obeyed(f"together/{count}/"), obeyed(JUDGED_CLASS), {"set": count}
        why = self._no_judge or ("" if usable.any() else "the judge recognises too few of the labels that were set")
        self.add("obeyed_together", None, unless(why, Proportion(after)), at, chance=mean_of(before))
        if why or seen is None:
            return
        for name, (least, most) in SEEN.items():
            inside = (seen >= least) & (seen <= most)
            self.add(
                "obeyed_together", None, Proportion(among(inside, after)), {**at, "seen": name},
                chance=mean_of(among(inside, before)), why="no image is asked for such a combination",
            )  # fmt: skip

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


def unfairness(before: Floats, after: Floats, now: Ids, then: Ids, weights: ResampleWeights) -> Resampled:
    r"""Total variation between the judged classes y and those after do(s = v), averaged over the classes v of s.

    .. math:: \frac1{|S|} \sum_v \frac12 \sum_y |p(y) - p(y | do(s = v))|

    An image of class v stays as it is. Any other image stands for v if it was edited to v, and counts once for each of
    the |S| - 1 classes that it could have been edited to.

    Args:
        before, after: judged class of each image before and after its edit, shape (N,).
        now, then: class of s of each image, and the class it was edited to, shape (N,); -1 = unknown.
        weights: the run's resamples.

    >>> from ccvae_eval.statistics.resampling import ResampleWeights
    >>> now, same, weights = np.arange(40) % 2, np.arange(40) // 2 % 2 * 1.0, ResampleWeights(0, 40)
    >>> unfairness(same, same, now, 1 - now, weights).value, unfairness(same, 1.0 * now, now, 1 - now, weights).value
    (0.0, 0.25)
    """
    known = (now >= 0) & (then >= 0)
    classes, outcomes = np.unique(now[known]), np.unique(np.concatenate([before[known], after[known]]))
    parts = [before[:, None] == outcomes]
    for v in classes:
        own, edited = (now == v)[:, None], (len(classes) - 1) * (then == v)[:, None]
        parts += [own * parts[0] + edited * (after[:, None] == outcomes), own + edited]
    parts.append(np.ones((len(now), 1)))
    table = np.where(known[:, None], np.concatenate(parts, axis=1).astype(np.float64), np.nan)
    size = len(outcomes)

    def statistic(totals: Floats) -> Floats:
        distance, everyone = np.zeros(len(totals)), totals[:, :size] / totals[:, -1:]
        for k in range(len(classes)):
            first = size + k * (size + 1)
            done = totals[:, first : first + size] / totals[:, first + size, None]
            distance += np.abs(everyone - done).sum(axis=1) / 2
        return distance / len(classes)

    found = centred_and_basic(bootstrap_estimate(statistic, table, weights, basic=True), weights.level, most=1.0)
    if found.defined and not (before != after)[known].any():
        # the distance is at most the share of images whose class changes, of which none was seen
        high = clopper_pearson(0, found.estimate.n, weights.level).high
        return replace(found, estimate=replace(found.estimate, low=0.0, high=high, method=Method.EXACT))
    return found
